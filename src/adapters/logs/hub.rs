//! Live lines to followers: one bounded queue each; a slow one loses its oldest lines and learns how many.

use super::config::LogOptions;
use super::owners::Owner;
use crate::core::ids::{PmId, Stream};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Lines of one stream that were written together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose.
    pub instance: PmId,
    /// The app's name.
    pub name: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Which stream.
    pub stream: Stream,
    /// The number of the first line in its file, from 1 in the daemon's life; the others follow without a gap.
    pub first_seq: u64,
    /// How many lines.
    pub count: u64,
    /// When they were written, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The lines as in the file, each with its `\n`.
    pub text: Bytes,
}

/// Which lines a follower wants; what is `None` does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Any of these instances.
    pub instances: Option<Vec<PmId>>,
    /// An app of this name.
    pub name: Option<String>,
    /// A namespace.
    pub namespace: Option<String>,
    /// One stream only.
    pub stream: Option<Stream>,
}

/// The last line a follower knows of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Whose stream.
    pub instance: PmId,
    /// Which.
    pub stream: Stream,
    /// The number of the last known line; 0: all that is on disk from this daemon's life.
    pub after_seq: u64,
}

impl Filter {
    /// Whether it takes the lines of `owner`.
    pub(super) fn takes(&self, owner: &Owner) -> bool {
        self.stream.is_none_or(|wanted| wanted == owner.stream)
            && self
                .name
                .as_ref()
                .is_none_or(|wanted| **wanted == *owner.name)
            && self
                .namespace
                .as_ref()
                .is_none_or(|wanted| **wanted == *owner.namespace)
            && self
                .instances
                .as_ref()
                .is_none_or(|wanted| wanted.contains(&owner.instance))
    }
}

impl Batch {
    /// Lines of `owner`.
    pub(super) fn new(owner: &Owner, first_seq: u64, count: u64, at_ms: u64, text: Bytes) -> Self {
        let (name, namespace) = (Arc::clone(&owner.name), Arc::clone(&owner.namespace));
        let Owner {
            instance, stream, ..
        } = *owner;
        Self {
            instance,
            name,
            namespace,
            stream,
            first_seq,
            count,
            at_ms,
            text,
        }
    }
}

/// What a queue gives.
#[derive(Debug)]
pub(super) enum Taken {
    Batch(Arc<Batch>),
    Missed(u64),
    Empty,
    Closed,
}

/// One follower's queue. A lock and not a channel, because the sender must be able to drop the oldest.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Woken when there is something to take.
    pub filled: Notify,
    /// The follower is gone.
    pub left: AtomicBool,
    /// Lines lost by all queues.
    missed_total: Arc<AtomicU64>,
    most_bytes: usize,
    most_batches: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    missed: u64,
    closed: bool,
}

impl Queue {
    fn locked(&self) -> std::sync::MutexGuard<'_, QueueState> {
        // The state is whole between any two statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch; drops the oldest ones past the bounds, but never the newest.
    fn push(&self, batch: &Arc<Batch>) {
        let mut state = self.locked();
        state.bytes += batch.text.len();
        state.batches.push_back(Arc::clone(batch));
        while state.batches.len() > 1
            && (state.bytes > self.most_bytes || state.batches.len() > self.most_batches)
        {
            if let Some(oldest) = state.batches.pop_front() {
                state.bytes -= oldest.text.len();
                state.missed += oldest.count;
                self.missed_total.fetch_add(oldest.count, Ordering::Relaxed);
            }
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Takes what is first: the count of lost lines stands where they were.
    pub fn take(&self) -> Taken {
        let mut state = self.locked();
        if state.missed > 0 {
            return Taken::Missed(std::mem::take(&mut state.missed));
        }
        match state.batches.pop_front() {
            Some(batch) => {
                state.bytes -= batch.text.len();
                Taken::Batch(batch)
            }
            None if state.closed => Taken::Closed,
            None => Taken::Empty,
        }
    }

    /// No more lines will come.
    pub fn close(&self) {
        self.locked().closed = true;
        self.filled.notify_one();
    }
}

#[derive(Debug)]
struct Listener {
    filter: Filter,
    /// Streams that it reads from disk for now.
    except: Vec<(PmId, Stream)>,
    queue: Arc<Queue>,
}

impl Listener {
    fn takes(&self, owner: &Owner) -> bool {
        self.filter.takes(owner) && !self.except.contains(&(owner.instance, owner.stream))
    }
}

/// The followers. Owner: the engine thread.
#[derive(Debug)]
pub(super) struct Hub {
    followers: Vec<Listener>,
    pub missed_total: Arc<AtomicU64>,
}

impl Hub {
    pub fn new() -> Self {
        Self {
            followers: Vec::new(),
            missed_total: Arc::default(),
        }
    }

    /// Whether nobody listens: then no batch is made.
    pub fn is_empty(&self) -> bool {
        self.followers.is_empty()
    }

    /// How many listen.
    pub fn len(&mut self) -> usize {
        self.forget_left();
        self.followers.len()
    }

    /// A queue that gets what `filter` takes, but for some streams, from now on. It is put in its own place if it is known.
    pub fn add(&mut self, filter: Filter, except: Vec<(PmId, Stream)>, queue: Arc<Queue>) {
        self.forget_left();
        self.followers
            .retain(|known| !Arc::ptr_eq(&known.queue, &queue));
        self.followers.push(Listener {
            filter,
            except,
            queue,
        });
    }

    /// Whether somebody wants the lines of `owner`.
    pub fn wants(&mut self, owner: &Owner) -> bool {
        self.forget_left();
        self.followers.iter().any(|listener| listener.takes(owner))
    }

    /// Gives a batch of `owner` to all who want it.
    pub fn publish(&self, owner: &Owner, batch: &Arc<Batch>) {
        self.followers
            .iter()
            .filter(|listener| listener.takes(owner))
            .for_each(|listener| listener.queue.push(batch));
    }

    fn forget_left(&mut self) {
        self.followers
            .retain(|listener| !listener.queue.left.load(Ordering::Relaxed));
    }

    /// Tells every follower that it is over.
    pub fn close(&mut self) {
        for listener in self.followers.drain(..) {
            listener.queue.close();
        }
    }
}

/// A queue with the plane's bounds.
pub(super) fn new_queue(options: &LogOptions, missed_total: Arc<AtomicU64>) -> Arc<Queue> {
    Arc::new(Queue {
        state: Mutex::default(),
        filled: Notify::new(),
        left: AtomicBool::new(false),
        missed_total,
        most_bytes: options.follower_bytes.max(1),
        most_batches: options.follower_batches.max(1),
    })
}
