//! What an install is asked for and how it ends; one installer at a time.

use super::child;
use super::error::{InstallError, io_in};
use super::layout::{Build, Layout};
use super::nodes;
use super::progress::{Listener, Teller};
use super::record::{BuildState, Lock, Plan, Record};
use super::settings::Hardware;
use super::work::Work;
use crate::comfyui::ecosystem;
use crate::core::machine::Machine;
use crate::sys::lockfile::{LockError, LockFile, Share};
use std::fs;

/// The steps, in their order.
pub const STEPS: [&str; 9] = [
    "preflight",
    "clone",
    "environment",
    "torch",
    "requirements",
    "nodes",
    "models",
    "validate",
    "switch",
];

/// What may move to newer commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Moving {
    /// Nothing: what is installed or locked stays.
    #[default]
    Nothing,
    /// ComfyUI and every node without a commit of its own.
    Everything,
    /// These nodes.
    Nodes(Vec<String>),
}

/// What is called in the step `models`, with a way to tell of it.
pub type Models<'a> = Box<dyn Fn(&Teller<'_>) -> Result<(), String> + 'a>;

/// Looks up a variable by its name.
pub type Lookup<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// How to install.
pub struct Options<'a> {
    /// What may move.
    pub moving: Moving,
    /// Begin from nothing, not from a copy of what is installed.
    pub fresh: bool,
    /// Exactly what the lock file says, or fail.
    pub locked: bool,
    /// Stop before the switch: the build is ready, and somebody else tries it first.
    pub hold: bool,
    /// What the machine has.
    pub hardware: Hardware,
    /// How many repositories are cloned at once.
    pub clones: usize,
    /// Pulls models, if that is wanted.
    pub models: Option<Models<'a>>,
    /// The operator's flags for every instance and for single ones, which the tree must know.
    pub arguments: Vec<String>,
    /// Looks up variables for templates.
    pub env: Lookup<'a>,
}

impl Options<'_> {
    /// The usual ones for these settings.
    pub fn of(machine: &Machine, hardware: Hardware) -> Self {
        Self {
            moving: Moving::Nothing,
            fresh: false,
            locked: false,
            hold: false,
            hardware,
            clones: machine.clones.map_or(4, |count| count as usize),
            models: None,
            arguments: ecosystem::all_arguments(machine),
            env: Box::new(|name| std::env::var(name).ok()),
        }
    }
}

/// How an install ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What is wanted is installed already.
    UpToDate(Build),
    /// A new build runs from the next start on.
    Installed(Build),
    /// A new build is ready and not switched to.
    Held(Build),
}

/// Whether what is wanted is what is installed, by a look at files.
pub fn is_current(layout: &Layout, plan: &Plan) -> Option<Build> {
    let build = layout.current()?;
    let record = Record::of(&build)?;
    let whole = record.state == BuildState::Ready
        && record.plan == *plan
        && build.python().exists()
        && layout.workspace().tree().join("main.py").is_file();
    whole.then_some(build)
}

/// Installs what is wanted. Blocks for as long as it takes.
///
/// # Errors
/// The step that failed and how to mend it. What was installed before still is.
pub fn install(
    layout: &Layout,
    plan: &Plan,
    options: &Options<'_>,
    listener: Listener<'_>,
) -> Result<Outcome, InstallError> {
    if !layout.is_ours() {
        return Err(InstallError::ByHand(layout.workspace().tree()));
    }
    let lock = lock(layout)?;
    let nothing_moves = options.moving == Moving::Nothing && !options.fresh;
    if let (true, Some(build)) = (nothing_moves, is_current(layout, plan)) {
        mend_lock_file(layout, &build)?;
        refresh_env(&build, plan, options)?;
        return Ok(Outcome::UpToDate(build));
    }
    let teller = Teller::new(layout, STEPS.len() as u32, listener).map_err(io_in(
        "preflight",
        "write",
        &layout.log_file(),
    ))?;
    let ended = child::end_leftovers(layout.workspace().root());
    if ended > 0 {
        teller.line(&format!(
            "{ended} processes of an installer that was cut off are ended"
        ));
    }
    let outcome = Work::begin(layout, plan, options, &teller).and_then(Work::run);
    match &outcome {
        Ok(Outcome::Held(_)) => teller.end(Ok("ready, not switched to")),
        Ok(Outcome::UpToDate(_)) => teller.end(Ok("nothing is newer")),
        Ok(_) => teller.end(Ok("installed")),
        Err(error) => {
            teller.line(&format!("== failed: {error}"));
            teller.end(Err(error.to_string()));
        }
    }
    drop(lock);
    outcome
}

/// Takes the installer's lock, and makes the folder that it lies in.
///
/// # Errors
/// Another has it.
pub fn lock(layout: &Layout) -> Result<LockFile, InstallError> {
    let dir = layout.workspace().state_dir();
    fs::create_dir_all(&dir).map_err(io_in("preflight", "make", &dir))?;
    let path = layout.installer_lock();
    let note = format!("{{\"pid\":{}}}\n", std::process::id());
    LockFile::try_acquire(&path, note.as_bytes(), Share::Owner).map_err(|error| match error {
        LockError::Held { note, pid, .. } => {
            let told = serde_json::from_slice::<serde_json::Value>(&note).ok();
            let told = told.and_then(|note| u32::try_from(note["pid"].as_u64()?).ok());
            InstallError::Busy {
                workspace: layout.workspace().root().to_owned(),
                pid: pid.or(told),
            }
        }
        other => InstallError::Cannot {
            what: other.to_string(),
            mend: "check that the workspace may be written to".to_owned(),
        },
    })
}

/// Makes a ready build the one that runs, writes the lock file, and removes what nobody needs any more.
///
/// # Errors
/// A link or the lock file cannot be written.
pub fn activate(layout: &Layout, build: &Build) -> Result<(), InstallError> {
    layout
        .switch(build)
        .and_then(|()| layout.end_trials())
        .map_err(io_in("switch", "switch to", &build.dir))?;
    mend_lock_file(layout, build)?;
    super::upkeep::prune(layout);
    Ok(())
}

/// The lock file says what runs, also after a kill between a switch and its writing.
fn mend_lock_file(layout: &Layout, build: &Build) -> Result<(), InstallError> {
    let Some(lock) = Record::of(build).and_then(|record| Lock::of(&record)) else {
        return Ok(());
    };
    let path = layout.lock_file();
    lock.write(layout).map_err(io_in("switch", "write", &path))
}

/// Variables may have changed since the nodes were installed.
fn refresh_env(build: &Build, plan: &Plan, options: &Options<'_>) -> Result<(), InstallError> {
    for node in &plan.nodes {
        let dir = build.nodes().join(&node.name);
        if dir.is_dir() {
            nodes::write_env(&dir, node, &*options.env, &|_| {})?;
        }
    }
    Ok(())
}
