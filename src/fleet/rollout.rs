//! A rollout at work: one instance tries the build, then the others take it one by one; whatever fails is taken back.
//!
//! Each step may be done again, and what is done stands in `.fornax/rollout.json`: a daemon that follows goes on with it.

use super::book::{Book, now_ms};
use super::canary::{self, Ran};
use super::renew::Renewal;
use super::rollout_file::Place;
use crate::comfyui::install::{Build, activate, lock};
use crate::core::comfyui::imports::Import;
use crate::core::ids::PmId;
use crate::core::monitor::facts::Event;
use crate::core::rollout::{Candidate, Kind, Phase, Rollout, first, newly_failing};
use crate::core::service::ServiceStatus;
use crate::core::status::Status;
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use crate::sys::lockfile::LockFile;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the canary job may find others before it.
const PROVEN_WITHIN: Duration = Duration::from_secs(120);
/// The pause between two tries of it.
const PAUSE: Duration = Duration::from_secs(1);

/// A rollout at work. Owner: its task.
pub(super) struct Rolling {
    handle: Handle,
    book: Book,
    place: Place,
    state: Rollout,
    _lock: LockFile,
}

/// The app's workspace: its tree is what it runs in.
pub(super) fn workspace_of(view: &InstanceView) -> Option<PathBuf> {
    let tree = Path::new(&*view.spec.cwd);
    let is = view.spec.fornax.kind.as_deref() == Some("comfyui") && tree.ends_with("ComfyUI");
    tree.parent().filter(|_| is).map(Path::to_owned)
}

impl Rolling {
    /// Takes the installer's lock for as long as it is at work. Blocking.
    pub fn begin(handle: Handle, book: Book, place: Place, state: Rollout) -> Result<Self, String> {
        let lock = lock(&place.layout).map_err(|error| error.to_string())?;
        Ok(Self {
            handle,
            book,
            place,
            state,
            _lock: lock,
        })
    }

    /// Rolls, to one of its two ends.
    pub async fn run(mut self) {
        let told = match self.state.phase {
            Phase::Trying => self.try_out().await,
            Phase::Rolling => self.roll().await,
            Phase::Undoing | Phase::Done | Phase::Failed => Err(None),
        };
        let why = match told {
            Ok(()) => return self.done().await,
            Err(why) => why,
        };
        if let Some(why) = why {
            tracing::error!(
                build = self.state.to,
                why,
                "the new build of comfyui failed"
            );
            self.state.error = Some(why);
        }
        match self.state.kind {
            Kind::Update => self.undo().await,
            Kind::Rollback => {
                self.end(Phase::Failed, "not all instances came up".to_owned())
                    .await
            }
        }
    }

    /// It cannot go on: what it was about has changed since it was broken off.
    pub async fn abandon(mut self) {
        self.state.error = Some("it was broken off, and other builds run since".to_owned());
        self.end(Phase::Failed, "broken off".to_owned()).await;
    }

    /// The instances of this workspace that run, or mean to.
    fn instances(&self) -> Vec<Arc<InstanceView>> {
        let snapshot = self.handle.snapshot();
        let ours = |view: &&Arc<InstanceView>| {
            let wanted = !matches!(view.status, Status::Stopped) && !view.retiring;
            wanted && workspace_of(view).is_some_and(|root| self.place.is(&root))
        };
        snapshot.instances.iter().filter(ours).cloned().collect()
    }

    async fn try_out(&mut self) -> Result<(), Option<String>> {
        let candidate = |view: Arc<InstanceView>| {
            let report = self.book.report(view.id);
            view.pid.map(|_| Candidate {
                name: view.spec.name.to_string(),
                healthy: view.service.status == ServiceStatus::Healthy,
                queue: report.map_or(0, |report| report.queue),
            })
        };
        let running: Vec<Candidate> = self.instances().into_iter().filter_map(candidate).collect();
        let known = self.state.canary.as_ref();
        let known = running.iter().find(|one| Some(&one.name) == known);
        let Some(canary) = known
            .or_else(|| first(&running))
            .map(|one| one.name.clone())
        else {
            // Nobody runs, so nobody can try it, and nobody is disturbed.
            return self.roll().await;
        };
        self.state.canary = Some(canary.clone());
        let before = self.failures(&canary);
        self.tell(format!("{canary} tries build {}", self.state.to));
        self.save().await?;
        let (layout, build) = (self.place.layout.clone(), self.build(&self.state.to));
        let app = canary.clone();
        blocking(move || layout.try_on(&build, &app)).await?;
        self.renew(&canary).await?;
        self.runs_it(&canary)?;
        let now = self.failures(&canary);
        if let Some(import) = newly_failing(&before, &now).first() {
            return Err(Some(format!(
                "{} does not import any more, and did before: {}",
                import.name, import.why
            )));
        }
        self.prove(&canary).await?;
        tracing::info!(
            app = canary,
            build = self.state.to,
            "a comfyui has tried the new build"
        );
        self.roll().await
    }

