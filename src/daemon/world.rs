//! What the loop can do to the world, as a trait: the real one here, a recording one in tests.

use super::command::Command;
use super::handle::Handle;
pub use super::preflight::missing;
use super::preflight::{Leased, Leases, Preflight, lease_key};
use crate::adapters::adopt::{self, AdoptPlan};
use crate::adapters::event::{RunEvent, RunEventKind};
use crate::adapters::keeper::Inheritance;
use crate::adapters::plan::RunPlan;
use crate::adapters::probes::{self, ProbePlan};
use crate::adapters::records::Records;
use crate::adapters::runner::{self, Running};
use crate::adapters::watch::{Change, Watching};
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::core::signal::Signal;
use crate::core::spec::app::AppSpec;
use crate::core::spec::cpus::Cpus;
use crate::core::spec::fornax::{GpuRef, InstallCheck};
use crate::core::watch::WatchSpec;
use crate::gpu::lease::{self, Lease, Owner};
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// Everything that the loop causes. No method blocks or fails: outcomes come back as events.
pub trait World {
    /// Start a run. Answered by `Spawned` or `SpawnFailed`, and later by `Exited`.
    fn spawn(&mut self, plan: RunPlan, needs: Needs);
    /// Signal a run's whole tree.
    fn signal(&mut self, id: PmId, generation: Generation, signal: Signal);
    /// Signal a run's root process only.
    fn signal_root(&mut self, id: PmId, generation: Generation, signal: Signal);
    /// Send the message "shutdown" to a run; if it takes none, this signal to its tree.
    fn ask_to_stop(&mut self, id: PmId, generation: Generation, otherwise: Signal);
    /// Watch files for an instance; `None`: no longer. Answered by [`Command::Changed`].
    fn watch(&mut self, id: PmId, spec: Option<Arc<WatchSpec>>);
    /// The wall clock, in milliseconds since the Unix epoch. It may jump.
    fn wall_ms(&self) -> u64 {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        wall.unwrap_or_default().as_millis() as u64
    }
    /// Have a cluster worker close its servers and its channel.
    fn disconnect(&mut self, id: PmId, generation: Generation);
    /// Begin to probe a run.
    fn probe(&mut self, plan: ProbePlan);
    /// Stop probing an instance.
    fn stop_probe(&mut self, id: PmId);
    /// The instance needs its GPU no longer.
    fn release(&mut self, id: PmId);
    /// Serve a run that another daemon has spawned, and its lease of a GPU. Answered as a spawn is, from where it stands.
    fn adopt(&mut self, _plan: AdoptPlan, _gpu: Option<GpuRef>) {}
    /// The runs whose descriptors another daemon has left and that were not adopted: they have ended.
    fn left(&self) -> Vec<(PmId, Generation)> {
        Vec::new()
    }
    /// Write what is in the pipes of such a run.
    fn drain(&mut self, _plan: AdoptPlan) {}
    /// Nothing more is adopted.
    fn adoption_done(&mut self) {}
    /// The end of this root process is written down.
    fn reap(&mut self, _pid: u32) {}
    /// Whether anything is to be written down. A world without a successor remembers nothing.
    fn remembers(&self) -> bool {
        false
    }
    /// Write these entries down. `true`: [`World::remember_anew`] is due.
    fn remember(&mut self, _entries: &[Vec<u8>]) -> bool {
        false
    }
    /// Write these down in place of all that was.
    fn remember_anew(&mut self, _entries: Vec<Vec<u8>>) {}
    /// What marks the processes of our runs.
    fn mark(&self) -> Arc<str> {
        "".into()
    }
}

/// What must hold before a run is spawned.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// These exist.
    pub install: Vec<InstallCheck>,
    /// Relative to this folder.
    pub cwd: String,
    /// Nobody listens here.
    pub port: Option<u16>,
    /// This is leased to us, and its memory is free again.
    pub gpu: Option<GpuRef>,
    /// It runs on these processors.
    pub cpus: Option<Cpus>,
}

