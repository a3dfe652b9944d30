//! What GPUs there are: the words for them, whether the driver told us or we made them up.

use super::lease;
use crate::core::spec::fornax::GpuRef;
use crate::core::units::Bytes;
use serde::Serialize;
use std::path::Path;

/// One GPU. A reading that its driver cannot give is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its index in PCI bus order, from 0: NVML's order, and CUDA's with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    pub index: u32,
    /// The driver's UUID (`GPU-…`), or `SIM-…`. It stays when cards are added, so it is what a lease names.
    pub uuid: String,
    /// The driver's name of the model.
    pub name: String,
    /// All of its memory.
    pub memory_total: Option<Bytes>,
    /// Memory in use, by anybody.
    pub memory_used: Option<Bytes>,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Share of the last sample period in which a kernel ran, 0 to 100.
    pub utilisation_percent: Option<u32>,
    /// Processes that use it, compute and graphics; `None` if the driver does not tell.
    pub processes: Option<Vec<GpuProcess>>,
    /// Its PCI bus id, such as `00000000:3B:00.0`.
    pub pci_bus_id: Option<String>,
    /// MIG mode is on: the card is cut into GPU instances, which Fornax does not place apps on one by one.
    pub mig: bool,
    /// Made up by `--simulate`.
    pub simulated: bool,
    /// Who has leased it on this machine, as far as a look at the lock file tells.
    pub lease: Option<lease::Owner>,
}

impl Gpu {
    /// How an ecosystem file refers to it.
    pub fn reference(&self) -> GpuRef {
        GpuRef {
            index: self.index,
            uuid: Some(self.uuid.clone()),
            name: Some(self.name.clone()),
        }
    }
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuProcess {
    /// Its pid as the driver tells it; inside a container that is the host's number.
    pub pid: u32,
    /// Its program; `None` if the driver cannot see it from here.
    pub name: Option<String>,
    /// The GPU memory it uses; `None` if the driver does not tell.
    pub memory_used: Option<Bytes>,
}

/// The GPUs of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// In order of index.
    pub gpus: Vec<Gpu>,
    /// The NVIDIA driver's version.
    pub driver: Option<String>,
    /// The newest CUDA version that the driver serves, such as `12.8`.
    pub cuda: Option<String>,
    /// What a person should know: why there are no GPUs, or which one cannot be read.
    pub note: Option<String>,
}

impl Inventory {
    /// Fills in who has leased which GPU, by the lock files in `dir`.
    pub fn with_leases(mut self, dir: &Path) -> Self {
        for gpu in &mut self.gpus {
            gpu.lease = lease::owner(dir, &gpu.uuid);
        }
        self
    }
}

/// The NVIDIA GPUs of this machine, by its driver's library, loaded now. Without a driver the list is empty and the note
/// says why. Costs one failed library look-up without a driver, and tens of milliseconds with one.
pub fn detect() -> Inventory {
    super::nvml::detect(&super::nvml::LIBRARIES)
}

/// `n` simulated GPUs of a workspace; see [`super::simulated`].
pub fn simulated(n: u32, workspace: &Path) -> Inventory {
    super::simulated::inventory(n, workspace)
}
