//! The handle of the log plane.

use super::command::{Command, Mailbox};
use super::config::{LogConfig, LogOptions, RunLogs};
use super::engine::Engine;
use super::follow::Follower;
use super::hub::{Filter, Position, new_queue};
use super::journal::Journal;
use super::replay;
use super::stats::PlaneStats;
use super::tail::{self, TailAnswer, TailQuery};
use crate::core::ids::{Generation, PmId};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};

/// How many items a resumed follower may be behind in what was read for it from disk; then the reading waits for it.
const REPLAY_ITEMS: usize = 4;

/// Why the plane did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The plane was shut down.
    #[error("the log plane has ended")]
    Ended,
    /// A thread for reading back could not be started.
    #[error(
        "no thread could be started to read logs back; raise the limit of processes (ulimit -u)"
    )]
    Thread(#[source] io::Error),
}

/// A run's logs are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finished {
    /// The last 10 lines of its standard error, each cut to 500 characters, oldest first.
    pub stderr_tail: Vec<String>,
}

/// The log plane. Cheap to clone; it ends with [`LogPlane::shutdown`] or with its last handle.
///
/// A method that gives a receiver has put its request in order when it returns; the receiver fails only if the plane ends first.
/// A method waits while 4096 requests are waiting.
#[derive(Debug, Clone)]
pub struct LogPlane {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mailbox: Mailbox,
    options: LogOptions,
    missed_total: Arc<AtomicU64>,
    /// A lock, because whoever shuts down first joins.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It may have been shut down already.
        let _ = self.mailbox.send(Command::Shutdown { drain: true });
    }
}

impl LogPlane {
    /// Starts the thread (`fornax-logs`). Fails if there are no fds or no threads left.
    ///
    /// With a journal no line is lost, doubled or split by a SIGKILL, provided that the pipes and [`Journal::fd`] are kept open and
    /// handed on. An adopted one is gone on from: first what was being written is completed, before anything else is done.
    pub fn start(options: LogOptions, journal: Option<Journal>) -> io::Result<Self> {
        let (mailbox, commands, bell) = Mailbox::new()?;
        let engine = Engine::new(mailbox.clone(), commands, bell, journal, options.show_after)?;
        let missed_total = engine.missed_total();
        let thread = std::thread::Builder::new()
            .name("fornax-logs".to_owned())
            .spawn(move || engine.run())?;
        Ok(Self {
            inner: Arc::new(Inner {
                mailbox,
                options,
                missed_total,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Takes over a run's pipes. After an adoption the same instance and generation go on with their unfinished lines.
    pub fn attach(&self, logs: RunLogs) -> Result<(), LogError> {
        self.inner.mailbox.send(Command::Attach(logs))
    }

    /// Tells that a run has ended: what is in its pipes now is written, an unfinished line too. What a surviving child of it
    /// writes later is still logged. An unknown run has an empty tail.
    pub fn finish(&self, instance: PmId, generation: Generation) -> oneshot::Receiver<Finished> {
        self.ask(|reply| Command::Finish {
            instance,
            generation,
            reply,
        })
    }

    /// Changes where and how an instance's lines are written, from the next line on.
    pub fn set_config(&self, instance: PmId, config: Arc<LogConfig>) -> Result<(), LogError> {
        self.inner
            .mailbox
            .send(Command::SetConfig { instance, config })
    }

    /// Opens every file anew that another program has moved (PM2: reloadLogs).
    pub fn reopen_all(&self) -> oneshot::Receiver<()> {
        self.ask(|reply| Command::Reopen { reply })
    }

    /// Empties files (PM2: flush); rotated ones stay. Gives those that could not be emptied.
    pub fn flush(&self, paths: Vec<PathBuf>) -> oneshot::Receiver<Vec<(PathBuf, io::Error)>> {
        self.ask(|reply| Command::Flush { paths, reply })
    }

    /// The counters as they are now.
    pub fn stats(&self) -> oneshot::Receiver<PlaneStats> {
        self.ask(|reply| Command::Stats { reply })
    }

    /// Follows what `filter` takes. Of the streams named in `resume` the lines after those come first, from disk, one file after
    /// the other; other streams are followed from now on.
    pub fn follow(&self, filter: Filter, resume: Vec<Position>) -> Result<Follower, LogError> {
        let queue = new_queue(&self.inner.options, Arc::clone(&self.inner.missed_total));
        if resume.is_empty() {
            self.inner.mailbox.send(Command::Follow {
                filter,
                queue: Arc::clone(&queue),
            })?;
            return Ok(Follower::new(None, queue));
        }
        let (items, replay) = mpsc::channel(REPLAY_ITEMS);
        let (mailbox, shared) = (self.inner.mailbox.clone(), Arc::clone(&queue));
        // Asked here, not by the thread: what is written once this has returned must not fall before it.
        let asked = replay::ask(&mailbox, &filter, &resume, &queue)?;
        let work = move || replay::run(&mailbox, filter, resume, asked, shared, items);
        std::thread::Builder::new()
            .name("fornax-replay".to_owned())
            .spawn(work)
            .map_err(LogError::Thread)?;
        Ok(Follower::new(Some(replay), queue))
    }

    /// The last lines of logs. It blocks: call it where that is allowed.
    pub fn tail(&self, query: &TailQuery) -> Result<TailAnswer, LogError> {
        let (reply, chains) = std::sync::mpsc::sync_channel(1);
        self.inner.mailbox.send(Command::Chains {
            targets: query.targets.clone(),
            reply,
        })?;
        let chains = chains.recv().map_err(|_| LogError::Ended)?;
        Ok(tail::answer(query, &chains))
    }

    /// Writes what is in the pipes, ends followers, and waits for the thread. It blocks for as long as that takes.
    pub fn shutdown(&self) {
        self.end(true);
    }

    /// Ends for a successor that is handed the journal and the pipes: what is in the pipes stays there, and unfinished lines stay
    /// in the journal. Followers end. It blocks until the thread has ended. Without a journal it is [`LogPlane::shutdown`].
    pub fn quiesce(&self) {
        self.end(false);
    }

    /// Tells that every run that outlived the last daemon has been attached again: unfinished lines of other runs are written to
    /// their files, with a warning, and forgotten.
    pub fn adoption_done(&self) -> Result<(), LogError> {
        self.inner.mailbox.send(Command::AdoptionDone)
    }

    fn end(&self, drain: bool) {
        // It may have ended already: then there is nothing to send and nothing to join.
        let _ = self.inner.mailbox.send(Command::Shutdown { drain });
        let thread = self
            .inner
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the log thread has panicked");
        }
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        // When the plane has ended, the reply is dropped with the command, and the receiver tells it.
        let _ = self.inner.mailbox.send(command(reply));
        answer
    }
}
