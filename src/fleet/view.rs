//! What everybody else sees of the fleet: immutable reports, replaced as a whole.

use crate::comfyui::install::{Record, State};
use crate::comfyui::models::links::LinkReport;
use crate::comfyui::models::status::FileStatus;
use crate::comfyui::models::told::PullState;
use crate::core::comfyui::imports::Import;
use crate::core::ids::{Generation, PmId};
use crate::core::monitor::cause::Cause;
use crate::core::monitor::facts::{Activity, Diagnosis};
use crate::core::rollout::Rollout;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Incidents kept of an instance; older ones go.
pub const INCIDENTS: usize = 50;
/// Names kept of what an instance has loaded; older ones go.
pub const LOADED: usize = 16;

/// All monitored instances at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// By id.
    pub instances: BTreeMap<PmId, Arc<Report>>,
    /// The rollout that is at work, or the last one that is known of.
    pub rollout: Option<Arc<Rollout>>,
    /// What the workspace's files tell; of several workspaces, the one that was looked at last.
    pub facts: Option<Arc<Facts>>,
}

/// What the files of a workspace tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Its folder.
    pub workspace: String,
    /// The build that runs.
    pub build: Option<String>,
    /// The last good one before it.
    pub previous: Option<String>,
    /// What the build was made from.
    pub record: Option<Arc<Record>>,
    /// What the installer does, or has done last; `broken_off` when it was killed.
    pub installer: Option<Arc<State>>,
    /// The models.
    pub models: Arc<ModelFacts>,
}

/// The models that are wanted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelFacts {
    /// Why the manifests cannot be read.
    pub error: Option<String>,
    /// How many files are wanted.
    pub wanted: usize,
    /// How many of them are there.
    pub whole: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// Each, at most 1,000; those that are not there first.
    pub files: Vec<FileStatus>,
    /// Links, at most 1,000.
    pub links: Vec<LinkReport>,
    /// Pulls at work, and the last ones.
    pub pulls: Vec<PullState>,
}

/// One instance at one moment.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its id.
    pub id: PmId,
    /// Its app.
    pub app: Arc<str>,
    /// The run that is told of.
    pub generation: Generation,
    /// Where it answers.
    pub port: u16,
    /// How it is; `None` when it does not run.
    pub diagnosis: Option<Diagnosis>,
    /// What it is at; `None` when it does not run.
    pub activity: Option<Activity>,
    /// How its last run ended, if that has a name.
    pub ended: Option<Ended>,
    /// Prompts that wait or run in it, the canary's too.
    pub queue: u64,
    /// A job runs, and nothing at all has been seen of it for so long, in milliseconds.
    pub quiet_ms: Option<u64>,
    /// How long that may be, in milliseconds.
    pub quiet_limit_ms: u64,
    /// How long the last answer took, in milliseconds.
    pub answered_in_ms: Option<u64>,
    /// When it was last looked at, in milliseconds since the Unix epoch.
    pub looked_at_ms: u64,
    /// No new jobs are to be given to it.
    pub draining: bool,
    /// Node packs, and modules of the core, that it could not import, with the error where it was told.
    pub import_failures: Vec<Import>,
    /// What it has loaded, by the names it printed, the latest last. Cleared when it unloads or starts anew.
    pub loaded: Vec<String>,
    /// The latest canary job of this run.
    pub canary: Option<CanaryReport>,
    /// What it says of itself.
    pub devices: Option<Devices>,
    /// Restarts that are left to cure it.
    pub restarts_left: u32,
    /// What has happened, oldest first.
    pub incidents: VecDeque<Incident>,
}

/// A run's end, named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub cause: Cause,
    /// In words, with what it said.
    pub message: String,
}

/// A canary job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryReport {
    /// When it was run, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// From its submission to its history entry, in milliseconds; `None`: it did not pass.
    pub took_ms: Option<u64>,
    /// Why it did not pass, or could not be tried.
    pub why: Option<String>,
}

/// What an instance says of itself (`GET /system_stats`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// ComfyUI's version.
    pub comfyui: String,
    /// Python's.
    pub python: String,
    /// torch's.
    pub torch: String,
    /// Its device's name.
    pub device: String,
    /// `cuda`, `cpu`.
    pub kind: String,
    /// Its device's memory, in bytes.
    pub vram_total: u64,
    /// Free of it, in bytes. Low in an idle instance too: models stay loaded.
    pub vram_free: u64,
}

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncidentKind {
    /// It came up, or starts anew.
    Start,
    /// Something is wrong.
    Ill,
    /// A job of it failed for want of memory.
    Job,
    /// Something is tried.
    Cure,
    /// It is well again.
    Cured,
    /// Nothing more is tried.
    GivenUp,
    /// A node pack could not be imported.
    Import,
    /// It ended by itself.
    Exit,
}

impl IncidentKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            IncidentKind::Start => "start",
            IncidentKind::Ill => "ill",
            IncidentKind::Job => "job",
            IncidentKind::Cure => "cure",
            IncidentKind::Cured => "cured",
            IncidentKind::GivenUp => "given_up",
            IncidentKind::Import => "import_failed",
            IncidentKind::Exit => "exit",
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// In which run.
    pub generation: Generation,
    /// Of what kind.
    pub kind: IncidentKind,
    /// What is wrong, if something is.
    pub cause: Option<Cause>,
    /// In words.
    pub message: String,
}

impl View {
    /// The instance of this app, or with this id.
    pub fn of_app<'a>(&'a self, app: &'a str) -> impl Iterator<Item = &'a Arc<Report>> {
        self.instances
            .values()
            .filter(move |report| &*report.app == app)
    }
}