    fn failures(&self, name: &str) -> Vec<Import> {
        let report = self.id_of(name).and_then(|id| self.book.report(id));
        report.map_or_else(Vec::new, |report| report.import_failures.clone())
    }

    fn id_of(&self, name: &str) -> Option<PmId> {
        let view = self.renewal(name).view();
        view.ok().map(|view| view.id)
    }

    /// The process that answers is of the new build.
    fn runs_it(&self, name: &str) -> Result<(), String> {
        let view = self.renewal(name).view()?;
        let dir = self.build(&self.state.to).dir;
        let dir = std::fs::canonicalize(&dir).unwrap_or(dir);
        let cwd = view
            .pid
            .map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")));
        match cwd {
            Some(Ok(cwd)) if cwd.starts_with(&dir) => Ok(()),
            _ => Err(format!(
                "{name} does not run by the workspace's own Python, so it cannot try a build; start it by `fornax up` without --python, or update with --no-canary"
            )),
        }
    }

    /// The canary job, which others may come before.
    async fn prove(&mut self, name: &str) -> Result<(), String> {
        self.tell(format!("{name} runs a canary job"));
        let client = self.renewal(name).client()?;
        let until = Instant::now() + PROVEN_WITHIN;
        loop {
            let Ran { event, report, .. } = canary::run(&client).await;
            let why = report.why.unwrap_or_default();
            match event {
                Event::CanaryPassed => return Ok(()),
                Event::CanaryVoid if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                _ => return Err(format!("the canary job of {name} did not pass: {why}")),
            }
        }
    }

    /// The new build is the one that runs, and everybody takes it.
    async fn roll(&mut self) -> Result<(), Option<String>> {
        if self.state.phase == Phase::Trying {
            self.state.phase = Phase::Rolling;
            self.state.renewed.extend(self.state.canary.clone());
            self.tell(format!(
                "from now on every start is of build {}",
                self.state.to
            ));
            self.save().await?;
        }
        let (layout, build) = (self.place.layout.clone(), self.build(&self.state.to));
        blocking(move || layout.switch(&build).and_then(|()| layout.end_trials())).await?;
        if let Some(canary) = self.state.canary.clone() {
            self.undrain(&canary).await;
        }
        let mut failed = None;
        for view in self.instances() {
            let name = view.spec.name.to_string();
            if self.state.renewed.contains(&name) {
                continue;
            }
            let was_well = view.service.status == ServiceStatus::Healthy;
            if let Err(why) = self.renew(&name).await {
                match (self.state.kind, was_well) {
                    // One that was ill before proves nothing.
                    (Kind::Update, false) => self.tell(why),
                    (Kind::Update, true) => return Err(Some(why)),
                    (Kind::Rollback, _) => failed = failed.or(Some(why)),
                }
            }
            self.undrain(&name).await;
            self.state.renewed.push(name);
            self.save().await?;
        }
        failed.map_or(Ok(()), |why| Err(Some(why)))
    }

    /// No jobs, a restart, healthy.
    async fn renew(&mut self, name: &str) -> Result<(), String> {
        let (handle, wait) = (
            self.handle.clone(),
            Duration::from_millis(self.state.wait_ms),
        );
        let one = Renewal {
            handle: &handle,
            name,
        };
        let view = one.view()?;
        if !view.spec.draining && !self.state.drained.iter().any(|known| known == name) {
            self.state.drained.push(name.to_owned());
            self.save().await?;
        }
        one.drain(true).await?;
        self.book.drain(view.id, true);
        one.idle(wait, &mut |text| self.show(text)).await?;
        self.tell(format!("{name} is being restarted"));
        let before = one.restart().await?;
        one.healthy(before, &mut |text| self.show(text)).await
    }

