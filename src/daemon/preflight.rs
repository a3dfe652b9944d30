//! The checks before a spawn: what must be installed, a free port, a leased GPU.

use super::world::Needs;
use crate::adapters::keeper::Keeper;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::core::spec::fornax::InstallCheck;
use crate::gpu::lease::{self, Lease, Owner};
use crate::sys::procfs;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Leases by instance. A lock, not a message: taken by blocking preflights and released by the loop, for a map access each.
pub(super) type Leases = Arc<Mutex<HashMap<PmId, Lease>>>;

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
        !self.needs.install.is_empty() || self.needs.port.is_some() || self.needs.gpu.is_some()
    }

    /// Why the run can't be: the reason, and whether something is to be installed.
    pub(super) fn refusal(&self) -> Option<(String, bool)> {
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
