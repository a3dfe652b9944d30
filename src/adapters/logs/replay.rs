//! Lines read back from disk for a follower that resumes, until it has caught up with the live ones.

use super::chain::{Chain, Link, read_line};
use super::command::{Command, Mailbox};
use super::follow::FollowItem;
use super::hub::{Batch, Filter, Position, Queue};
use super::owners::Owner;
use super::plane::LogError;
use crate::core::ids::{PmId, Stream};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// A batch from disk is about so big, in bytes.
const BATCH_BYTES: usize = 64 << 10;
/// A line from disk is read up to this, in bytes: more than any line we write.
const LINE_BYTES: usize = 8 << 20;

/// The lines of one file that are behind.
#[derive(Debug)]
pub(super) struct Backlog {
    /// The streams that write there and are asked for.
    pub streams: Vec<(PmId, Stream)>,
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
    /// Live lines of all streams go to its queue from the end of these backlogs on. While it is `false`, only those of streams
    /// without a position do.
    pub live: bool,
}

/// The follower is gone.
struct Left;

/// The answer to a question that is already in order among the plane's commands.
pub(super) type Asked = std::sync::mpsc::Receiver<CatchUp>;

/// Asks the engine what the follower has missed. From here on the lines of streams without a position go to its queue.
pub(super) fn ask(
    mailbox: &Mailbox,
    filter: &Filter,
    positions: &[Position],
    queue: &Arc<Queue>,
) -> Result<Asked, LogError> {
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    mailbox.send(Command::CatchUp {
        filter: filter.clone(),
        positions: positions.to_vec(),
        queue: Arc::clone(queue),
        reply,
    })?;
    Ok(answer)
}

/// Runs on a thread of its own: takes the answer, reads and sends, and asks again until the follower is live. Ends early when
/// it has left.
pub(super) fn run(
    mailbox: &Mailbox,
    filter: Filter,
    mut positions: Vec<Position>,
    first: Asked,
    queue: Arc<Queue>,
    items: mpsc::Sender<FollowItem>,
) {
    let mut asked = Ok(first);
    loop {
        let answer = asked.ok().and_then(|answer| answer.recv().ok());
        let Some(CatchUp { backlogs, live }) = answer else {
            return queue.close();
        };
        for backlog in &backlogs {
            let replay = Replay {
                backlog,
                filter: &filter,
                items: &items,
                expected: backlog.from,
                text: Vec::new(),
            };
            if replay.run().is_err() {
                return;
            }
            let done = |p: &&mut Position| backlog.streams.contains(&(p.instance, p.stream));
            positions
                .iter_mut()
                .filter(done)
                .for_each(|position| position.after_seq = backlog.until - 1);
        }
        if live || queue.left.load(Ordering::Relaxed) {
            return;
        }
        asked = ask(mailbox, &filter, &positions, &queue);
    }
}

/// One backlog on its way to the follower.
struct Replay<'a> {
    backlog: &'a Backlog,
    filter: &'a Filter,
    items: &'a mpsc::Sender<FollowItem>,
    /// Lines before this were told, as lines or as missed.
    expected: u64,
    /// Lines not sent yet: those just before `expected`.
    text: Vec<u8>,
}

impl Replay<'_> {
    /// Sends it all; lines that are not on disk are told as missed, in their place.
    fn run(mut self) -> Result<(), Left> {
        for link in self.backlog.chain.links.iter().rev() {
            if let Err(error) = self.file(link)? {
                tracing::warn!(%error, "a log file could not be read back; its lines count as missed");
            }
        }
        self.reach(self.backlog.until)
    }

    /// The lines of one file from number `expected` on. The outer error is the follower's, the inner one the disk's.
    fn file(&mut self, link: &Link) -> Result<io::Result<()>, Left> {
        let marks = self.backlog.chain.marks_of(link.no);
        let begin = marks
            .partition_point(|mark| mark.seq <= self.expected)
            .saturating_sub(1);
        let Some(mark) = marks
            .get(begin)
            .filter(|_| self.backlog.chain.ends(link.no) > self.expected)
        else {
            return Ok(Ok(()));
        };
        let mut reader = match link.reader(mark.offset) {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let (mut mark, mut seq, mut offset, mut next) = (mark, mark.seq, mark.offset, begin + 1);
        let (mut line, mut change) = (Vec::new(), 0);
        let (mut owner, mut first): (Option<&Arc<Owner>>, u64) = (None, seq);
        let mut failed = Ok(());
        while seq < self.backlog.until {
            if let Some(reached) = marks.get(next).filter(|mark| mark.offset <= offset) {
                self.send(owner, first, mark.at_ms)?;
                (mark, seq, next) = (reached, reached.seq, next + 1);
                continue;
            }
            if seq >= change {
                self.send(owner, first, mark.at_ms)?;
                owner = self.backlog.chain.owners.of(seq);
                change = self.backlog.chain.owners.next_change(seq);
            }
            match read_line(&mut *reader, &mut line, LINE_BYTES) {
                Ok(0) => break,
                Ok(length) => offset += length as u64,
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
            // A line whose owner is not known any more is passed over, and so counts as missed.
            if seq >= self.expected && owner.is_some() {
                self.reach(seq)?;
                if self.text.is_empty() {
                    first = seq;
                }
                if self.is_wanted(owner) {
                    self.text.extend_from_slice(&line);
                }
                self.expected = seq + 1;
            }
            seq += 1;
            if self.text.len() >= BATCH_BYTES {
                self.send(owner, first, mark.at_ms)?;
            }
        }
        self.send(owner, first, mark.at_ms)?;
        Ok(failed)
    }

    /// Goes on to line `seq`: what was wanted between was missed.
    fn reach(&mut self, seq: u64) -> Result<(), Left> {
        let mut missed = 0;
        while self.expected < seq {
            let owners = &self.backlog.chain.owners;
            let to = owners.next_change(self.expected).min(seq);
            let owner = owners.of(self.expected);
            if owner.is_none() || self.is_wanted(owner) {
                missed += to - self.expected;
            }
            self.expected = to;
        }
        if missed > 0 {
            self.give(FollowItem::Missed(missed))
        } else {
            Ok(())
        }
    }

    fn is_wanted(&self, owner: Option<&Arc<Owner>>) -> bool {
        owner.is_some_and(|owner| {
            self.backlog
                .streams
                .contains(&(owner.instance, owner.stream))
                && self.filter.takes(owner)
        })
    }

    /// Sends the lines that are held: from `first` to before `expected`.
    fn send(&mut self, owner: Option<&Arc<Owner>>, first: u64, at_ms: u64) -> Result<(), Left> {
        let Some(owner) = owner.filter(|_| !self.text.is_empty()) else {
            return Ok(());
        };
        let text = Bytes::from(std::mem::take(&mut self.text));
        self.give(FollowItem::Lines(Arc::new(Batch::new(
            owner,
            first,
            self.expected - first,
            at_ms,
            text,
        ))))
    }

    /// Waits for room: this thread is the follower's own.
    fn give(&self, item: FollowItem) -> Result<(), Left> {
        self.items.blocking_send(item).map_err(|_| Left)
    }
}
