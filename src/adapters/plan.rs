//! What a run is made of.

use super::logs::LogConfig;
use crate::core::cluster::Sched;
use crate::core::ids::{Generation, PmId};
use crate::sys::spawn::UserIds;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What to run.
#[derive(Debug)]
pub struct RunPlan {
    /// The instance.
    pub id: PmId,
    /// The run.
    pub generation: Generation,
    /// Its app's name.
    pub name: Arc<str>,
    /// Its app's namespace.
    pub namespace: Arc<str>,
    /// The program or interpreter: an absolute path, or a name looked up in the `PATH` of `env`.
    pub program: String,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// The script, absolute; the program itself where nothing interprets it.
    pub script: String,
    /// Whether it is Node, and is told to use source maps.
    pub source_maps: bool,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    pub cwd: String,
    /// Whom it runs as.
    pub user: Option<UserIds>,
    /// The file its pid is written to.
    pub pid_path: Option<PathBuf>,
    /// Where its output goes.
    pub logs: Arc<LogConfig>,
    /// The processors it is bound to from birth.
    pub processors: Option<Vec<usize>>,
    /// It is a worker of Node's cluster, served in this way.
    pub cluster: Option<Sched>,
    /// Node is to load our agent before its script.
    pub agent: bool,
}
