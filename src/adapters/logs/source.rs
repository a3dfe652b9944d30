//! One open pipe: takes its bytes, makes lines of them, and hands those on, one turn at a time.

use super::format::Moment;
use super::intake::{Lane, Outlets, READ_BYTES, Run};
use super::journal::{Head, Kind, MOST_DECOR, StreamSeat};
use crate::core::logline::LineSplitter;
use crate::sys::shm::Buffer;
use nix::errno::Errno;
use std::os::fd::OwnedFd;

/// A stamp's length may change by this much from one moment to the next, in bytes.
const DECOR_SLACK: usize = 64;

/// One open pipe.
#[derive(Debug)]
pub(super) struct Source {
    pub fd: OwnedFd,
    /// The pipe holds so much that its writer does not wait while we pause.
    pub roomy: bool,
    splitter: LineSplitter,
    pub lane: Lane,
    /// Its place in the journal; without one a kill may cost lines.
    seat: Option<StreamSeat>,
    /// Its last turn brought much.
    many: bool,
}

/// What reading a pipe gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Some(usize),
    Empty,
    End,
}

/// What all pipes are read into: the journal's buffer, or our own where there is none.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    own: Vec<u8>,
    pub shared: Option<Buffer>,
}

impl ReadBuffer {
    pub fn new(shared: Option<Buffer>) -> Self {
        let own = Vec::new();
        Self { own, shared }
    }

    fn own(&mut self) -> &mut [u8] {
        if self.own.is_empty() {
            self.own = vec![0; READ_BYTES];
        }
        &mut self.own
    }
}

impl Source {
    pub fn new(fd: OwnedFd, roomy: bool, lane: Lane, outlets: &mut Outlets, now: Moment) -> Self {
        let mut source = Self {
            fd,
            roomy,
            splitter: LineSplitter::default(),
            lane,
            seat: None,
            many: false,
        };
        let (instance, generation) = source.lane.run();
        let key = (instance, generation, source.lane.owner.stream);
        source.seat = outlets.book.seat_stream(key);
        if let Some(seat) = &source.seat {
            let unfinished = outlets.book.unfinished(seat);
            source.splitter = LineSplitter::default().resuming(unfinished);
        }
        source.settle(outlets, now);
        source
    }

    /// Puts its lines elsewhere; returns where they went.
    pub fn change_lane(&mut self, lane: Lane, outlets: &mut Outlets, now: Moment) -> Lane {
        let before = std::mem::replace(&mut self.lane, lane);
        self.settle(outlets, now);
        before
    }

    /// Tells the journal where its lines go; gives its place up where they cannot be protected.
    fn settle(&mut self, outlets: &mut Outlets, now: Moment) {
        let Some(seat) = self.seat.take() else { return };
        let (style, decor) = self.lane.formatter.decor(now.wall_ms, &outlets.clock);
        match self.lane.slots {
            Some(slots) if decor.len() + DECOR_SLACK <= MOST_DECOR => {
                outlets.book.place_stream(&seat, slots, style as u64);
                self.seat = Some(seat);
            }
            _ => outlets.book.free_stream(&seat),
        }
    }

    /// Whether a kill costs none of its lines.
    pub fn is_protected(&self) -> bool {
        self.seat.is_some()
    }

    /// Reads once and writes the lines that are whole; at the end of the pipe the unfinished one too.
    pub fn pump(
        &mut self,
        run: &mut Run,
        buffer: &mut ReadBuffer,
        outlets: &mut Outlets,
        now: Moment,
    ) -> Read {
        outlets.retry(now);
        loop {
            return match self.take(buffer, outlets, now) {
                Ok([]) => {
                    self.finish(run, outlets, now);
                    Read::End
                }
                Ok(chunk) => {
                    let whole = self.splitter.push(chunk);
                    let grown = whole.head.is_empty() && whole.body.is_empty();
                    outlets.write(&mut self.lane, run, [whole.head, whole.body], now);
                    if let Some(seat) = &mut self.seat {
                        let line = self.splitter.unfinished();
                        outlets.book.commit_stream(seat, line, grown);
                    }
                    Read::Some(chunk.len())
                }
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Read::Empty,
                Err(error) => {
                    tracing::warn!(app = %run.name, %error, "an output pipe cannot be read any more");
                    self.finish(run, outlets, now);
                    Read::End
                }
            };
        }
    }

    /// Takes what the pipe holds, and begins a turn in the journal if there is something.
    fn take<'a>(
        &mut self,
        buffer: &'a mut ReadBuffer,
        outlets: &mut Outlets,
        now: Moment,
    ) -> nix::Result<&'a [u8]> {
        if let (Some(seat), Some(shared), Some(sinks)) =
            (&self.seat, &mut buffer.shared, self.lane.slots)
        {
            let (style, decor) = self.lane.formatter.decor(now.wall_ms, &outlets.clock);
            let turn = Head {
                kind: Kind::Data,
                stream: seat.slot,
                wall_ms: now.wall_ms,
                style: style as u64,
                decor,
                sinks,
            };
            match outlets.book.take(&turn, shared, &self.fd, &mut self.many) {
                Ok(length) => {
                    return Ok(&buffer.shared.as_ref().map_or(&[][..], Buffer::bytes)[..length]);
                }
                Err(Errno::EINVAL) => {
                    tracing::warn!(app = %self.lane.owner.name, "an app's output is no pipe: a kill of the daemon may cost some of it");
                    self.leave(outlets);
                }
                // There is no memory for the journal's buffer: this turn goes without its protection.
                Err(Errno::ENOMEM | Errno::ENOSPC | Errno::EFBIG) => {}
                Err(error) => return Err(error),
            }
        }
        let own = buffer.own();
        let length = nix::unistd::read(&self.fd, own)?;
        Ok(&own[..length])
    }

    /// Writes the unfinished line, with a newline.
    pub fn finish(&mut self, run: &mut Run, outlets: &mut Outlets, now: Moment) {
        if self.splitter.held() == 0 {
            return;
        }
        outlets.retry(now);
        if let (Some(seat), Some(sinks)) = (&self.seat, self.lane.slots) {
            let (style, decor) = self.lane.formatter.decor(now.wall_ms, &outlets.clock);
            outlets.book.begin(&Head {
                kind: Kind::Finish,
                stream: seat.slot,
                wall_ms: now.wall_ms,
                style: style as u64,
                decor,
                sinks,
            });
        }
        let last = self.splitter.finish();
        outlets.write(&mut self.lane, run, [last, &[]], now);
        if let Some(seat) = &mut self.seat {
            outlets.book.commit_stream(seat, &[], false);
        }
    }

    /// Gives up its place in the journal.
    pub fn leave(&mut self, outlets: &mut Outlets) {
        if let Some(seat) = self.seat.take() {
            outlets.book.free_stream(&seat);
        }
    }
}
