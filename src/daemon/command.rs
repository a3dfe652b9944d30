//! What may be asked of the loop, and what it answers.

use super::snapshot::InstanceView;
use crate::core::ids::{Generation, PmId};
use crate::core::probe::Verdict;
use crate::core::signal::Signal;
use crate::core::spec::app::SpecError;
use crate::core::spec::instances;
use serde_json::{Map, Value};
use std::sync::Arc;

/// A request to the loop. Each is answered once, when what it asks for has come to rest.
#[derive(Debug)]
pub enum Command {
    /// Register an app and start it: PM2's `prepare`.
    Prepare {
        /// The app's configuration.
        conf: Map<String, Value>,
        /// `version` of its package.json, or `N/A`.
        version: String,
    },
    /// Start a registered instance.
    Start(PmId),
    /// Stop it.
    Stop(PmId),
    /// Stop it if it runs, and start it.
    Restart {
        /// Which.
        id: PmId,
        /// Variables to merge into its environment; `current_conf` in it holds configuration keys.
        env: Map<String, Value>,
    },
    /// Replace it without a gap, if it is a cluster worker that is online; else restart it.
    Reload {
        /// Which.
        id: PmId,
        /// As of a restart.
        env: Map<String, Value>,
        /// Its predecessor is told to end by message first, as PM2's soft reload does it.
        by_message: bool,
    },
    /// Stop it and forget it.
    Delete(PmId),
    /// Another instance of the same app.
    Duplicate(PmId),
    /// Reset its counters.
    Reset(PmId),
    /// Send a signal to its root process.
    Signal(PmId, Signal),
    /// Start to end: nothing is restarted any more.
    StopRestarting,
    /// PM2's `pm2_env._km_monitored` and other flags that clients set and read back.
    SetFlag {
        /// Which instance.
        id: PmId,
        /// The key in its configuration.
        key: &'static str,
        /// Its value.
        value: Value,
    },
    /// Switch its watch on or off; `None`: the other way round.
    Watch {
        /// Which instance.
        id: PmId,
        /// On or off.
        on: Option<bool>,
    },
    /// A file that it is watched by has changed.
    Changed {
        /// Which instance.
        id: PmId,
        /// The file, as the log names it.
        path: String,
        /// When that was seen.
        at: tokio::time::Instant,
    },
    /// A run holds more memory than it may.
    OverMemory {
        /// Which instance.
        id: PmId,
        /// Which run.
        generation: Generation,
        /// What its tree holds, in bytes.
        used: u64,
    },
    /// The version in its package.json has been looked at again.
    Version {
        /// Which instance.
        id: PmId,
        /// `1.2.3`, or `N/A`.
        version: String,
    },
    /// The version of the Node that runs it has been found out.
    NodeVersion {
        /// Which instance.
        id: PmId,
        /// `20.20.2`, say.
        version: String,
    },
    /// Its monitor's verdict on a run, or the reason for it, has changed.
    Verdict {
        /// Which instance.
        id: PmId,
        /// Which run; of a past one it is dropped.
        generation: Generation,
        /// How it is. [`Verdict::Dead`]: it is to be restarted.
        verdict: Verdict,
        /// Why, in words.
        why: String,
    },
    /// What it lacks to be installed has been looked at again.
    Installed {
        /// Which instance.
        id: PmId,
        /// Why it is not, if so.
        missing: Option<String>,
    },
}

/// The instances concerned, as they are afterwards.
pub type Answer = Result<Vec<Arc<InstanceView>>, CommandError>;

/// Why a command was refused.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such instance.
    #[error("{0} id unknown")]
    UnknownId(PmId),
    /// More instances than an app may have.
    #[error("`instances` is {asked}; the most is {}", instances::MOST)]
    TooMany {
        /// How many were asked for.
        asked: usize,
    },
    /// It runs already.
    #[error("process already online")]
    AlreadyOnline(PmId),
    /// It is on its way.
    #[error("process already started")]
    AlreadyStarted(PmId),
    /// It is being reloaded.
    #[error("Reload already in progress for process id {0}, retry later")]
    ReloadUnderWay(PmId),
    /// The new worker did not come up.
    #[error("the new worker of {id} ended before it listened ({cause}); the old one serves on")]
    NotReloaded {
        /// Which instance.
        id: PmId,
        /// How it ended.
        cause: String,
    },
    /// It is not running.
    #[error("{0} : id offline")]
    Offline(PmId),
    /// Its configuration can't be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It could not be started.
    #[error("{0}")]
    CouldNotStart(String),
    /// The daemon is ending.
    #[error("[RestartProcessId] PM2 is being killed, stopping restart procedure...")]
    Ending,
    /// The signal could not be sent.
    #[error("cannot send {signal} to process {pid}: {source}")]
    Signal {
        /// Which.
        signal: Signal,
        /// To whom.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The loop has ended.
    #[error("the daemon has ended")]
    Gone,
}
