//! Where a GPU sits in the machine: the processors of its NUMA node.

use super::meter::Meter;
use crate::core::spec::cpus::Cpus;
use std::path::Path;

/// The processors near the GPU with this UUID; `None` where all are equally near, or where nobody can tell. Blocking.
pub fn processors_near(uuid: &str) -> Option<Vec<usize>> {
    let bus = Meter::open(uuid)?.pci_bus_id()?;
    near(Path::new("/sys"), &bus)
}

/// `bus` is the driver's `00000000:3B:00.0`; sysfs writes four digits of the domain, in small letters.
fn near(sys: &Path, bus: &str) -> Option<Vec<usize>> {
    let nodes = std::fs::read_to_string(sys.join("devices/system/node/online")).ok()?;
    if Cpus::list(&nodes)?.len() < 2 {
        return None;
    }
    let bus = bus.to_ascii_lowercase();
    let (domain, rest) = bus.split_once(':')?;
    let domain = domain.get(domain.len().checked_sub(4)?..)?;
    let plain = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    if !rest.chars().all(plain) {
        return None;
    }
    let device = sys.join(format!("bus/pci/devices/{domain}:{rest}"));
    let node = std::fs::read_to_string(device.join("numa_node")).ok()?;
    // -1: the firmware does not tell.
    if node.trim().parse::<i32>().ok()? < 0 {
        return None;
    }
    Cpus::list(&std::fs::read_to_string(device.join("local_cpulist")).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_of_the_gpus_node_are_found_where_there_are_several() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let device = "bus/pci/devices/0000:3b:00.0";
        write("devices/system/node/online", "0-1\n");
        write(&format!("{device}/numa_node"), "1\n");
        write(&format!("{device}/local_cpulist"), "8-11,24-27\n");
        let found = near(sys.path(), "00000000:3B:00.0");
        assert_eq!(found, Some(vec![8, 9, 10, 11, 24, 25, 26, 27]));
        assert_eq!(near(sys.path(), "00000000:AF:00.0"), None);
        assert_eq!(near(sys.path(), "../../etc"), None);
        write(&format!("{device}/numa_node"), "-1\n");
        assert_eq!(near(sys.path(), "00000000:3B:00.0"), None);
        write(&format!("{device}/numa_node"), "0\n");
        write("devices/system/node/online", "0\n");
        assert_eq!(near(sys.path(), "00000000:3B:00.0"), None);
    }
}