    /// It takes jobs again, if it was us who told it not to.
    async fn undrain(&mut self, name: &str) {
        if !self.state.drained.iter().any(|known| known == name) {
            return;
        }
        if let Some(id) = self.id_of(name) {
            // It is gone, or the daemon ends: the next one tries again.
            if self.renewal(name).drain(false).await.is_err() {
                return;
            }
            self.book.drain(id, false);
        }
        self.state.drained.retain(|known| known != name);
    }

    /// Everybody back to the old build.
    async fn undo(&mut self) {
        self.state.phase = Phase::Undoing;
        self.tell("going back to the build before".to_owned());
        // What cannot be written now is told when it ends.
        let _ = self.save().await;
        let layout = self.place.layout.clone();
        let from = self.state.from.as_deref().map(|id| self.build(id));
        let before = self.state.before.as_deref().map(|id| self.build(id));
        let was = from.clone();
        let back = blocking(move || {
            layout.end_trials()?;
            match was {
                Some(was) if layout.current().as_ref() != Some(&was) => {
                    layout.switch_back(&was, before.as_ref())
                }
                _ => Ok(()),
            }
        });
        let mut troubles: Vec<String> = back.await.err().into_iter().collect();
        let mut touched = std::mem::take(&mut self.state.renewed);
        touched.extend(self.state.canary.clone());
        touched.extend(self.state.drained.clone());
        touched.sort();
        touched.dedup();
        for name in touched {
            if !self.runs_from(&name, from.as_ref())
                && let Err(why) = self.renew(&name).await
            {
                troubles.push(why);
            }
            self.undrain(&name).await;
        }
        let id = &self.state.to;
        let mut message = format!(
            "the build before runs again; build {id} is kept until the next install, update or `fornax comfyui clean`"
        );
        for trouble in troubles {
            message.push_str(&format!("; {trouble}"));
        }
        self.end(Phase::Failed, message).await;
    }

    fn runs_from(&self, name: &str, build: Option<&Build>) -> bool {
        let pid = self.renewal(name).view().ok().and_then(|view| view.pid);
        let dir = build.and_then(|build| std::fs::canonicalize(&build.dir).ok());
        let cwd = pid.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok());
        dir.zip(cwd).is_some_and(|(dir, cwd)| cwd.starts_with(dir))
    }

    async fn done(&mut self) {
        let (layout, build) = (self.place.layout.clone(), self.build(&self.state.to));
        let done = tokio::task::spawn_blocking(move || activate(&layout, &build)).await;
        let told = match done {
            Ok(Err(error)) => format!("; {error}"),
            Ok(Ok(())) | Err(_) => String::new(),
        };
        let count = self.state.renewed.len();
        let message = format!("build {} runs, on {count} instances{told}", self.state.to);
        self.end(Phase::Done, message).await;
    }

    async fn end(&mut self, phase: Phase, message: String) {
        for name in self.state.drained.clone() {
            self.undrain(&name).await;
        }
        self.state.phase = phase;
        self.tell(message);
        if let Err(why) = self.save().await {
            tracing::error!(why, "the end of a rollout cannot be written");
        }
    }

    fn renewal<'a>(&'a self, name: &'a str) -> Renewal<'a> {
        Renewal {
            handle: &self.handle,
            name,
        }
    }

    fn build(&self, id: &str) -> Build {
        self.place.layout.build(id)
    }

    /// Tells everybody what is done.
    fn tell(&mut self, message: String) {
        if self.state.message == message {
            return;
        }
        let (phase, build, said) = (self.state.phase.as_str(), &self.state.to, &message);
        tracing::info!(phase, build, said, "rollout of comfyui");
        self.show(message);
    }

    /// Tells whoever looks, and no log.
    fn show(&mut self, message: String) {
        self.state.message = message;
        self.state.updated_ms = now_ms();
        self.book.rollout(&self.state);
    }

    async fn save(&mut self) -> Result<(), String> {
        self.state.updated_ms = now_ms();
        self.book.rollout(&self.state);
        let (place, state) = (self.place.clone(), self.state.clone());
        blocking(move || place.write(&state)).await
    }
}

/// Something with files, on a thread for it.
async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("the builds cannot be changed: {error}")),
        Err(error) => Err(error.to_string()),
    }
}
