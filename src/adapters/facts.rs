//! What makes a run known again to a daemon that did not spawn it.

use crate::sys::cgroup::Cgroup;
use crate::sys::procfs;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Told of a run once, when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The start time of its root process, in clock ticks since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// The folder of its cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// The kernel's count of out-of-memory kills when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

impl RunFacts {
    /// Of a run whose daemon ended before it could write any of them: as they are seen now.
    pub fn of_newborn(root: u32) -> Self {
        Self {
            start_time: procfs::stat(root).map(|stat| stat.start_time),
            cgroup: Cgroup::of(root).map(|cgroup| cgroup.path().to_owned()),
            oom_kills: procfs::oom_kills(),
        }
    }
}
