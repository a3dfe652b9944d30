//! Asking NVIDIA's driver, by its own library (NVML), loaded at run time: no driver means no GPUs, not a crash.

use super::inventory::{Gpu, GpuProcess, Inventory};
use crate::core::units::Bytes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use std::ffi::OsStr;

/// Where the library is looked for: by the name that a driver without development files installs, then by the bare
/// name, then where WSL puts it.
pub const LIBRARIES: [&str; 3] = [
    "libnvidia-ml.so.1",
    "libnvidia-ml.so",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
];

/// The most bytes asked for a process's name.
const NAME_LIMIT: usize = 256;

/// MIG is on (`NVML_DEVICE_MIG_ENABLE`, nvml.h).
const MIG_ENABLED: u32 = 1;

/// The GPUs told by the first of these libraries that can be loaded.
pub fn detect(libraries: &[&str]) -> Inventory {
    let mut failure = None;
    for library in libraries {
        match Nvml::builder().lib_path(OsStr::new(library)).init() {
            Ok(nvml) => return read(&nvml),
            Err(error @ NvmlError::LibloadingError(_)) => {
                // The first name is the usual one, so its failure is the one to tell.
                failure.get_or_insert(error);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    Inventory {
        note: failure.map(|error| format!("no NVIDIA driver: {}", explain(&error))),
        ..Inventory::default()
    }
}

/// Why the library did not start, and what to do.
fn explain(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(why) => format!(
            "its library could not be loaded ({why}); install the driver, or in a container ask for GPUs \
             (`--gpus all`), or simulate them (`--simulate`)"
        ),
        NvmlError::DriverNotLoaded => {
            "its library is here but its kernel module is not loaded; load it (`modprobe nvidia`), or in a container \
             ask for GPUs (`--gpus all`)"
                .to_owned()
        }
        NvmlError::LibRmVersionMismatch => {
            "its library and its kernel module differ in version, as after an update; reboot, or reload the module"
                .to_owned()
        }
        NvmlError::NoPermission => {
            "this user may not talk to it; see the permissions of /dev/nvidiactl".to_owned()
        }
        other => format!("its library did not start ({other})"),
    }
}

fn read(nvml: &Nvml) -> Inventory {
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => {
            return Inventory {
                driver: nvml.sys_driver_version().ok(),
                note: Some(format!("the NVIDIA driver does not list its GPUs: {error}")),
                ..Inventory::default()
            };
        }
    };
    let mut inventory = Inventory {
        driver: nvml.sys_driver_version().ok(),
        cuda: nvml.sys_cuda_driver_version().ok().map(|version| {
            format!(
                "{}.{}",
                cuda_driver_version_major(version),
                cuda_driver_version_minor(version)
            )
        }),
        ..Inventory::default()
    };
    let mut notes = Vec::new();
    for index in 0..count {
        let read = nvml
            .device_by_index(index)
            .and_then(|device| gpu(nvml, &device, index));
        match read {
            Ok(gpu) => inventory.gpus.push(gpu),
            // A lost card must not vanish without a word, nor take the others along.
            Err(error) => notes.push(format!("GPU {index} cannot be read: {error}")),
        }
    }
    if count == 0 {
        notes.push("the NVIDIA driver is here and shows no GPU".to_owned());
    }
    inventory.note = (!notes.is_empty()).then(|| notes.join("; "));
    inventory
}

/// One GPU. Only its UUID and name must be readable: without a UUID it can be neither leased nor told apart.
fn gpu(nvml: &Nvml, device: &Device<'_>, index: u32) -> Result<Gpu, NvmlError> {
    let memory = device.memory_info().ok();
    Ok(Gpu {
        index,
        uuid: device.uuid()?,
        name: device.name()?,
        memory_total: memory.as_ref().map(|memory| Bytes(memory.total)),
        memory_used: memory.as_ref().map(|memory| Bytes(memory.used)),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        utilisation_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        processes: processes(nvml, device),
        pci_bus_id: device.pci_info().ok().map(|pci| pci.bus_id),
        mig: device
            .mig_mode()
            .is_ok_and(|mode| mode.current == MIG_ENABLED),
        simulated: false,
        lease: None,
    })
}

/// Who uses it, in order of pid. `None` with drivers before 510, which lack this version of the call.
fn processes(nvml: &Nvml, device: &Device<'_>) -> Option<Vec<GpuProcess>> {
    let compute = device.running_compute_processes().ok();
    let graphics = device.running_graphics_processes().ok();
    if compute.is_none() && graphics.is_none() {
        return None;
    }
    let mut all: Vec<ProcessInfo> = compute.into_iter().chain(graphics).flatten().collect();
    all.sort_by_key(|process| process.pid);
    all.dedup_by_key(|process| process.pid);
    let describe = |process: ProcessInfo| GpuProcess {
        pid: process.pid,
        name: nvml
            .sys_process_name(process.pid, NAME_LIMIT)
            .ok()
            .map(|name| name.chars().filter(|c| !c.is_control()).collect())
            .filter(|name: &String| !name.is_empty()),
        memory_used: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(Bytes(bytes)),
            UsedGpuMemory::Unavailable => None,
        },
    };
    Some(all.into_iter().map(describe).collect())
}
