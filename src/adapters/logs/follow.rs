//! A follower: first what it has not seen yet, from disk, then live lines; no gap, no repeat, and every loss told.

use super::hub::{Batch, Queue, Taken};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// What a follower receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowItem {
    /// Lines.
    Lines(Arc<Batch>),
    /// So many lines were lost here: the follower was too slow, or they are no longer (or never were) on disk.
    Missed(u64),
}

/// Receives lines. Dropping it ends it.
#[derive(Debug)]
pub struct Follower {
    /// Lines from disk; `None` once they have all been taken.
    replay: Option<mpsc::Receiver<FollowItem>>,
    queue: Arc<Queue>,
}

impl Follower {
    pub(super) fn new(replay: Option<mpsc::Receiver<FollowItem>>, queue: Arc<Queue>) -> Self {
        Self { replay, queue }
    }

    /// The next lines; `None` when the plane has ended. A call that is dropped loses nothing.
    pub async fn recv(&mut self) -> Option<FollowItem> {
        if let Some(replay) = &mut self.replay {
            if let Some(item) = replay.recv().await {
                return Some(item);
            }
            self.replay = None;
        }
        loop {
            match self.queue.take() {
                Taken::Batch(batch) => return Some(FollowItem::Lines(batch)),
                Taken::Missed(lines) => return Some(FollowItem::Missed(lines)),
                Taken::Closed => return None,
                Taken::Empty => self.queue.filled.notified().await,
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.queue.left.store(true, Ordering::Relaxed);
    }
}
