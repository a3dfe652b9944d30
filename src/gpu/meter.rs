//! One GPU's figures again and again, by a driver's library that stays loaded.

use super::nvml::LIBRARIES;
use nvml_wrapper::Nvml;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One look at a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Memory in use, by anybody, in bytes.
    pub memory_used: u64,
    /// All of it, in bytes.
    pub memory_total: u64,
    /// Share of the last sample period in which a kernel ran, 0 to 100.
    pub busy_percent: u32,
}

/// Reads one GPU.
#[derive(Debug)]
pub struct Meter {
    nvml: Arc<Nvml>,
    uuid: String,
}

/// The library, loaded once for as long as somebody measures. A lock and not a message: it is held to look.
static LOADED: Mutex<Weak<Nvml>> = Mutex::new(Weak::new());

fn load() -> Option<Arc<Nvml>> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvml) = loaded.upgrade() {
        return Some(nvml);
    }
    let nvml = LIBRARIES
        .iter()
        .find_map(|library| Nvml::builder().lib_path(OsStr::new(library)).init().ok())?;
    let nvml = Arc::new(nvml);
    *loaded = Arc::downgrade(&nvml);
    Some(nvml)
}

impl Meter {
    /// Of the GPU with this UUID; `None` without a driver, for a simulated one, and for one that the driver does not know.
    /// Blocking.
    pub fn open(uuid: &str) -> Option<Self> {
        if uuid.starts_with(super::simulated::PREFIX) {
            return None;
        }
        let nvml = load()?;
        nvml.device_by_uuid(uuid).ok()?;
        Some(Self {
            nvml,
            uuid: uuid.to_owned(),
        })
    }

    /// Its PCI bus id, such as `00000000:3B:00.0`. Blocking.
    pub fn pci_bus_id(&self) -> Option<String> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str()).ok()?;
        device.pci_info().ok().map(|pci| pci.bus_id)
    }

    /// The processes that use it, as the driver numbers them; `None` if it does not tell. Blocking.
    pub fn users(&self) -> Option<Vec<u32>> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str()).ok()?;
        let users = device.running_compute_processes().ok()?;
        Some(users.into_iter().map(|user| user.pid).collect())
    }

    /// One look; `None` when the driver does not tell. Blocking: a driver in trouble may take its time.
    pub fn read(&self) -> Option<Reading> {
        let device = self.nvml.device_by_uuid(self.uuid.as_str()).ok()?;
        let memory = device.memory_info().ok()?;
        Some(Reading {
            memory_used: memory.used,
            memory_total: memory.total,
            busy_percent: device.utilization_rates().map_or(0, |rates| rates.gpu),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_gpu_is_not_asked_of_a_driver() {
        assert!(Meter::open("SIM-c1b678761df0b930-0").is_none());
    }
}
