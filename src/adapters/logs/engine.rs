//! The thread of the log plane: one epoll over all pipes, one turn for each, commands in between.

use super::command::{Bell, Command, Mailbox};
use super::config::RunLogs;
use super::format::Moment;
use super::gzip::Zipper;
use super::intake::{Outlets, Run, RunKey};
use super::journal::{Book, Journal};
use super::source::{Read, ReadBuffer, Source};
use crate::core::ids::Stream;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// The bell's place among the tokens of the streams, which begin at 1.
const BELL: u64 = 0;
/// How many pipes are looked at in one turn; the kernel goes round among more.
const TURN_STREAMS: usize = 64;
/// The room asked for in each pipe, in bytes: the kernel's usual limit for one user.
const PIPE_BYTES: i32 = 1 << 20;
/// A pipe with this much room does not fill within [`PAUSE_MS`].
const ROOMY_BYTES: i32 = 512 << 10;
/// Turns that bring less than this, and follow each other within [`BUSY`], are collected by a pause: a line-by-line writer
/// then costs a few reads a millisecond and not one a line. In bytes.
const SMALL_TURN: usize = 32 << 10;
/// See [`SMALL_TURN`].
const BUSY: Duration = Duration::from_micros(500);
/// How long such a pause is; a command ends it.
const PAUSE_MS: u8 = 1;
/// At the end of a run at most this much is read from each pipe: more than one can hold.
const DRAIN_BYTES: usize = 4 << 20;

/// Owner of all runs, streams and files.
pub(super) struct Engine {
    epoll: Epoll,
    bell: Arc<Bell>,
    pub(super) mailbox: Mailbox,
    commands: Receiver<Command>,
    pub(super) sources: HashMap<u64, Source>,
    pub(super) runs: HashMap<RunKey, Run>,
    pub(super) outlets: Outlets,
    pub(super) zipper: Zipper,
    buffer: ReadBuffer,
    next_token: u64,
    pub(super) read_bytes: u64,
    pub(super) wakeups: u64,
    /// How long an unfinished line waits to be shown, and when the first of them has waited that long.
    show_after: Duration,
    show_at: Option<Instant>,
    pub(super) ending: bool,
    /// At the end pipes are emptied and unfinished lines are written.
    pub(super) draining: bool,
}

impl Engine {
    pub fn new(
        mailbox: Mailbox,
        commands: Receiver<Command>,
        bell: Arc<Bell>,
        journal: Option<Journal>,
        show_after: Duration,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&bell.event, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let (book, shared) = journal.map_or((Book::none(), None), |journal| {
            let (book, buffer) = journal.open();
            (book, Some(buffer))
        });
        Ok(Self {
            epoll,
            bell,
            mailbox,
            commands,
            sources: HashMap::new(),
            runs: HashMap::new(),
            outlets: Outlets::new(book),
            zipper: Zipper::default(),
            buffer: ReadBuffer::new(shared),
            next_token: BELL + 1,
            read_bytes: 0,
            wakeups: 0,
            show_after,
            show_at: None,
            ending: false,
            draining: true,
        })
    }

