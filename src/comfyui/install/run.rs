//! The steps of an install in their order; each is done once, whatever ends the installer in between.

use super::child;
use super::copy;
use super::error::{InstallError, io_in};
use super::git::{self, Git, GitError, Wanted};
use super::layout::{Build, Layout};
use super::nodes::{self, Setup, Task};
use super::packages::{self, Packages};
use super::progress::{Listener, Teller, now_ms};
use super::python::{self, Python};
use super::record::{BuildState, Lock, NodeState, Plan, Record, StepRecord};
use super::settings::Hardware;
use super::validate::{self, Imported, Proof};
use super::whole;
use crate::comfyui::tree;
use crate::core::comfyui::torch;
use crate::core::machine::{Installer, Machine};
use crate::sys::lockfile::{LockError, LockFile, Share};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

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

/// Room that a whole environment with torch needs, in bytes: 6.1 GB, and what pip unpacks beside it (comfyui-facts 5.2).
const ROOM_WITH_TORCH: u64 = 12 << 30;
/// Room that anything else needs, in bytes.
const ROOM: u64 = 64 << 20;
/// How many modules that a tree forgets to require are mended in one install.
const MENDED: usize = 6;

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
    /// Looks up variables for templates.
    pub env: Box<dyn Fn(&str) -> Option<String> + 'a>,
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

/// One install at work.
struct Work<'a> {
    layout: &'a Layout,
    plan: &'a Plan,
    options: &'a Options<'a>,
    teller: &'a Teller<'a>,
    lock: Option<Lock>,
    build: Build,
    record: Record,
    uv: Option<PathBuf>,
}

impl<'a> Work<'a> {
    /// Looks what there is to go on with.
    fn begin(
        layout: &'a Layout,
        plan: &'a Plan,
        options: &'a Options<'a>,
        teller: &'a Teller<'a>,
    ) -> Result<Self, InstallError> {
        let locked = Lock::read(layout).map_err(io_in("preflight", "read", &layout.lock_file()))?;
        if options.locked && locked.is_none() {
            return Err(InstallError::Cannot {
                what: format!("there is no {}", layout.lock_file().display()),
                mend: "install without --locked once, or bring the file".to_owned(),
            });
        }
        let (build, mut record) = begun(layout, plan, options)?;
        // Equal plans may still have moved; a plan that has changed is looked at again in all steps but what it shares.
        if record.plan != *plan || options.moving != Moving::Nothing {
            record.undo(&["clone", "requirements", "nodes", "models", "validate"]);
        }
        record.undo(&["preflight", "switch"]);
        if !record.plan.same_base(plan) {
            record.undo(&["environment", "torch"]);
        }
        record.plan = plan.clone();
        let uv = uv(plan)?;
        teller.build(&build.id);
        Ok(Self {
            layout,
            plan,
            options,
            teller,
            lock: locked,
            build,
            record,
            uv,
        })
    }

    fn run(mut self) -> Result<Outcome, InstallError> {
        self.step(0, "is everything there that is needed?", Self::preflight)?;
        self.step(1, "the ComfyUI tree", Self::clone)?;
        self.step(2, "the Python environment", Self::environment)?;
        self.step(3, "torch, from one index", Self::torch)?;
        self.step(4, "ComfyUI's requirements", Self::requirements)?;
        self.step(5, "custom nodes", Self::nodes)?;
        self.step(6, "shared model folders", Self::models)?;
        self.step(7, "ComfyUI imports everything", Self::validate)?;
        if self.options.locked {
            self.same_as_lock()?;
        }
        if self.options.hold {
            return Ok(Outcome::Held(self.build));
        }
        self.step(8, "from now on this build runs", |work| {
            activate(work.layout, &work.build)
        })?;
        Ok(Outcome::Installed(self.build))
    }

    fn step(
        &mut self,
        at: usize,
        what: &str,
        how: impl FnOnce(&mut Self) -> Result<(), InstallError>,
    ) -> Result<(), InstallError> {
        let name = STEPS[at];
        if self.record.is_done(name) {
            return Ok(());
        }
        self.teller.phase(name, at as u32 + 1, what);
        let began = Instant::now();
        how(self)?;
        let seconds = began.elapsed().as_secs_f64();
        self.record.steps.push(StepRecord {
            step: name.to_owned(),
            seconds,
        });
        self.write()?;
        self.teller.done(name, seconds);
        Ok(())
    }

