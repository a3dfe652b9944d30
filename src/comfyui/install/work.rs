//! One install at work: its steps in their order, each done once.

mod environment;
mod proof;

use super::begun::{begun, of_git, uv};
use super::child;
use super::error::{InstallError, io_in};
use super::git::{Git, Wanted};
use super::layout::{Build, Layout};
use super::packages::Packages;
use super::progress::Teller;
use super::python::{self, Python};
use super::record::{Lock, Plan, Record, StepRecord, TreeRecord};
use super::run::{Moving, Options, Outcome, STEPS, activate};
use crate::core::comfyui::manifest;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Room that a whole environment with torch needs, in bytes: 6.1 GB, and what pip unpacks beside it (comfyui-facts 5.2).
const ROOM_WITH_TORCH: u64 = 12 << 30;
/// Room that anything else needs, in bytes.
const ROOM: u64 = 64 << 20;

/// One install at work.
pub(super) struct Work<'a> {
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
    pub(super) fn begin(
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
        let urls = plan.nodes.iter().map(|node| &node.url);
        for url in urls.chain([&plan.repository]) {
            // git tells whole URLs in its errors.
            if let Some(password) = manifest::password_of(url) {
                teller.hide(password);
            }
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

    pub(super) fn run(mut self) -> Result<Outcome, InstallError> {
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
            if let Some(current) = self.same_as_current() {
                super::git::remove(&self.build.dir).map_err(io_in(
                    "switch",
                    "remove",
                    &self.build.dir,
                ))?;
                return Ok(Outcome::UpToDate(current));
            }
            return Ok(Outcome::Held(self.build));
        }
        self.step(8, "from now on this build runs", |work| {
            activate(work.layout, &work.build)
        })?;
        Ok(Outcome::Installed(self.build))
    }

    /// The build that runs, if nothing has moved since it was copied.
    fn same_as_current(&self) -> Option<Build> {
        let current = self.layout.current()?;
        let old = Record::of(&current)?;
        let copied = self.record.copied_from.as_ref() == Some(&current.id);
        let same = old.plan == self.record.plan
            && old.tree == self.record.tree
            && old.nodes == self.record.nodes
            && old.packages == self.record.packages;
        (copied && same).then_some(current)
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
        locked: Option<&TreeRecord>,
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
}