impl Needs {
    /// Of this app. The port of cluster workers is the daemon's own, for all of them.
    pub fn of(spec: &AppSpec) -> Self {
        Self {
            install: spec.fornax.install.clone(),
            cwd: spec.cwd.clone(),
            port: spec.fornax.port.filter(|_| spec.workers.is_none()),
            gpu: spec.fornax.gpu.clone(),
            cpus: spec.fornax.cpus.clone(),
        }
    }
}

/// The real world.
#[derive(Debug)]
pub struct RealWorld {
    /// What every run needs.
    pub running: Running,
    /// Whose tasks these are; all end with the daemon.
    pub tasks: TaskTracker,
    /// Who we are, for whoever is refused a GPU.
    pub home: PathBuf,
    probes: HashMap<PmId, AbortHandle>,
    leases: Leases,
    inherited: Inheritance,
    records: Option<Records>,
    watching: Watching,
}

impl RealWorld {
    /// A world without probes or leases yet. `inherited` is what another daemon has left.
    pub fn new(
        running: Running,
        tasks: TaskTracker,
        handle: &Handle,
        inherited: Inheritance,
    ) -> Self {
        let commands = handle.commands.clone();
        let report = move |Change { id, path, at }| {
            let at = tokio::time::Instant::from_std(at);
            // Nobody waits for the answer, and an error means that the loop has gone.
            let _ =
                commands.blocking_send((Command::Changed { id, path, at }, oneshot::channel().0));
        };
        Self {
            running,
            tasks,
            home: handle.info.home.clone(),
            probes: HashMap::new(),
            leases: Leases::default(),
            inherited,
            records: None,
            watching: Watching::new(Arc::new(report)),
        }
    }
}

impl World for RealWorld {
    fn spawn(&mut self, mut plan: RunPlan, needs: Needs) {
        let running = self.running.clone();
        let check = Preflight {
            needs,
            id: plan.id,
            app: plan.name.to_string(),
            leases: Arc::clone(&self.leases),
            home: self.home.clone(),
            keeper: self.running.keeper.clone(),
        };
        if !check.is_needed() {
            if self.records.is_some() {
                // It is written down: at once, not when the loop has done with its turn.
                self.tasks.spawn(runner::run(plan, running));
            } else {
                // Not before the table is: whoever comes after us must know of it.
                self.tasks
                    .spawn(async move { runner::run(plan, running).await });
            }
            return;
        }
        self.tasks.spawn(async move {
            let checked = tokio::task::spawn_blocking(move || check.check()).await;
            if let Ok(Ok(processors)) = checked {
                plan.processors = processors;
            } else if let Ok(Err((reason, not_installed))) = checked {
                let kind = RunEventKind::SpawnFailed {
                    reason,
                    not_installed,
                };
                let event = RunEvent {
                    id: plan.id,
                    generation: plan.generation,
                    kind,
                };
                // An error means that the loop has gone.
                let _ = running.events.send(event).await;
                return;
            }
            runner::run(plan, running).await;
        });
    }

    fn signal(&mut self, id: PmId, generation: Generation, signal: Signal) {
        let Some(run) = self.running.runs.get(id, generation) else {
            return;
        };
        self.tasks.spawn_blocking(move || {
            let pids = run.signal(signal);
            tracing::info!(pid = run.pid, %signal, processes = pids.len(), "signalled a tree");
        });
    }

    fn signal_root(&mut self, id: PmId, generation: Generation, signal: Signal) {
        if let Some(run) = self.running.runs.get(id, generation)
            && let Err(error) = run.signal_root(signal)
        {
            tracing::warn!(pid = run.pid, %signal, %error, "cannot send a signal");
        }
    }