    /// The counter of lines that followers lost.
    pub fn missed_total(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.outlets.hub.missed_total)
    }

    /// Works until it is told to end.
    pub fn run(mut self) {
        let mut events = [EpollEvent::empty(); TURN_STREAMS];
        let mut last_turn = Instant::now();
        self.outlets.recover(&self.buffer, Moment::now());
        while !self.ending {
            let ready = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "the log thread cannot wait for its pipes and ends");
                    break;
                }
            };
            self.wakeups += 1;
            let now = Moment::now();
            let (mut read, mut roomy) = (0, ready > 0);
            for event in &events[..ready] {
                if event.data() == BELL {
                    self.bell.hush();
                } else {
                    let (length, has_room) = self.turn(event.data(), now);
                    read += length;
                    roomy &= has_room;
                    self.show_unfinished(now);
                }
                self.take_commands(now);
            }
            self.outlets.retry(now);
            self.show_unfinished(now);
            self.zip_next();
            if roomy
                && read > 0
                && read < SMALL_TURN
                && now.at.duration_since(last_turn) < BUSY
                && !self.ending
            {
                self.pause();
            }
            last_turn = Instant::now();
        }
        self.end();
    }

    /// Sinks in trouble are tried again, and unfinished lines shown; otherwise only pipes and commands wake us.
    fn timeout(&self) -> EpollTimeout {
        let times = [self.outlets.sinks.retry_at(), self.show_at];
        let Some(at) = times.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        let wait = at.saturating_duration_since(Instant::now()).as_millis() + 1;
        u16::try_from(wait).map_or(EpollTimeout::MAX, EpollTimeout::from)
    }

    fn pause(&self) {
        let mut bell = [PollFd::new(self.bell.event.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not, the pause is over.
        let _ = poll(&mut bell, PollTimeout::from(PAUSE_MS));
    }

    /// One read of one stream; how much it gave, and whether its pipe is roomy.
    fn turn(&mut self, token: u64, now: Moment) -> (usize, bool) {
        let Some(source) = self.sources.get_mut(&token) else {
            return (0, true);
        };
        let Some(run) = self.runs.get_mut(&source.lane.run()) else {
            return (0, true);
        };
        let roomy = source.roomy;
        match source.pump(run, &mut self.buffer, &mut self.outlets, now) {
            Read::Some(length) => {
                self.read_bytes += length as u64;
                self.show_at = self.show_at.or_else(|| source.shows_at(self.show_after));
                (length, roomy)
            }
            Read::Empty => (0, true),
            Read::End => {
                self.close(token);
                (0, true)
            }
        }
    }

    fn take_commands(&mut self, now: Moment) {
        while self.bell.answer() {
            while let Ok(command) = self.commands.try_recv() {
                self.obey(command, now);
            }
        }
    }

    /// Begins to read a run's pipes.
    pub(super) fn attach(&mut self, logs: RunLogs, now: Moment) {
        let key = (logs.instance, logs.generation);
        // Past runs whose end nobody asked for are forgotten once they are silent.
        self.runs
            .retain(|known, run| known.0 != key.0 || run.open != [None, None]);
        let mut run = Run::new(&logs);
        for (at, stream, fd) in [(0, Stream::Out, logs.out), (1, Stream::Err, logs.err)] {
            let token = self.next_token;
            self.next_token += 1;
            match prepare(&fd).and_then(|room| {
                self.epoll
                    .add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
                    .map(|()| room)
            }) {
                Ok(room) => {
                    let lane = self.outlets.lane(key, &run, stream, &logs.config, now);
                    let roomy = room >= ROOMY_BYTES;
                    let source = Source::new(fd, roomy, lane, &mut self.outlets, now);
                    self.show_at = self.show_at.or_else(|| source.shows_at(self.show_after));
                    self.sources.insert(token, source);
                    run.open[at] = Some(token);
                }
                Err(error) => {
                    tracing::error!(app = %run.name, %error, "an output pipe cannot be watched; its lines are lost")
                }
            }
        }
        self.runs.insert(key, run);
    }

    /// Shows the unfinished lines that have waited for it, and looks when the next one will have.
    fn show_unfinished(&mut self, now: Moment) {
        if self.show_at.is_none_or(|at| at > now.at) {
            return;
        }
        let mut next = None;
        for source in self.sources.values_mut() {
            let after = self.show_after;
            if source.shows_at(after).is_some_and(|at| at <= now.at) {
                source.show(&mut self.outlets, now);
            }
            next = source.shows_at(after).into_iter().chain(next).min();
        }
        self.show_at = next;
    }

    /// Reads what a run's pipes hold now and writes it all, unfinished lines too.
    pub(super) fn drain(&mut self, key: RunKey, now: Moment) {
        let tokens = self.runs.get(&key).map(|run| run.open).unwrap_or_default();
        for token in tokens.into_iter().flatten() {
            let (Some(source), Some(run)) = (self.sources.get_mut(&token), self.runs.get_mut(&key))
            else {
                continue;
            };
            let mut drained = 0;
            while drained < DRAIN_BYTES {
                match source.pump(run, &mut self.buffer, &mut self.outlets, now) {
                    Read::Some(length) => drained += length,
                    Read::Empty | Read::End => break,
                }
            }
            self.read_bytes += drained as u64;
            // An ended pipe is closed by its next turn, which finds nothing more.
            source.finish(run, &mut self.outlets, now);
        }
    }

    /// Closes a stream that has ended, and forgets its run when that was the last thing to wait for.
    fn close(&mut self, token: u64) {
        let Some(mut source) = self.sources.remove(&token) else {
            return;
        };
        // Closing the pipe below would do it too, unless a copy of the fd is open elsewhere.
        let _ = self.epoll.delete(&source.fd);
        source.leave(&mut self.outlets);
        for sink in source.lane.sinks() {
            self.outlets.sinks.release(sink, &mut self.outlets.book);
        }
        let key = source.lane.run();
        if let Some(run) = self.runs.get_mut(&key) {
            for open in run.open.iter_mut().filter(|open| **open == Some(token)) {
                *open = None;
            }
            if run.finished && run.open == [None, None] {
                self.runs.remove(&key);
            }
        }
    }

    /// Compresses the next rotated file, if none is being compressed.
    fn zip_next(&mut self) {
        if self.zipper.is_busy() {
            return;
        }
        for (id, sink) in self.outlets.sinks.all_mut() {
            while let Some((file_no, source, target)) = sink.next_unzipped() {
                if self
                    .zipper
                    .start(&self.mailbox, id, file_no, &source, target)
                {
                    return;
                }
            }
        }
    }

    /// Writes the unfinished lines that no successor will find in the journal.
    fn finish_unprotected(&mut self, now: Moment) {
        for source in self.sources.values_mut().filter(|s| !s.is_protected()) {
            if let Some(run) = self.runs.get_mut(&source.lane.run()) {
                source.finish(run, &mut self.outlets, now);
            }
        }
    }

    fn end(mut self) {
        let now = Moment::now();
        let keys: Vec<RunKey> = self.runs.keys().copied().collect();
        if self.draining {
            keys.into_iter().for_each(|key| self.drain(key, now));
        } else {
            self.finish_unprotected(now);
        }
        self.outlets.retry_all(now);
        self.outlets.hub.close();
        drop(self.commands);
        self.zipper.stop();
    }
}

/// Makes a pipe ready to be read here; returns its room in bytes.
fn prepare(fd: &OwnedFd) -> nix::Result<i32> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // Refused past the user's limit of pipe memory, and for what is no pipe: then it stays as it is.
    Ok(fcntl(fd, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES))
        .or_else(|_| fcntl(fd, FcntlArg::F_GETPIPE_SZ))
        .unwrap_or(0))
}
