//! Lines read back from disk for a follower that resumes, until it has caught up with the live ones.

use super::chain::{Chain, Link, read_line};
use super::command::{Command, Mailbox};
use super::follow::FollowItem;
use super::hub::{Batch, Filter, Position, Queue};
use crate::core::ids::{Generation, PmId, Stream};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// A batch from disk is about so big, in bytes.
const BATCH_BYTES: usize = 64 << 10;
/// A line from disk is read up to this, in bytes: more than any line we write.
const LINE_BYTES: usize = 8 << 20;

/// The lines of one stream that are behind.
#[derive(Debug)]
pub(super) struct Backlog {
    pub instance: PmId,
    pub generation: Generation,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub stream: Stream,
    /// The first line wanted.
    pub from: u64,
    /// The number after the last one wanted.
    pub until: u64,
    pub chain: Chain,
}

/// The engine's answer to a follower that wants to catch up.
#[derive(Debug)]
pub(super) struct CatchUp {
    pub backlogs: Vec<Backlog>,
    /// Live lines go to its queue from the end of these backlogs on.
    pub live: bool,
}

/// The follower is gone.
struct Left;

/// Sends items to the follower; counts lines.
struct Sender {
    items: mpsc::Sender<FollowItem>,
}

impl Sender {
    /// Waits for room: this thread is the follower's own.
    fn send(&self, item: FollowItem) -> Result<(), Left> {
        self.items.blocking_send(item).map_err(|_| Left)
    }
}

/// Runs on a thread of its own: asks, reads and sends until the follower is live. Ends early when it has left.
pub(super) fn run(
    mailbox: &Mailbox,
    filter: Filter,
    mut positions: Vec<Position>,
    queue: Arc<Queue>,
    items: mpsc::Sender<FollowItem>,
) {
    let sender = Sender { items };
    loop {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        let ask = Command::CatchUp {
            filter: filter.clone(),
            positions: positions.clone(),
            queue: Arc::clone(&queue),
            reply,
        };
        let sent = mailbox.send(ask);
        let Some(CatchUp { backlogs, live }) = sent.ok().and_then(|()| answer.recv().ok()) else {
            return queue.close();
        };
        for backlog in &backlogs {
            if replay(backlog, &sender).is_err() {
                return;
            }
            for position in positions
                .iter_mut()
                .filter(|p| p.instance == backlog.instance && p.stream == backlog.stream)
            {
                position.after_seq = backlog.until - 1;
            }
        }
        if live || queue.left.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Sends one backlog; lines that are not on disk are told as missed, in their place.
fn replay(backlog: &Backlog, sender: &Sender) -> Result<(), Left> {
    let mut expected = backlog.from;
    for link in backlog.chain.links.iter().rev() {
        if let Err(error) = replay_file(backlog, link, &mut expected, sender)? {
            tracing::warn!(%error, "a log file could not be read back; its lines count as missed");
        }
    }
    if expected < backlog.until {
        sender.send(FollowItem::Missed(backlog.until - expected))?;
    }
    Ok(())
}

/// The lines of one file from number `expected` on.
fn replay_file(
    backlog: &Backlog,
    link: &Link,
    expected: &mut u64,
    sender: &Sender,
) -> Result<io::Result<()>, Left> {
    let marks = backlog.chain.marks_of(link.no);
    let ends = backlog.chain.ends(link.no);
    if marks.is_empty() || ends <= *expected {
        return Ok(Ok(()));
    }
    let begin = marks
        .partition_point(|mark| mark.seq <= *expected)
        .saturating_sub(1);
    let mut reader = match link.reader(marks[begin].offset) {
        Ok(reader) => reader,
        Err(error) => return Ok(Err(error)),
    };
    let (mut offset, mut seq, mut at_ms, mut next) = (
        marks[begin].offset,
        marks[begin].seq,
        marks[begin].at_ms,
        begin + 1,
    );
    let (mut text, mut line): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
    let mut first = seq;
    let flush = |text: &mut Vec<u8>, first: u64, end: u64, at_ms: u64| -> Result<(), Left> {
        if text.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            instance: backlog.instance,
            generation: backlog.generation,
            name: Arc::clone(&backlog.name),
            namespace: Arc::clone(&backlog.namespace),
            stream: backlog.stream,
            first_seq: first,
            count: end - first,
            at_ms,
            text: Bytes::from(std::mem::take(text)),
        };
        sender.send(FollowItem::Lines(Arc::new(batch)))
    };
    while seq < backlog.until {
        if let Some(mark) = marks.get(next).filter(|mark| mark.offset <= offset) {
            flush(&mut text, first, seq, at_ms)?;
            (seq, first, at_ms) = (mark.seq, mark.seq, mark.at_ms);
            next += 1;
            continue;
        }
        match read_line(&mut *reader, &mut line, LINE_BYTES) {
            Ok(0) => break,
            Ok(length) => offset += length as u64,
            Err(error) => {
                flush(&mut text, first, seq, at_ms)?;
                return Ok(Err(error));
            }
        }
        if seq >= *expected {
            if seq > *expected {
                sender.send(FollowItem::Missed(seq - *expected))?;
            }
            if text.is_empty() {
                first = seq;
            }
            text.extend_from_slice(&line);
            *expected = seq + 1;
        }
        seq += 1;
        if text.len() >= BATCH_BYTES {
            flush(&mut text, first, seq, at_ms)?;
        }
    }
    flush(&mut text, first, seq, at_ms)?;
    Ok(Ok(()))
}