    fn ask_to_stop(&mut self, id: PmId, generation: Generation, otherwise: Signal) {
        let asked = self
            .running
            .runs
            .get(id, generation)
            .is_some_and(|run| run.send(serde_json::Value::from("shutdown")));
        if !asked {
            self.signal(id, generation, otherwise);
        }
    }

    fn watch(&mut self, id: PmId, spec: Option<Arc<WatchSpec>>) {
        self.watching.set(id, spec);
    }

    fn disconnect(&mut self, id: PmId, generation: Generation) {
        self.running.cluster.disconnect((id, generation));
    }

    fn probe(&mut self, plan: ProbePlan) {
        let id = plan.id;
        let events = self.running.events.clone();
        let task = self
            .tasks
            .spawn(probes::watch(plan, events, Arc::clone(&self.running.roots)));
        if let Some(old) = self.probes.insert(id, task.abort_handle()) {
            old.abort();
        }
    }

    fn stop_probe(&mut self, id: PmId) {
        if let Some(task) = self.probes.remove(&id) {
            task.abort();
        }
    }

    fn release(&mut self, id: PmId) {
        let released = self
            .leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if released.is_some() {
            self.running.keeper.release(lease_key(id));
        }
    }

    fn adopt(&mut self, plan: AdoptPlan, gpu: Option<GpuRef>) {
        let id = plan.id;
        if let Some(lock) = self.inherited.remove(&lease_key(id))
            && let Some(uuid) = gpu.and_then(|gpu| gpu.uuid)
        {
            let owner = Owner::this_process(&self.home.display().to_string(), &plan.name);
            match lease::directory(&|name| std::env::var_os(name))
                .and_then(|folder| Lease::adopt(&folder, &uuid, &owner, lock))
            {
                Ok(lease) => {
                    self.leases
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(id, Leased::adopted(lease));
                }
                Err(error) => tracing::error!(app = &*plan.name, %error, "a GPU lease is lost"),
            }
        }
        self.tasks.spawn(adopt::adopt(
            plan,
            self.running.clone(),
            &mut self.inherited,
        ));
    }

    fn left(&self) -> Vec<(PmId, Generation)> {
        let outputs = self.inherited.keys().filter(|key| key.held == Held::Output);
        outputs.map(|key| (key.id, key.generation)).collect()
    }

    fn drain(&mut self, plan: AdoptPlan) {
        let (id, generation) = (plan.id, plan.generation);
        adopt::attach(plan, &self.running, &mut self.inherited);
        drop(self.running.plane.finish(id, generation));
        self.running.keeper.release_run(id, generation);
    }

    fn adoption_done(&mut self) {
        // It fails only at the end of the plane.
        let _ = self.running.plane.adoption_done();
        self.running.cluster.inherit(&mut self.inherited);
        for (key, _) in self.inherited.drain() {
            self.running.keeper.release(key);
        }
    }

    fn reap(&mut self, pid: u32) {
        self.running.roots.reap(pid);
    }

    fn remembers(&self) -> bool {
        self.running.keeper.pid().is_some()
    }

    fn remember(&mut self, entries: &[Vec<u8>]) -> bool {
        let Some(records) = &mut self.records else {
            return true;
        };
        let mut full = false;
        for entry in entries {
            match records.append(entry) {
                Ok(wanted) => full |= wanted,
                Err(error) => {
                    tracing::error!(%error, "the table could not be written down; it is tried again, whole");
                    return true;
                }
            }
        }
        full
    }

    fn remember_anew(&mut self, entries: Vec<Vec<u8>>) {
        let records = Records::create(entries).and_then(|records| {
            self.running
                .keeper
                .hold(&[(Key::own(Held::Table), records.as_fd())])?;
            Ok(records)
        });
        match records {
            Ok(records) => self.records = Some(records),
            // The former one stays held: a successor goes on from there.
            Err(error) => tracing::error!(%error, "the table could not be written down"),
        }
    }

    fn mark(&self) -> Arc<str> {
        Arc::clone(&self.running.daemon)
    }
}