    fn write(&self) -> Result<(), InstallError> {
        let path = self.build.record();
        self.record
            .write(&self.build)
            .map_err(io_in("preflight", "write", &path))
    }

    fn git(&self) -> Git<'a> {
        Git {
            teller: self.teller,
            workspace: self.layout.workspace().root(),
        }
    }

    fn root(&self) -> &'a Path {
        self.layout.workspace().root()
    }

    fn packages(&self) -> Packages<'_> {
        Packages {
            teller: self.teller,
            workspace: self.layout.workspace().root(),
            build: &self.build,
            uv: self.uv.as_deref(),
        }
    }

    fn preflight(&mut self) -> Result<(), InstallError> {
        if child::in_path("git").is_none() {
            return Err(InstallError::Cannot {
                what: "there is no git in PATH".to_owned(),
                mend: "install git".to_owned(),
            });
        }
        let with_torch = self.plan.torch.iter().any(|name| name.starts_with("torch"));
        let needs = match self.record.is_done("torch") || self.plan.system_site_packages {
            false if with_torch => ROOM_WITH_TORCH,
            _ => ROOM,
        };
        let free = super::upkeep::free(&self.build.dir).map_err(io_in(
            "preflight",
            "look at",
            &self.build.dir,
        ))?;
        if free < needs {
            return Err(InstallError::Cannot {
                what: format!(
                    "the disk of {} has {} MB free, and this needs {} MB",
                    self.root().display(),
                    free >> 20,
                    needs >> 20
                ),
                mend: "free some room (`fornax comfyui clean` removes old builds), or choose another --workspace".to_owned(),
            });
        }
        if self.record.python.is_none() || !self.record.is_done("environment") {
            let python = self.python()?;
            self.teller.line(&format!(
                "Python {} at {}",
                python.version_text(),
                python.executable.display()
            ));
        }
        // A tree that is to be had from a network is asked for before minutes are spent.
        if !self.record.is_done("clone") && !self.build.tree().join(".git").exists() {
            self.git()
                .reachable(&self.plan.repository, self.plan.branch.as_deref())
                .map_err(|error| of_git("preflight", error))?;
        }
        Ok(())
    }

    fn python(&self) -> Result<Python, InstallError> {
        python::find(
            self.teller,
            self.root(),
            self.plan.python.as_deref(),
            self.uv.is_some(),
        )
    }

    /// The commit to take: the plan's own; else, unless it moves, the one that is locked for the same repository and branch.
    fn commit(
        &self,
        url: &str,
        branch: Option<&str>,
        own: Option<&str>,
        moves: bool,
        locked: Option<&super::record::TreeRecord>,
    ) -> Option<String> {
        if let Some(own) = own {
            return Some(own.to_owned());
        }
        if moves && !self.options.locked {
            return None;
        }
        let url = crate::core::comfyui::manifest::redacted(url);
        locked
            .filter(|locked| locked.url == url && locked.branch.as_deref() == branch)
            .map(|locked| locked.commit.clone())
    }

    fn clone(&mut self) -> Result<(), InstallError> {
        let moves = self.options.moving == Moving::Everything;
        let commit = self.commit(
            &self.plan.repository,
            self.plan.branch.as_deref(),
            self.plan.commit.as_deref(),
            moves,
            self.lock.as_ref().map(|lock| &lock.repository),
        );
        let wanted = Wanted {
            url: &self.plan.repository,
            branch: self.plan.branch.as_deref(),
            commit: commit.as_deref(),
            recursive: false,
        };
        let got = self
            .git()
            .obtain(&self.build.tree(), wanted)
            .map_err(|error| of_git("clone", error))?;
        for name in ["main.py", "requirements.txt"] {
            if !self.build.tree().join(name).is_file() {
                return Err(InstallError::Step {
                    step: "clone",
                    what: format!(
                        "{} at {} has no {name}: it is no ComfyUI",
                        got.url, got.commit
                    ),
                    mend: "check `repository`, `branch` and `commit`".to_owned(),
                    lines: Vec::new(),
                });
            }
        }
        let moved = self
            .record
            .tree
            .as_ref()
            .is_none_or(|old| old.commit != got.commit);
        if moved {
            self.record.undo(&["requirements"]);
        }
        self.record.tree = Some(got);
        Ok(())
    }

    fn environment(&mut self) -> Result<(), InstallError> {
        let python = self.python()?;
        python::make(
            self.teller,
            self.root(),
            &python,
            &self.build,
            self.uv.as_deref(),
            self.plan.system_site_packages,
        )?;
        self.record.python = Some(python.executable.display().to_string());
        self.record.python_version = Some(python.version_text());
        self.record.installer = Some(if self.uv.is_some() { "uv" } else { "pip" }.to_owned());
        self.record.constraints.clear();
        self.record.dirty = false;
        Ok(())
    }

    /// Around everything that changes the environment: a pip that was cut off is known afterwards, and made good.
    fn with_pip<T>(
        &mut self,
        how: impl FnOnce(&mut Self) -> Result<T, InstallError>,
    ) -> Result<T, InstallError> {
        if self.record.dirty {
            let site = python::site_packages(&self.build)?;
            let broken = whole::mend(&site).map_err(io_in("environment", "mend", &site))?;
            if !broken.is_empty() {
                self.teller.line(&format!(
                    "not whole, installed again: {}",
                    broken.join(", ")
                ));
            }
        }
        self.record.dirty = true;
        self.write()?;
        let outcome = how(self)?;
        self.record.dirty = false;
        Ok(outcome)
    }

    fn torch(&mut self) -> Result<(), InstallError> {
        self.with_pip(Self::install_torch)
    }

    fn install_torch(&mut self) -> Result<(), InstallError> {
        let mut held = self.held_by_lock();
        self.hold(&held)?;
        let seen = self.seen()?;
        let names: Vec<String> = self
            .plan
            .torch
            .iter()
            .filter_map(|text| packages::name_of(text))
            .collect();
        let all_there = self.plan.system_site_packages
            && names
                .iter()
                .all(|name| seen.iter().any(|package| package.name == *name));
        if all_there {
            self.teller
                .line("torch comes with the Python that was given");
        } else {
            self.fetch_torch()?;
        }
        let seen = self.seen()?;
        for package in seen.iter().filter(|package| names.contains(&package.name)) {
            let pin = format!("{}=={}", package.name, package.version);
            if !held.contains(&pin) {
                held.retain(|known| packages::name_of(known).as_ref() != Some(&package.name));
                held.push(pin);
            }
        }
        self.hold(&held)
    }

    fn fetch_torch(&mut self) -> Result<(), InstallError> {
        let source = match &self.lock {
            Some(lock) if self.options.locked => lock.torch_index.clone(),
            _ => Some(self.plan.torch_source.clone()).filter(|source| source != "pypi"),
        };
        let mut sources = vec![source.clone()];
        // Any torch runs on the processor, so the ordinary index serves where PyTorch's own cannot be reached.
        if source.as_deref() == Some(&format!("{}cpu", torch::BASE)) {
            sources.push(None);
        }
        let mut failure = None;
        for source in sources {
            let index = source.as_deref();
            self.teller.say("which torch?", Some(0.0));
            let packages = self.packages();
            let mut requirements = self.plan.torch.clone();
            if let Some(found) = packages.resolve(&requirements, index)
                && let Some(held) = torch::aligned(&requirements, &found)
            {
                let note = format!(
                    "torch and torchaudio would be of different versions; held to {}",
                    held.join(" ")
                );
                self.teller.line(&note);
                requirements = held;
            }
            let args: Vec<&str> = requirements.iter().map(String::as_str).collect();
            let python = self.build.python();
            let ran = packages
                .install(&args, self.root(), index)
                .map_err(io_in("torch", "run", &python))?;
            if ran.ok {
                self.record.torch_index = source;
                return Ok(());
            }
            let (what, mend) = ran.cause();
            failure = Some(InstallError::Step {
                step: "torch",
                what: format!("{}: {what}", index.unwrap_or("the package index")),
                mend: format!(
                    "{mend}; `torch_index` and `torch` in fornax.json say what is installed"
                ),
                lines: ran.tail(),
            });
        }
        Err(failure.expect("there is one source at least"))
    }

    /// Versions of the lock file, where nothing is to move.
    fn held_by_lock(&self) -> Vec<String> {
        let holds = self.options.locked
            || self.options.moving == Moving::Nothing && self.record.copied_from.is_none();
        match &self.lock {
            Some(lock) if holds => lock
                .packages
                .iter()
                .filter(|package| package.contains("==") && !package.contains(" @ "))
                .cloned()
                .collect(),
            _ => Vec::new(),
        }
    }

    fn hold(&mut self, pins: &[String]) -> Result<(), InstallError> {
        self.record.constraints = pins.to_vec();
        let path = self.packages().constraints_file();
        let text: String = pins.iter().map(|pin| format!("{pin}\n")).collect();
        crate::sys::files::replace(&path, text.as_bytes(), crate::sys::files::Readers::Anybody)
            .map_err(io_in("requirements", "write", &path))
    }

    fn seen(&self) -> Result<Vec<whole::Package>, InstallError> {
        let site = python::site_packages(&self.build)?;
        let mut path = vec![site];
        if self.plan.system_site_packages {
            let asked = python::ask(self.teller, self.root(), &self.build.python());
            path.extend(asked.map(|python| python.path).unwrap_or_default());
        }
        Ok(self.packages().seen(&path))
    }

    fn requirements(&mut self) -> Result<(), InstallError> {
        self.with_pip(|work| {
            let tree = work.build.tree();
            let file = tree.join("requirements.txt");
            let text = crate::comfyui::files::read_limited(&file, 1 << 20).map_err(io_in(
                "requirements",
                "read",
                &file,
            ))?;
            // Those that an older tree or list held may move with the new one.
            let torch: BTreeSet<String> = work
                .plan
                .torch
                .iter()
                .filter_map(|text| packages::name_of(text))
                .collect();
            let mut held: Vec<String> = work
                .record
                .constraints
                .iter()
                .filter(|pin| packages::name_of(pin).is_some_and(|name| torch.contains(&name)))
                .cloned()
                .collect();
            for pin in work.held_by_lock() {
                if !held
                    .iter()
                    .any(|known| packages::name_of(known) == packages::name_of(&pin))
                {
                    held.push(pin);
                }
            }
            work.hold(&held)?;
            work.must_install("requirements", &["-r", "requirements.txt"], &tree)?;
            if !work.plan.packages.is_empty() {
                let args: Vec<&str> = work.plan.packages.iter().map(String::as_str).collect();
                work.must_install("requirements", &args, &tree)?;
            }
            work.hold_core(&text, held)
        })
    }

    fn must_install(
        &self,
        step: &'static str,
        args: &[&str],
        cwd: &Path,
    ) -> Result<(), InstallError> {
        let python = self.build.python();
        let ran = self
            .packages()
            .install(args, cwd, None)
            .map_err(io_in(step, "run", &python))?;
        if ran.ok {
            return Ok(());
        }
        let (what, mend) = ran.cause();
        Err(InstallError::Step {
            step,
            what,
            mend,
            lines: ran.tail(),
        })
    }

    /// What ComfyUI itself asks for is held from here on: a node that wants another version fails alone.
    fn hold_core(&mut self, requirements: &str, mut held: Vec<String>) -> Result<(), InstallError> {
        let seen = self.seen()?;
        let (lines, _) = packages::lines(requirements);
        let asked = lines.iter().chain(&self.plan.packages);
        for name in asked.filter_map(|line| packages::name_of(line)) {
            let known = held
                .iter()
                .any(|pin| packages::name_of(pin).as_ref() == Some(&name));
            let package = seen
                .iter()
                .find(|package| package.name == name && package.url.is_none());
            if let (Some(package), false) = (package, known) {
                held.push(format!("{}=={}", package.name, package.version));
            }
        }
        self.hold(&held)
    }

    fn nodes(&mut self) -> Result<(), InstallError> {
        self.with_pip(Self::install_nodes)
    }

    fn install_nodes(&mut self) -> Result<(), InstallError> {
        let dir = self.build.nodes();
        fs::create_dir_all(&dir).map_err(io_in("nodes", "make", &dir))?;
        let wanted: BTreeSet<&str> = self
            .plan
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let gone: Vec<String> = self
            .record
            .nodes
            .keys()
            .filter(|name| !wanted.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            nodes::remove(&dir, &name)?;
            self.record.nodes.remove(&name);
        }
        for entry in fs::read_dir(&dir)
            .map_err(io_in("nodes", "read", &dir))?
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name.ends_with(".part") {
                nodes::remove(&dir, &name)?;
            }
        }
        let mut tasks = Vec::new();
        for node in &self.plan.nodes {
            let moves = match &self.options.moving {
                Moving::Nothing => false,
                Moving::Everything => true,
                Moving::Nodes(names) => names.contains(&node.name),
            };
            let known = self.record.nodes.get(&node.name);
            let as_it_was = known.is_some_and(|known| {
                known.wanted == *node
                    && matches!(known.state, NodeState::Installed | NodeState::ImportFailed)
            }) && dir.join(&node.name).is_dir();
            if as_it_was && !moves {
                continue;
            }
            let locked = self
                .lock
                .as_ref()
                .and_then(|lock| lock.nodes.get(&node.name));
            let commit = self.commit(
                &node.url,
                node.branch.as_deref(),
                node.commit.as_deref(),
                moves,
                locked,
            );
            tasks.push(Task {
                node: node.clone(),
                commit,
            });
        }
        let git = self.git();
        let count = tasks.len();
        let version = tree::version(&self.build.tree());
        nodes::obtain(git, &dir, &tasks, self.options.clones, |at, got| {
            let node = &tasks[at].node;
            self.teller.say(
                &format!("{}/{count} {}", at + 1, node.name),
                Some(at as f64 / count as f64),
            );
            let record = match got {
                Err(error) => nodes::failed(node, &error),
                Ok(tree) => {
                    let same = self.record.nodes.get(&node.name).is_some_and(|known| {
                        known.wanted == *node
                            && known.commit.as_ref() == Some(&tree.commit)
                            && known.state == NodeState::Installed
                    });
                    if same {
                        return Ok(());
                    }
                    let packages = self.packages();
                    let setup = Setup {
                        packages: &packages,
                        comfyui: version.as_deref(),
                        env: &*self.options.env,
                    };
                    setup.run(node, &tree)?
                }
            };
            for problem in &record.problems {
                self.teller.line(&format!("-- {}: {problem}", node.name));
            }
            self.record.nodes.insert(node.name.clone(), record);
            self.write()
        })
    }

    fn models(&mut self) -> Result<(), InstallError> {
        let workspace = self.layout.workspace();
        workspace
            .prepare_dirs(&[])
            .map_err(|error| InstallError::Step {
                step: "models",
                what: error.to_string(),
                mend: "check that the workspace may be written to".to_owned(),
                lines: Vec::new(),
            })?;
        match &self.options.models {
            None => Ok(()),
            Some(pull) => {
                // A model that cannot be had is told, and does not keep the others from running.
                if let Err(why) = pull(self.teller) {
                    self.record.notes.push(format!("models: {why}"));
                }
                Ok(())
            }
        }
    }

    fn validate(&mut self) -> Result<(), InstallError> {
        let imports = self.prove()?;
        self.record.notes = validate::core_notes(&imports);
        for import in imports.nodes.iter().filter(|import| !import.ok) {
            if let Some(node) = self.record.nodes.get_mut(&import.name) {
                node.state = NodeState::ImportFailed;
                let why = format!("import failed: {}", import.why);
                if !node.problems.contains(&why) {
                    node.problems.push(why);
                }
            } else {
                self.record.notes.push(format!(
                    "the node {} did not import: {}",
                    import.name, import.why
                ));
            }
        }
        for (name, node) in &mut self.record.nodes {
            let imported = imports
                .nodes
                .iter()
                .any(|import| import.name == *name && import.ok);
            if imported && node.state == NodeState::ImportFailed {
                node.problems
                    .retain(|problem| !problem.starts_with("import failed:"));
                node.state = match node.problems.is_empty() {
                    true => NodeState::Installed,
                    false => NodeState::Incomplete,
                };
            }
        }
        self.record.imports = imports;
        let site = python::site_packages(&self.build)?;
        self.record.packages = whole::packages(&site)
            .into_iter()
            .map(|package| match package.url {
                Some(url) => format!("{} @ {url}", package.name),
                None => format!("{}=={}", package.name, package.version),
            })
            .collect();
        self.record.state = BuildState::Ready;
        Ok(())
    }

    /// ComfyUI imports everything; a module that its tree forgets to require is installed on the way.
    fn prove(&mut self) -> Result<crate::core::comfyui::imports::Imports, InstallError> {
        let mut mended = Vec::new();
        loop {
            let outcome = {
                let proof = Proof {
                    teller: self.teller,
                    workspace: self.root(),
                    build: &self.build,
                    gpu: !self.options.hardware.cpu && self.options.hardware.cuda.is_some(),
                };
                proof.torch()?;
                proof.imports()?
            };
            let ran = match outcome {
                Imported::Starts(imports) => return Ok(imports),
                Imported::Dies(ran) => ran,
            };
            match validate::missing_package(&ran) {
                Some(package) if !mended.contains(&package) && mended.len() < MENDED => {
                    self.teller.line(&format!(
                        "the tree needs {package} and does not say so; it is installed"
                    ));
                    self.teller.say(
                        &format!("installing {package}, which the tree needs and does not name"),
                        None,
                    );
                    mended.push(package);
                    self.with_pip(|work| work.must_install("validate", &[package], work.root()))?;
                }
                _ => {
                    let (what, mend) = ran.cause();
                    return Err(InstallError::Step {
                        step: "validate",
                        what: format!("ComfyUI does not start: {what}"),
                        mend,
                        lines: ran.tail(),
                    });
                }
            }
        }
    }

    fn same_as_lock(&self) -> Result<(), InstallError> {
        let made = Lock::of(&self.record);
        let differs = |what: String| InstallError::Step {
            step: "validate",
            what: format!("this is not what the lock file says: {what}"),
            mend: "install without --locked to move, or undo the change".to_owned(),
            lines: Vec::new(),
        };
        let (Some(made), Some(lock)) = (made, &self.lock) else {
            return Err(differs("it has no tree".to_owned()));
        };
        if made.repository.commit != lock.repository.commit {
            return Err(differs(format!("ComfyUI is at {}", made.repository.commit)));
        }
        for (name, node) in &lock.nodes {
            if made.nodes.get(name).map(|made| &made.commit) != Some(&node.commit) {
                return Err(differs(format!(
                    "the node {name} is not at {}",
                    node.commit
                )));
            }
        }
        let has: BTreeSet<&String> = made.packages.iter().collect();
        match lock.packages.iter().find(|package| !has.contains(package)) {
            Some(package) => Err(differs(format!("there is no {package}"))),
            None => Ok(()),
        }
    }
}

