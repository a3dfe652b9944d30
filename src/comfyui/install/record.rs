//! What a build was made from, which steps are done, and the lock file from which it can be made again.

use super::layout::{Build, Layout};
use crate::comfyui::files::read_limited;
use crate::core::comfyui::imports::Imports;
use crate::core::comfyui::manifest::Node;
use crate::core::machine::Installer;
use crate::sys::files::{self, Readers};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// The form of the files here.
pub const VERSION: u32 = 1;
/// The most that is read of one, in bytes.
const LIMIT: u64 = 16 << 20;

/// What is wanted: equal plans, equal builds, but for what floats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// ComfyUI's repository.
    pub repository: String,
    /// Its branch or tag.
    pub branch: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// The Python that was asked for.
    pub python: Option<String>,
    /// The environment sees that Python's packages.
    pub system_site_packages: bool,
    /// What installs packages.
    pub installer: Installer,
    /// Where torch comes from: `pypi` or a URL.
    pub torch_source: String,
    /// The torch packages.
    pub torch: Vec<String>,
    /// Further requirements.
    pub packages: Vec<String>,
    /// The custom nodes in their order.
    pub nodes: Vec<Node>,
}

impl Plan {
    /// Whether an environment made for the other one serves this one too, to be added to.
    pub fn same_base(&self, other: &Self) -> bool {
        self.python == other.python
            && self.system_site_packages == other.system_site_packages
            && self.torch_source == other.torch_source
            && self.torch == other.torch
    }
}

/// How far a build has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    /// Not whole: an installer works on it, or was cut off.
    Building,
    /// Whole and proven.
    Ready,
}

/// What came of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Everything that it asked for is there.
    Installed,
    /// Its code is there; something that it asked for is not.
    Incomplete,
    /// Its code is not there.
    Failed,
    /// ComfyUI could not import it.
    ImportFailed,
}

impl NodeState {
    /// The word for people.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Installed => "installed",
            NodeState::Incomplete => "incomplete",
            NodeState::Failed => "failed",
            NodeState::ImportFailed => "import failed",
        }
    }
}

/// A custom node of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What came of it.
    pub state: NodeState,
    /// Its repository, without passwords.
    pub url: String,
    /// The commit that is checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What went wrong, each with how to mend it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Variables of its `env` that are not set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
    /// Name and version of its `pyproject.toml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What it was installed from; a change is a reason to look again.
    pub wanted: Node,
}

/// A git working tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeRecord {
    /// The remote.
    pub url: String,
    /// The branch or tag that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that is checked out.
    pub commit: String,
}

/// A step that is done, and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step.
    pub step: String,
    /// Seconds.
    pub seconds: f64,
}

/// `build.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The form of this file.
    pub version: u32,
    /// How far it is.
    pub state: BuildState,
    /// What it is made from.
    pub plan: Plan,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// The build that it was copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_from: Option<String>,
    /// The tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeRecord>,
    /// The interpreter that the environment was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub python_version: Option<String>,
    /// `uv` or `pip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installer: Option<String>,
    /// The index that torch came from; `None` for the ordinary one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_index: Option<String>,
    /// What holds versions for everything that is installed later.
    #[serde(default)]
    pub constraints: Vec<String>,
    /// A pip was at work and has not been seen to end.
    #[serde(default)]
    pub dirty: bool,
    /// The custom nodes by name.
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeRecord>,
    /// What ComfyUI itself said of its imports.
    #[serde(default)]
    pub imports: Imports,
    /// Warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The packages of the environment.
    #[serde(default)]
    pub packages: Vec<String>,
    /// The flags that its `main.py --help` lists.
    #[serde(default)]
    pub flags: BTreeSet<String>,
    /// The steps that are done.
    #[serde(default)]
    pub steps: Vec<StepRecord>,
}

impl Record {
    /// Of a build that is begun.
    pub fn begun(plan: Plan, now_ms: u64) -> Self {
        Self {
            version: VERSION,
            state: BuildState::Building,
            plan,
            began_ms: now_ms,
            copied_from: None,
            tree: None,
            python: None,
            python_version: None,
            installer: None,
            torch_index: None,
            constraints: Vec::new(),
            dirty: false,
            nodes: BTreeMap::new(),
            imports: Imports::default(),
            notes: Vec::new(),
            packages: Vec::new(),
            flags: BTreeSet::new(),
            steps: Vec::new(),
        }
    }

    /// Reads a build's record; `None` if it has none that can be read.
    pub fn of(build: &Build) -> Option<Self> {
        let text = read_limited(&build.record(), LIMIT).ok()?;
        let record: Self = serde_json::from_str(&text).ok()?;
        (record.version == VERSION).then_some(record)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, build: &Build) -> io::Result<()> {
        // A list of nodes may hold passwords in its URLs and texts.
        write_json(&build.record(), self, Readers::Owner)
    }

    /// Whether a step is done.
    pub fn is_done(&self, step: &str) -> bool {
        self.steps.iter().any(|done| done.step == step)
    }

    /// These steps are to be done again.
    pub fn undo(&mut self, steps: &[&str]) {
        self.steps
            .retain(|done| !steps.contains(&done.step.as_str()));
    }
}

/// `fornax.lock.json`: from it an identical install can be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// The form of this file.
    pub version: u32,
    /// ComfyUI.
    pub repository: TreeRecord,
    /// The Python's version.
    pub python: String,
    /// The index that torch came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_index: Option<String>,
    /// The custom nodes by name.
    pub nodes: BTreeMap<String, TreeRecord>,
    /// The packages, each with its version.
    pub packages: Vec<String>,
}

impl Lock {
    /// Of a whole build.
    pub fn of(record: &Record) -> Option<Self> {
        let node = |(name, node): (&String, &NodeRecord)| {
            let tree = TreeRecord {
                url: node.url.clone(),
                branch: node.wanted.branch.clone(),
                commit: node.commit.clone()?,
            };
            Some((name.clone(), tree))
        };
        Some(Self {
            version: VERSION,
            repository: record.tree.clone()?,
            python: record.python_version.clone()?,
            torch_index: record.torch_index.clone(),
            nodes: record.nodes.iter().filter_map(node).collect(),
            packages: record.packages.clone(),
        })
    }

    /// Reads the workspace's; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(layout: &Layout) -> io::Result<Option<Self>> {
        let text = match read_limited(&layout.lock_file(), LIMIT) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let lock: Self = serde_json::from_str(&text)?;
        match lock.version {
            VERSION => Ok(Some(lock)),
            other => Err(io::Error::other(format!(
                "its version is {other}, and this fornax reads {VERSION}"
            ))),
        }
    }

    /// Writes the workspace's, unless it says so already.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, layout: &Layout) -> io::Result<()> {
        if matches!(Self::read(layout), Ok(Some(known)) if known == *self) {
            return Ok(());
        }
        write_json(&layout.lock_file(), self, Readers::Anybody)
    }
}

/// A file as indented JSON, whole or not at all.
pub(super) fn write_json(path: &Path, value: &impl Serialize, readers: Readers) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    files::replace(path, text.as_bytes(), readers)
}
