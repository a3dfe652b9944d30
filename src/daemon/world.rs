//! What the loop can do to the world, as a trait: the real one here, a recording one in tests.

use crate::adapters::adopt::{self, AdoptPlan};
use crate::adapters::event::{RunEvent, RunEventKind};
use crate::adapters::keeper::{Inheritance, Keeper};
use crate::adapters::probes::{self, ProbePlan};
use crate::adapters::records::Records;
use crate::adapters::runner::{self, RunPlan, Running};
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::core::signal::Signal;
use crate::core::spec::fornax::{FornaxBlock, GpuRef, InstallCheck};
use crate::gpu::lease::{self, Lease, Owner};
use crate::sys::procfs;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// This is leased to us.
    pub gpu: Option<GpuRef>,
}

impl Needs {
    /// Of an app with this block.
    pub fn of(fornax: &FornaxBlock, cwd: &str) -> Self {
        Self {
            install: fornax.install.clone(),
            cwd: cwd.to_owned(),
            port: fornax.port,
            gpu: fornax.gpu.clone(),
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
}

/// Leases by instance. A lock, not a message: taken by blocking preflights and released by the loop, for a map access each.
type Leases = Arc<Mutex<HashMap<PmId, Lease>>>;

impl RealWorld {
    /// A world without probes or leases yet. `inherited` is what another daemon has left.
    pub fn new(
        running: Running,
        tasks: TaskTracker,
        home: PathBuf,
        inherited: Inheritance,
    ) -> Self {
        Self {
            running,
            tasks,
            home,
            probes: HashMap::new(),
            leases: Leases::default(),
            inherited,
            records: None,
        }
    }
}

impl World for RealWorld {
    fn spawn(&mut self, plan: RunPlan, needs: Needs) {
        let running = self.running.clone();
        let check = Preflight {
            needs,
            id: plan.id,
            app: plan.name.to_string(),
            leases: Arc::clone(&self.leases),
            home: self.home.clone(),
            keeper: self.running.keeper.clone(),
        };
        self.tasks.spawn(async move {
            if check.is_needed() {
                let refused = tokio::task::spawn_blocking(move || check.refusal()).await;
                if let Ok(Some((reason, not_installed))) = refused {
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
                        .insert(id, lease);
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

fn lease_key(id: PmId) -> Key {
    Key::run(Held::Lease, id, Generation(0))
}

/// The checks before a spawn. Blocking.
struct Preflight {
    needs: Needs,
    id: PmId,
    app: String,
    leases: Leases,
    home: PathBuf,
    keeper: Keeper,
}

impl Preflight {
    fn is_needed(&self) -> bool {
        !self.needs.install.is_empty() || self.needs.port.is_some() || self.needs.gpu.is_some()
    }

    /// Why the run can't be: the reason, and whether something is to be installed.
    fn refusal(&self) -> Option<(String, bool)> {
        if let Some(missing) = missing(&self.needs.install, &self.needs.cwd) {
            return Some((missing, true));
        }
        self.needs
            .port
            .and_then(busy)
            .or_else(|| self.lease_gpu())
            .map(|reason| (reason, false))
    }

    fn lease_gpu(&self) -> Option<String> {
        let uuid = self.needs.gpu.as_ref()?.uuid.as_ref()?;
        if self
            .leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&self.id)
        {
            return None;
        }
        let owner = Owner::this_process(&self.home.display().to_string(), &self.app);
        let folder = match lease::directory(&|name| std::env::var_os(name)) {
            Ok(folder) => folder,
            Err(error) => return Some(error.to_string()),
        };
        match Lease::acquire(&folder, uuid, &owner) {
            Ok(lease) => {
                if let Err(error) = self.keeper.hold(&[(lease_key(self.id), lease.as_fd())]) {
                    tracing::error!(app = self.app, %error, "the keeper does not hold a GPU lease");
                }
                self.leases
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(self.id, lease);
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }
}

/// What is missing of an installation, in words.
pub fn missing(checks: &[InstallCheck], cwd: &str) -> Option<String> {
    let absent = checks
        .iter()
        .find(|check| !Path::new(cwd).join(&check.path).exists())?;
    let path = Path::new(cwd).join(&absent.path);
    Some(match &absent.hint {
        Some(hint) => format!("{} does not exist; {hint}", path.display()),
        None => format!("{} does not exist", path.display()),
    })
}

/// Who has the port, in words; `None` if it is free.
fn busy(port: u16) -> Option<String> {
    let taken = |address: &str| {
        let outcome = std::net::TcpListener::bind((address, port));
        outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
    };
    if !taken("127.0.0.1") {
        return None;
    }
    let holders: Vec<String> = procfs::listeners(port)
        .into_iter()
        .map(|pid| {
            format!(
                "{} (pid {pid})",
                procfs::name(pid).unwrap_or_else(|| "process".to_owned())
            )
        })
        .collect();
    let who = if holders.is_empty() {
        "another process".to_owned()
    } else {
        holders.join(", ")
    };
    Some(format!(
        "port {port} is already taken by {who}; stop it, or choose another port"
    ))
}
