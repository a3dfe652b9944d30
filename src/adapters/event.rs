//! What the adapters tell the daemon's loop.

use super::cluster::ClusterFact;
use super::facts::RunFacts;
use crate::core::exit::ExitCause;
use crate::core::ids::{Generation, PmId};
use crate::core::probe::Verdict;
use serde_json::Value;

/// One fact about one run.
#[derive(Debug)]
pub struct RunEvent {
    /// Of which instance.
    pub id: PmId,
    /// Of which run; the loop drops it if that run is past.
    pub generation: Generation,
    /// What.
    pub kind: RunEventKind,
}

/// What can be told of a run.
#[derive(Debug)]
pub enum RunEventKind {
    /// It has been exec'ed.
    Spawned {
        /// Its root process.
        pid: u32,
        /// What makes it known again.
        facts: RunFacts,
    },
    /// It could not be.
    SpawnFailed {
        /// Why, with the remedy.
        reason: String,
        /// What it lacks is something to install.
        not_installed: bool,
    },
    /// There is no room for it just now: descriptors, processes or memory are used up.
    Starved {
        /// What is used up, with the remedy.
        reason: String,
    },
    /// Its root process has ended and its output has been drained.
    Exited {
        /// How.
        cause: ExitCause,
        /// Descendants still live.
        leftovers: bool,
        /// The last lines of its standard error.
        stderr_tail: Vec<String>,
    },
    /// The last of its descendants has ended.
    TreeEmpty,
    /// It said something on Node's channel.
    Message(Value),
    /// How it stands as a worker of Node's cluster.
    Cluster(ClusterFact),
    /// Its probe's verdict, or the reason for it, has changed.
    Probe {
        /// The verdict.
        verdict: Verdict,
        /// The last answer, in words.
        detail: String,
    },
}
