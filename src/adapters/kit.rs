//! The descriptors that a run is born with, made ahead: whoever has crashed does not wait for them.

use crate::sys::fds;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// The pipes and the channel of one run.
#[derive(Debug)]
pub(super) struct Kit {
    /// Its standard input: what it reads, what we write.
    pub input: (OwnedFd, OwnedFd),
    /// Its standard output: what we read, what it writes.
    pub output: (OwnedFd, OwnedFd),
    /// Its standard error, the same.
    pub errors: (OwnedFd, OwnedFd),
    /// Node's channel: ours, its.
    pub channel: (OwnedFd, OwnedFd),
}

/// Why there is no kit.
#[derive(Debug)]
pub(super) struct NoKit {
    /// What could not be made.
    pub what: &'static str,
    pub source: io::Error,
}

impl Kit {
    fn make() -> Result<Self, NoKit> {
        let failed = |what| move |source| NoKit { what, source };
        Ok(Self {
            input: fds::input_pair().map_err(failed("socket pair"))?,
            output: fds::output_pipe().map_err(failed("pipe"))?,
            errors: fds::output_pipe().map_err(failed("pipe"))?,
            channel: fds::channel_pair().map_err(failed("socket pair"))?,
        })
    }
}

/// One spare kit. A lock, not a message: taken for a move, by the threads that launch runs.
#[derive(Debug, Default)]
pub struct Kits {
    spare: Mutex<Option<Kit>>,
}

impl Kits {
    /// The spare one, or a new one.
    pub(super) fn take(&self) -> Result<Kit, NoKit> {
        let spare = self.spare().take();
        spare.map_or_else(Kit::make, Ok)
    }

    /// Makes a spare one. What can't be made is made when it is needed, or told then.
    pub(super) fn restock(&self) {
        if self.spare().is_none()
            && let Ok(kit) = Kit::make()
        {
            *self.spare() = Some(kit);
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Option<Kit>> {
        // An option is whole after any panic.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
