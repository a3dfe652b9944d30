//! What may be asked of the engine, and the mailbox it is put in.

use super::chain::Chain;
use super::config::{LogConfig, RunLogs};
use super::hub::{Filter, Position, Queue};
use super::plane::{Finished, LogError};
use super::replay::CatchUp;
use super::stats::PlaneStats;
use super::tail::TailTarget;
use crate::core::ids::{Generation, PmId};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::oneshot;

/// How many commands may wait. When full, the sender waits: none may be lost, and the engine takes them between any two reads.
/// The channel makes all its places at once, 140 bytes each.
const WAITING_COMMANDS: usize = 512;

/// Sent to the engine.
#[derive(Debug)]
pub(super) enum Command {
    Attach(RunLogs),
    Finish {
        instance: PmId,
        generation: Generation,
        reply: oneshot::Sender<Finished>,
    },
    SetConfig {
        instance: PmId,
        config: Arc<LogConfig>,
    },
    Reopen {
        reply: oneshot::Sender<()>,
    },
    Flush {
        paths: Vec<PathBuf>,
        reply: oneshot::Sender<Vec<(PathBuf, std::io::Error)>>,
    },
    Stats {
        reply: oneshot::Sender<PlaneStats>,
    },
    Follow {
        filter: Filter,
        queue: Arc<Queue>,
    },
    CatchUp {
        filter: Filter,
        positions: Vec<Position>,
        queue: Arc<Queue>,
        reply: SyncSender<CatchUp>,
    },
    Chains {
        targets: Vec<TailTarget>,
        reply: SyncSender<Vec<(Vec<usize>, Chain)>>,
    },
    Zipped {
        sink: u64,
        file_no: u64,
        done: bool,
    },
    AdoptionDone,
    /// `drain`: pipes are read to their end first, and unfinished lines are written.
    Shutdown {
        drain: bool,
    },
}

/// Where commands are put. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    sender: SyncSender<Command>,
    bell: Arc<Bell>,
}

/// Wakes the engine.
#[derive(Debug)]
pub(super) struct Bell {
    pub event: EventFd,
    rung: AtomicBool,
}

impl Mailbox {
    /// A mailbox, its reading end and its bell.
    pub fn new() -> nix::Result<(Self, Receiver<Command>, Arc<Bell>)> {
        let event =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let bell = Arc::new(Bell {
            event,
            rung: AtomicBool::new(false),
        });
        let (sender, receiver) = sync_channel(WAITING_COMMANDS);
        Ok((
            Self {
                sender,
                bell: Arc::clone(&bell),
            },
            receiver,
            bell,
        ))
    }

    /// Puts a command in; waits while [`WAITING_COMMANDS`] are there.
    pub fn send(&self, command: Command) -> Result<(), LogError> {
        self.sender.send(command).map_err(|_| LogError::Ended)?;
        self.bell.ring();
        Ok(())
    }
}

impl Bell {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // An eventfd write fails only when its count is full: then it is ringing.
            let _ = self.event.write(1);
        }
    }

    /// Whether it has been rung since the last answer. Commands sent before the ring are then in the mailbox.
    pub fn answer(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::AcqRel)
    }

    /// Silences the event, after it has woken the engine and before the bell is answered.
    pub fn hush(&self) {
        // A ring may have been answered before its event came: then there is nothing to read the next time.
        let _ = self.event.read();
    }
}
