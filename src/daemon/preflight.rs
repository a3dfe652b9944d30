//! The checks before a spawn: what must be installed, a free port, a leased GPU.

use super::world::Needs;
use crate::adapters::keeper::Keeper;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::core::spec::cpus::Cpus;
use crate::core::spec::fornax::InstallCheck;
use crate::gpu::lease::{self, Lease, Owner};
use crate::gpu::meter::Meter;
use crate::gpu::place;
use crate::sys::procfs;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Leases by instance. A lock, not a message: taken by blocking preflights and released by the loop, for a map access each.
pub(super) type Leases = Arc<Mutex<HashMap<PmId, Leased>>>;

/// A leased GPU.
#[derive(Debug)]
pub(super) struct Leased {
    _lease: Lease,
    /// Memory that was in use on it before the app's first run, in bytes, if the driver told.
    used_before: Option<u64>,
}

impl Leased {
    /// One that another daemon has leased: what was in use before is not known.
    pub(super) fn adopted(lease: Lease) -> Self {
        Self {
            _lease: lease,
            used_before: None,
        }
    }
}

/// How long the driver may take to give a GPU's memory back after a run.
const FREED_WITHIN: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const FREED_EVERY: Duration = Duration::from_millis(200);
/// Memory that may be in use besides, in bytes: other programs come and go.
const FREED_BUT: u64 = 512 << 20;

/// Under which a lease is held by the keeper.
pub(super) fn lease_key(id: PmId) -> Key {
    Key::run(Held::Lease, id, Generation(0))
}

/// The checks before a spawn. Blocking.
pub(super) struct Preflight {
    pub(super) needs: Needs,
    pub(super) id: PmId,
    pub(super) app: String,
    pub(super) leases: Leases,
    pub(super) home: PathBuf,
    pub(super) keeper: Keeper,
}

impl Preflight {
    pub(super) fn is_needed(&self) -> bool {
        !self.needs.install.is_empty()
            || self.needs.port.is_some()
            || self.needs.gpu.is_some()
            || self.needs.cpus.is_some()
    }

    /// The processors that the run is bound to, or why it can't be.
    pub(super) fn check(&self) -> Result<Option<Vec<usize>>, (String, bool)> {
        self.refusal().map_or_else(|| Ok(self.processors()), Err)
    }

    fn processors(&self) -> Option<Vec<usize>> {
        match self.needs.cpus.as_ref()? {
            Cpus::These(all) => Some(all.clone()),
            Cpus::Auto => place::processors_near(self.needs.gpu.as_ref()?.uuid.as_deref()?),
        }
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
            .or_else(|| self.gpu_not_freed())
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
                    .insert(
                        self.id,
                        Leased {
                            _lease: lease,
                            used_before: Meter::open(uuid)
                                .and_then(|meter| meter.read())
                                .map(|reading| reading.memory_used),
                        },
                    );
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }
}

impl Preflight {
    /// Waits until the GPU's memory is as free as before the app's first run (comfyui-facts 4.7). Where others use the GPU, what
    /// is in use may be theirs.
    fn gpu_not_freed(&self) -> Option<String> {
        let uuid = self.needs.gpu.as_ref()?.uuid.as_deref()?;
        let before = {
            let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.get(&self.id)?.used_before?
        };
        let meter = Meter::open(uuid)?;
        let until = Instant::now() + FREED_WITHIN;
        loop {
            let used = meter.read()?.memory_used;
            if used <= before.saturating_add(FREED_BUT) {
                return None;
            }
            if Instant::now() >= until {
                let others = meter.users().unwrap_or_default();
                let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
                let (used, before) = (gib(used), gib(before));
                if others.is_empty() {
                    return Some(format!(
                        "GPU {uuid} still has {used:.1} GiB in use {} s after the last run ({before:.1} GiB before it), and the \
                         driver names nobody who uses it; reset it (`nvidia-smi --gpu-reset`), or restart the machine",
                        FREED_WITHIN.as_secs()
                    ));
                }
                tracing::warn!(
                    app = self.app,
                    uuid,
                    used,
                    before,
                    ?others,
                    "others use the memory of a leased gpu"
                );
                return None;
            }
            std::thread::sleep(FREED_EVERY);
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