/// The build to go on with: one that was cut off and begins the same way, else a copy of what runs, else an empty one.
fn begun(
    layout: &Layout,
    plan: &Plan,
    options: &Options<'_>,
) -> Result<(Build, Record), InstallError> {
    let current = layout.current();
    let previous = layout.previous();
    let mut unfinished = None;
    for build in layout.builds() {
        if Some(&build) == current.as_ref() || Some(&build) == previous.as_ref() {
            continue;
        }
        let Some(record) = Record::of(&build) else {
            git::remove(&build.dir).map_err(io_in("preflight", "remove", &build.dir))?;
            continue;
        };
        if record.state == BuildState::Building {
            unfinished = Some((build, record));
        }
    }
    super::upkeep::remove_parts(layout).map_err(io_in(
        "preflight",
        "clear",
        &layout.builds_dir(),
    ))?;
    if let Some((build, record)) = unfinished {
        if record.plan.same_base(plan) && !options.fresh {
            return Ok((build, record));
        }
        git::remove(&build.dir).map_err(io_in("preflight", "remove", &build.dir))?;
    }
    let build = layout.next();
    let mut record = Record::begun(plan.clone(), now_ms());
    let base = current.and_then(|build| Record::of(&build).map(|record| (build, record)));
    match base {
        Some((from, old)) if old.plan.same_base(plan) && !options.fresh && !options.locked => {
            copy::build(&from, &build).map_err(io_in("preflight", "copy to", &build.dir))?;
            record.copied_from = Some(from.id);
            record.tree = old.tree;
            record.python = old.python;
            record.python_version = old.python_version;
            record.installer = old.installer;
            record.torch_index = old.torch_index;
            record.nodes = old.nodes;
            record.constraints = old.constraints;
            let kept = ["environment", "torch"];
            record.steps = old
                .steps
                .into_iter()
                .filter(|done| {
                    kept.contains(&done.step.as_str())
                        || done.step == "requirements" && old.plan.packages == plan.packages
                })
                .collect();
        }
        _ => fs::create_dir_all(&build.dir).map_err(io_in("preflight", "make", &build.dir))?,
    }
    // Until this is there the folder counts for nothing, and is removed by the next run.
    record
        .write(&build)
        .map_err(io_in("preflight", "write", &build.record()))?;
    Ok((build, record))
}

/// uv, if it is there and may be used. It does not count the packages of another Python as installed.
fn uv(plan: &Plan) -> Result<Option<PathBuf>, InstallError> {
    let found = child::in_path("uv");
    match plan.installer {
        Installer::Pip => Ok(None),
        Installer::Auto if plan.system_site_packages => Ok(None),
        Installer::Auto => Ok(found),
        Installer::Uv => found.map(Some).ok_or_else(|| InstallError::Cannot {
            what: "there is no uv in PATH".to_owned(),
            mend: "install it, or set `installer` in fornax.json to \"pip\"".to_owned(),
        }),
    }
}

fn of_git(step: &'static str, error: GitError) -> InstallError {
    InstallError::Step {
        step,
        what: error.what,
        mend: error.mend,
        lines: error.lines,
    }
}
