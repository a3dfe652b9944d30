//! Simulated GPUs: stand-ins that can be listed, leased and given to a simulated ComfyUI.

use super::inventory::{Gpu, Inventory};
use crate::core::units::Bytes;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The memory a simulated GPU claims to have: that of a common 24 GB card.
const MEMORY: Bytes = Bytes(24 << 30);

/// What the UUID of a simulated GPU begins with.
pub(super) const PREFIX: &str = "SIM-";

/// `n` simulated GPUs. Their UUID is `SIM-<hash of the workspace's path>-<index>`: the same at every start, so that a
/// lease of one is a lease of the same one later, and other in another workspace, so that two trials do not collide.
pub fn inventory(n: u32, workspace: &Path) -> Inventory {
    let hash = stable_hash(canonical(workspace).as_os_str().as_bytes());
    let gpus = (0..n).map(|index| Gpu {
        index,
        uuid: format!("{PREFIX}{hash:016x}-{index}"),
        name: "Simulated GPU".to_owned(),
        memory_total: Some(MEMORY),
        memory_used: Some(Bytes(0)),
        temperature_c: None,
        utilisation_percent: None,
        processes: None,
        pci_bus_id: None,
        mig: false,
        simulated: true,
        lease: None,
    });
    Inventory {
        gpus: gpus.collect(),
        driver: None,
        cuda: None,
        note: Some("these GPUs are simulated; nothing was asked of a driver".to_owned()),
    }
}

/// The path with its links resolved as far as it exists, so that a workspace has one name before and after it is made.
fn canonical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) else {
            continue;
        };
        let mut whole = real;
        for part in rest.components() {
            match part {
                Component::ParentDir => drop(whole.pop()),
                other => whole.push(other),
            }
        }
        return whole;
    }
    path
}

/// FNV-1a, 64 bits: written out because the standard library's hashes may change from one release to the next.
fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuids(n: u32, workspace: &Path) -> Vec<String> {
        inventory(n, workspace)
            .gpus
            .into_iter()
            .map(|gpu| gpu.uuid)
            .collect()
    }

    #[test]
    fn the_hash_is_the_published_fnv_1a() {
        assert_eq!(stable_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(stable_hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_simulated_uuid_is_the_same_for_every_spelling_of_the_workspace_and_before_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("real"), &link).unwrap();
        let workspace = dir.path().join("real/ws");
        let before = uuids(2, &workspace);
        assert_eq!(before, uuids(2, &link.join("ws")));
        std::fs::create_dir(&workspace).unwrap();
        assert_eq!(before, uuids(2, &workspace));
        assert_eq!(before, uuids(2, &dir.path().join("real/./ws/")));
        assert_eq!(before, uuids(2, &dir.path().join("link/ws/../ws")));
        assert_ne!(before, uuids(2, dir.path()));
        assert_ne!(before[0], before[1]);
        assert!(before[1].ends_with("-1"));
    }
}
