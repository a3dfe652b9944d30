//! The keeper's loop: packets from the daemon, signals, and the end of the daemon.

use super::daemon::{self, Daemon, Program, Start};
use super::memory::Memory;
use super::signals;
use super::table::Table;
use crate::core::exit::ExitCause;
use crate::core::keeping::{self, Notice, Order, Standing};
use crate::core::signal::Signal;
use crate::sys::spawn::SpawnError;
use crate::sys::{fds, heap, limits, packets, pidfd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a daemon may take from its start to its first word.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long a new program must live before it has the job.
const TRIAL: Duration = Duration::from_secs(3);
/// A daemon that ends sooner than this is started again later and later.
const SHORT_LIFE: Duration = Duration::from_secs(5);
/// So many short lives that were ended by SIGKILL are nobody's fault.
const MANY_KILLS: u32 = 20;
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How long after the first of several ends the daemon is told that children have ended, whosever they were.
const TELL_AFTER: Duration = Duration::from_millis(20);
/// How long after a daemon's first word the keeper gives back what its start took.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// Packets taken before signals and the clock are looked at again.
const PACKETS_A_TURN: usize = 256;

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A signal descriptor, a subreaper.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no daemon either.
    #[error("cannot start the daemon: {0}")]
    Start(#[from] SpawnError),
}

/// Keeps a daemon called `title` in the list of processes until its end is wanted; its exit code. Whoever waits for the daemon's
/// first word does so on our standard input.
pub fn run(title: &str) -> Result<u8, KeeperError> {
    let setup = |what| move |source| KeeperError::Setup { what, source };
    limits::raise_open_files();
    pidfd::become_subreaper().map_err(setup("orphan adoption"))?;
    let signals = signals::open().map_err(|errno| setup("signals")(errno.into()))?;
    let mut keeper = Keeper {
        title: title.to_owned(),
        table: Table::default(),
        signals,
        daemon: None,
        replacement: None,
        trial: None,
        predecessor: String::new(),
        short_lives: 0,
        start_at: None,
        tell_at: None,
        tidy_at: None,
    };
    keeper.begin()?;
    loop {
        keeper.wait();
        keeper.take_signals();
        keeper.take_packets(PACKETS_A_TURN);
        if let Some(code) = keeper.look_after() {
            return Ok(code);
        }
    }
}

/// Owner of everything here: the one thread.
struct Keeper {
    title: String,
    table: Table,
    signals: SignalFd,
    daemon: Option<Daemon>,
    /// What is to be started when the daemon ends.
    replacement: Option<OwnedFd>,
    /// A program that has not shown yet that it works.
    trial: Option<OwnedFd>,
    /// How the last daemon ended.
    predecessor: String,
    short_lives: u32,
    start_at: Option<Instant>,
    tell_at: Option<Instant>,
    tidy_at: Option<Instant>,
}

impl Keeper {
    fn begin(&mut self) -> Result<(), KeeperError> {
        let setup = |what| move |source| KeeperError::Setup { what, source };
        let number = |name| std::env::var(name).ok()?.parse::<i32>().ok();
        if let Some(memory) = number(keeping::MEMORY_VARIABLE) {
            let memory = fds::take_over(memory)
                .and_then(Memory::recall)
                .map_err(setup("what its predecessor knew"))?;
            for (key, fd) in memory.held {
                let fd = fds::take_over(fd).map_err(setup("a held descriptor"))?;
                self.table.hold(key, fd);
            }
            let socket =
                fds::take_over(memory.socket).map_err(setup("the socket to the daemon"))?;
            let mut daemon = Daemon::orphan(memory.pid, socket);
            daemon.is_child = true;
            self.daemon = Some(daemon);
            return Ok(());
        }
        if let Some(socket) = number(keeping::ORPHAN_VARIABLE) {
            let socket = fds::take_over(socket).map_err(setup("the socket to the daemon"))?;
            let pid = std::env::var(keeping::ORPHAN_PID_VARIABLE).ok();
            let pid = pid.and_then(|pid| pid.parse().ok()).unwrap_or_default();
            self.daemon = Some(Daemon::orphan(pid, socket));
            "its keeper was killed".clone_into(&mut self.predecessor);
            return Ok(());
        }
        let input = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(setup("standard input"))?;
        self.daemon = Some(Daemon::start(Start {
            title: &self.title,
            program: &Program::Own,
            input,
            predecessor: "",
        })?);
        // Whoever waits on our standard input waits for the daemon, which has its own copy.
        let closed = daemon::nothing().and_then(|null| Ok(nix::unistd::dup2_stdin(null)?));
        closed.map_err(setup("standard input"))
    }

    /// Until something happens or is due.
    fn wait(&self) {
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(daemon) = &self.daemon {
            polled.push(PollFd::new(daemon.socket.as_fd(), PollFlags::POLLIN));
        }
        let limit = self.due().map_or(PollTimeout::NONE, |at| {
            let wait = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
        });
        // Interrupted or not: what follows looks at everything.
        let _ = poll(&mut polled, limit);
    }

    fn due(&self) -> Option<Instant> {
        let ready = self.daemon.as_ref().and_then(|daemon| {
            let limit = if daemon.ready { TRIAL } else { READY_WITHIN };
            (self.trial.is_some() || !daemon.ready).then(|| daemon.since + limit)
        });
        [self.start_at, self.tidy_at, ready, self.tell_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = Signal(info.ssi_signo as i32);
            if signal == Signal(libc::SIGCHLD) {
                self.child_ended(info.ssi_pid);
            } else if let Some(daemon) = &self.daemon {
                daemon.signal(signal);
            }
        }
    }

    /// Told at once, unasked: a successor waits for it. That some child has ended is told a little later, once for many.
    fn child_ended(&mut self, pid: u32) {
        self.tell_at
            .get_or_insert_with(|| Instant::now() + TELL_AFTER);
        if let (Some(daemon), standing @ Standing::Ended(_)) = (&self.daemon, standing(pid)) {
            // No room, or several ends in one signal: the daemon asks.
            let told = Notice::Status(pid, standing).encode();
            let _ = packets::send(daemon.socket.as_fd(), &told, &[]);
        }
    }

    /// What the daemon has said, at most so many packets.
    fn take_packets(&mut self, most: usize) {
        let mut buffer = [0; keeping::LONGEST];
        for _ in 0..most {
            let Some(daemon) = &mut self.daemon else {
                return;
            };
            let mut fds = Default::default();
            let length = match packets::receive(daemon.socket.as_fd(), &mut buffer, &mut fds) {
                Ok(0) => {
                    if !daemon.is_child {
                        self.ended(None);
                    }
                    return;
                }
                Ok(length) => length,
                Err(_) => return,
            };
            match Order::decode(&buffer[..length]) {
                Some(Order::Hold(keys)) => {
                    for (key, fd) in keys.into_iter().zip(fds.into_iter().flatten()) {
                        if !self.table.hold(key, fd) {
                            tell("holds all that it can; a run would not outlive its daemon");
                        }
                    }
                }
                Some(Order::Release(key)) => self.table.release(key),
                Some(Order::ReleaseRun(id, generation)) => self.table.release_run(id, generation),
                Some(Order::Peek(pid)) => self.say(&Notice::Status(pid, standing(pid)), &[]),
                Some(Order::Reap(pid)) => drop(pidfd::reap(pid)),
                Some(Order::Fetch) => self.give(),
                Some(Order::Ready) => {
                    daemon.ready = true;
                    self.tidy_at = Some(Instant::now() + TIDY_AFTER);
                }
                Some(Order::Bye) => daemon.leaving = true,
                Some(Order::Replace) => self.replacement = fds.into_iter().flatten().next(),
                None => {}
            }
        }
    }

    fn give(&self) {
        for entries in self.table.entries().chunks(keeping::MOST_KEYS) {
            let (keys, fds): (Vec<_>, Vec<_>) =
                entries.iter().map(|(key, fd)| (*key, fd.as_fd())).unzip();
            self.say(&Notice::Holding(keys), &fds);
        }
        self.say(&Notice::HoldingNoMore, &[]);
    }

    /// Says it to the daemon, waiting while it is busy; a daemon that does not listen for long is no use and is left alone.
    fn say(&self, notice: &Notice, fds: &[std::os::fd::BorrowedFd<'_>]) {
        let Some(daemon) = &self.daemon else { return };
        for _ in 0..100 {
            match packets::send(daemon.socket.as_fd(), &notice.encode(), fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut room = [PollFd::new(daemon.socket.as_fd(), PollFlags::POLLOUT)];
                    // Interrupted or not, it is tried again.
                    let _ = poll(&mut room, 100_u16);
                }
                // Gone: its end is seen elsewhere.
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// Looks at the daemon and the clock; the exit code once all is over.
    fn look_after(&mut self) -> Option<u8> {
        let now = Instant::now();
        if let Some(daemon) = &self.daemon {
            if let Standing::Ended(cause) = standing(daemon.pid)
                && daemon.is_child
            {
                // What it said last is in the socket still.
                self.take_packets(usize::MAX);
                if let Some(code) = self.ended(Some(cause)) {
                    return Some(code);
                }
            } else if !daemon.ready && now >= daemon.since + READY_WITHIN {
                daemon.signal(Signal::KILL);
            } else if daemon.ready && self.trial.is_some() && now >= daemon.since + TRIAL {
                self.become_replaced();
            }
        } else if self.start_at.is_some_and(|at| now >= at) {
            self.start_again();
        }
        if self.tidy_at.is_some_and(|at| now >= at) {
            self.tidy_at = None;
            // From here on next to nothing of the program is used.
            heap::release_program();
            heap::trim();
        }
        if self.tell_at.is_some_and(|at| now >= at) {
            self.tell_at = None;
            if let Some(daemon) = &self.daemon {
                // Full means that it has one to read already.
                let _ = packets::send(daemon.socket.as_fd(), &Notice::ChildEnded.encode(), &[]);
            }
        }
        None
    }

    /// The daemon has ended; the exit code if that was wanted, or if it never worked.
    fn ended(&mut self, cause: Option<ExitCause>) -> Option<u8> {
        let daemon = self.daemon.take()?;
        if daemon.is_child {
            pidfd::reap(daemon.pid);
        }
        let code = match &cause {
            Some(ExitCause::Code(code)) => *code as u8,
            Some(_) => 1,
            None => 0,
        };
        if daemon.leaving {
            return Some(code);
        }
        let killed = cause == Some(ExitCause::Signal(Signal::KILL));
        let how = cause.map_or_else(|| "lost its keeper".to_owned(), |cause| cause.to_string());
        if let Some(program) = self.trial.take() {
            let name = Program::Other(program).name();
            self.predecessor =
                format!("the new program {name} did not stay ({how}); the one before it goes on");
            tell(&self.predecessor);
            self.start_at = Some(Instant::now());
            return None;
        }
        if let Some(program) = self.replacement.take() {
            self.predecessor = "it made room for a new program".to_owned();
            self.trial = Some(program);
            self.start_at = Some(Instant::now());
            return None;
        }
        if !daemon.ready && self.predecessor.is_empty() {
            return Some(code.max(1));
        }
        let short = daemon.since.elapsed() < SHORT_LIFE;
        self.short_lives = if short { self.short_lives + 1 } else { 0 };
        // One that worked until somebody killed it is not to blame, unless that happens all the time.
        let blameless = daemon.ready && killed && self.short_lives <= MANY_KILLS;
        let wait = match self.short_lives {
            0 | 1 => Duration::ZERO,
            _ if blameless => Duration::ZERO,
            lives => Duration::from_millis(100 << lives.min(7)).min(LONGEST_WAIT),
        };
        if daemon.is_child {
            self.predecessor = format!("pid {}: {how}", daemon.pid);
            tell(&format!(
                "the daemon has ended ({}); another one takes over",
                self.predecessor
            ));
        }
        self.start_at = Some(Instant::now() + wait);
        None
    }

    fn start_again(&mut self) {
        self.start_at = None;
        let program = match &self.trial {
            Some(fd) => fd.try_clone().map_or(Program::Own, Program::Other),
            None => Program::Own,
        };
        let started = daemon::nothing().map_err(|source| SpawnError::Setup { source });
        let started = started.and_then(|input| {
            Daemon::start(Start {
                title: &self.title,
                program: &program,
                input,
                predecessor: &self.predecessor,
            })
        });
        match started {
            Ok(daemon) => self.daemon = Some(daemon),
            Err(error) => {
                if self.trial.take().is_some() {
                    self.predecessor = format!(
                        "the new program could not be started ({error}); the one before it goes on"
                    );
                }
                tell(&format!("cannot start the daemon: {error}; trying again"));
                self.start_at = Some(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    /// The new program has shown that it works: the keeper becomes it too. If that fails, all stays as it is.
    fn become_replaced(&mut self) {
        let (Some(program), Some(daemon)) = (self.trial.take(), &self.daemon) else {
            return;
        };
        let memory = Memory::of(daemon.pid, &daemon.socket, &self.table);
        let error = memory.become_program(&Program::Other(program));
        tell(&format!("stays the program it was: {error}"));
    }
}

fn standing(pid: u32) -> Standing {
    pidfd::peek(pid)
}

/// Into pm2.log, which is our standard error.
fn tell(text: &str) {
    use std::io::Write;
    // There is nobody else to tell.
    let _ = writeln!(io::stderr(), "fornax keeper: {text}");
}
