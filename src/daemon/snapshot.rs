//! What everybody but the loop sees of the table: immutable views, replaced as a whole.

use crate::adapters::sampler::Usage;
use crate::core::exit::LastExit;
use crate::core::ids::{Generation, PmId};
use crate::core::select::Candidate;
use crate::core::service::{Dependency, ServiceState};
use crate::core::spec::app::AppSpec;
use crate::core::spec::conf::Conf;
use crate::core::status::Status;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// All instances at one moment, by ascending id.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The instances.
    pub instances: Vec<Arc<InstanceView>>,
}

impl Snapshot {
    /// The instance with this id.
    pub fn get(&self, id: PmId) -> Option<&Arc<InstanceView>> {
        self.instances
            .binary_search_by_key(&id, |view| view.id)
            .ok()
            .map(|at| &self.instances[at])
    }

    /// What a selection looks at.
    pub fn candidates(&self) -> Vec<Candidate<'_>> {
        self.instances.iter().map(|view| view.candidate()).collect()
    }
}

/// One instance at one moment.
#[derive(Debug, Clone)]
pub struct InstanceView {
    /// Its id.
    pub id: PmId,
    /// It is not the instance's own run, but the one that a reload replaces.
    pub retiring: bool,
    /// Its latest run.
    pub generation: Generation,
    /// PM2's word for its state.
    pub status: Status,
    /// Its root process, while it runs.
    pub pid: Option<u32>,
    /// What it should be.
    pub spec: Arc<AppSpec>,
    /// The same as it came over the wire.
    pub conf: Conf,
    /// PM2's `unique_id`.
    pub unique_id: Arc<str>,
    /// `version` of the nearest package.json, else `N/A`.
    pub version: Arc<str>,
    /// The version of the Node that runs it, once known.
    pub node_version: Option<Arc<str>>,
    /// Automatic and manual restarts.
    pub restarts: u32,
    /// Crashes within `min_uptime` in a row.
    pub unstable_restarts: u32,
    /// PM2's `prev_restart_delay`, in milliseconds.
    pub last_backoff_ms: u64,
    /// When counting began, in milliseconds since the Unix epoch; `None` after giving up.
    pub created_at_ms: Option<u64>,
    /// When the latest run began.
    pub started_at_ms: u64,
    /// The code that PM2 shows, once a run has ended.
    pub exit_code: Option<i32>,
    /// How the last run ended.
    pub last_exit: Option<Arc<LastExit>>,
    /// What port 9090 tells.
    pub service: ServiceState,
    /// What it depends on, and how that stands.
    pub dependencies: Vec<Dependency>,
    /// What the app has told over its channel.
    pub axm: Arc<Axm>,
}

impl InstanceView {
    /// For a selection.
    pub fn candidate(&self) -> Candidate<'_> {
        Candidate {
            id: self.id,
            name: &self.spec.name,
            namespace: &self.spec.namespace,
            script: &self.spec.exec_path,
            module: self.spec.module,
        }
    }
}

/// PM2's agent data: actions, metrics and options that an app has announced.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Axm {
    /// `axm_actions`.
    pub actions: Vec<Value>,
    /// `axm_monitor`.
    pub monitor: Map<String, Value>,
    /// `axm_options`.
    pub options: Map<String, Value>,
}

impl Axm {
    /// It has told nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Memory and CPU by instance, of the run that was measured.
pub type Usages = HashMap<PmId, (Generation, Usage)>;
