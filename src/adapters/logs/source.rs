//! One open pipe: takes its bytes, makes lines of them, and hands those on, one turn at a time.

use super::format::Moment;
use super::intake::{Lane, Outlets, READ_BYTES, Run};
use super::journal::{Head, Kind, MOST_DECOR, StreamSeat};
use crate::core::logline::LineSplitter;
use crate::sys::shm::Buffer;
use nix::errno::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

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
    /// How much of the unfinished line each of its files shows.
    shown: [usize; 2],
    /// Since when there is more of it to show.
    waits_since: Option<Instant>,
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
            shown: [0; 2],
            waits_since: None,
        };
        let (instance, generation) = source.lane.run();
        let key = (instance, generation, source.lane.owner.stream);
        source.seat = outlets.book.seat_stream(key);
        if let Some(seat) = &source.seat {
            let unfinished = outlets.book.unfinished(seat);
            let (slots, _) = outlets.book.stream_place(seat);
            if source.lane.slots == Some(slots) {
                let known = seat.shown().map(|shown| shown.min(unfinished.len()));
                source.shown = source.lane.still_shown(&source.lane, known);
            }
            let is_known = source.shown == seat.shown();
            source.splitter = LineSplitter::default().resuming(unfinished, source.most_shown());
            if !is_known {
                source.commit(true, outlets);
            }
        }
        source.settle(outlets, now);
        source.note_waiting(false, now);
        source
    }

    /// Puts its lines elsewhere; returns where they went. A file that shows the beginning of a line, and gets no more of it, keeps that;
    /// the line is whole where it ends.
    pub fn change_lane(&mut self, lane: Lane, outlets: &mut Outlets, now: Moment) -> Lane {
        let before = std::mem::replace(&mut self.lane, lane);
        let shown = self.lane.still_shown(&before, self.shown);
        if shown != self.shown {
            self.shown = shown;
            self.splitter.set_shown(self.most_shown());
            self.commit(true, outlets);
        }
        self.settle(outlets, now);
        self.note_waiting(false, now);
        before
    }

    fn most_shown(&self) -> usize {
        self.shown.into_iter().max().unwrap_or(0)
    }

    /// Notes since when some of the unfinished line is not shown; `grown`: it is the one from before and maybe more.
    fn note_waiting(&mut self, grown: bool, now: Moment) {
        let most = self.splitter.showable().len();
        self.waits_since = if self.lane.shows_less(self.shown, most) {
            self.waits_since.filter(|_| grown).or(Some(now.at))
        } else {
            None
        };
    }

    /// When its unfinished line is to be shown, if what is not shown of it may wait for so long.
    pub fn shows_at(&self, after: Duration) -> Option<Instant> {
        self.waits_since.map(|since| since + after)
    }

    /// Shows what there is of the unfinished line.
    pub fn show(&mut self, outlets: &mut Outlets, now: Moment) {
        outlets.retry(now);
        self.begin(Kind::Show, outlets, now);
        let slot = self.seat.as_ref().map(|seat| seat.slot);
        let line = self.splitter.showable();
        outlets.show(&self.lane, slot, line, &mut self.shown, now);
        self.splitter.set_shown(self.most_shown());
        self.commit(true, outlets);
        // What could not be shown now is tried again later.
        self.note_waiting(false, now);
    }

    /// Begins a turn that takes nothing from the pipe.
    fn begin(&mut self, kind: Kind, outlets: &mut Outlets, now: Moment) {
        if let (Some(seat), Some(sinks)) = (&self.seat, self.lane.slots) {
            let (style, decor) = self.lane.formatter.decor(now.wall_ms, &outlets.clock);
            outlets.book.begin(&Head {
                kind,
                stream: seat.slot,
                wall_ms: now.wall_ms,
                style: style as u64,
                decor,
                sinks,
            });
        }
    }

    /// Ends a turn; `grown`: the unfinished line is the one from before and maybe more.
    fn commit(&mut self, grown: bool, outlets: &mut Outlets) {
        if let Some(seat) = &mut self.seat {
            let line = self.splitter.unfinished();
            outlets.book.commit_stream(seat, line, grown, self.shown);
        }
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
                    let (lines, length) = ([whole.head, whole.body], chunk.len());
                    outlets.write(&mut self.lane, run, lines, self.shown, now);
                    if !grown {
                        self.shown = [0; 2];
                    }
                    self.commit(grown, outlets);
                    self.note_waiting(grown, now);
                    Read::Some(length)
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
        self.begin(Kind::Finish, outlets, now);
        let last = self.splitter.finish();
        outlets.write(&mut self.lane, run, [last, &[]], self.shown, now);
        self.shown = [0; 2];
        self.commit(false, outlets);
        self.note_waiting(false, now);
    }

    /// Gives up its place in the journal.
    pub fn leave(&mut self, outlets: &mut Outlets) {
        if let Some(seat) = self.seat.take() {
            outlets.book.free_stream(&seat);
        }
    }
}
