//! How much memory our own cgroup still has: what is new waits before the kernel has to choose whom to kill.
//!
//! Cgroup v2 (`memory.max`, `memory.high`) and v1 (`memory.limit_in_bytes`), on every level from our own group upwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What has been looked at holds for so long: a storm of restarts is one look, and a limit that is set later is seen soon.
const FRESH: Duration = Duration::from_millis(100);
/// Where no limit was found it is looked for again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A limit is close when less than this part of it is left…
const PART: u64 = 20;
/// …or less than this, in bytes, if that is less.
const ENOUGH: u64 = 256 << 20;

/// The tightest limit that is close, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "memory is short: {} MiB of the {} MiB that the cgroup {} allows are used; stop something, or raise its limit",
    used >> 20, limit >> 20, group.display()
)]
pub struct NoRoom {
    /// What processes use, apart from files that the kernel can let go of.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// Whose limit it is.
    pub group: PathBuf,
}

/// One group with limits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    path: PathBuf,
    is_v1: bool,
}

/// Our own groups, the innermost first. Owner: whoever launches runs; a lock, since several threads do.
#[derive(Debug, Default)]
pub struct MemoryRoom {
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    limited: bool,
    answer: Option<NoRoom>,
}

impl MemoryRoom {
    /// Why nothing new should be started now; `None`: there is room, or no limit. A few reads of small files, and often none.
    pub fn refusal(&self) -> Option<NoRoom> {
        // What was seen is whole after any panic.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |seen: &&Seen| {
            let fresh = if seen.limited { FRESH } else { LOOK_AGAIN };
            seen.at.elapsed() < fresh
        };
        if let Some(seen) = seen.as_ref().filter(holds) {
            return seen.answer.clone();
        }
        let (limited, answer) = look(&own_groups());
        *seen = Some(Seen {
            at: Instant::now(),
            limited,
            answer: answer.clone(),
        });
        answer
    }
}

/// Whether any of the groups has a limit, and the first that is close.
fn look(groups: &[Group]) -> (bool, Option<NoRoom>) {
    let mut limited = false;
    for group in groups {
        let Some(limit) = limit(group) else { continue };
        limited = true;
        let Some(used) = used(group) else { continue };
        if limit.saturating_sub(used) < (limit / PART).min(ENOUGH) {
            let group = group.path.clone();
            return (true, Some(NoRoom { used, limit, group }));
        }
    }
    (limited, None)
}

fn number(path: &Path) -> Option<u64> {
    // `max` is none, and so is v1's largest number of whole pages.
    let number = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (number < 1 << 60).then_some(number)
}

fn limit(group: &Group) -> Option<u64> {
    let names: &[&str] = if group.is_v1 {
        &["memory.limit_in_bytes"]
    } else {
        &["memory.max", "memory.high"]
    };
    let limits = names
        .iter()
        .filter_map(|name| number(&group.path.join(name)));
    limits.min()
}

fn used(group: &Group) -> Option<u64> {
    let (current, reclaimable) = if group.is_v1 {
        ("memory.usage_in_bytes", "total_inactive_file ")
    } else {
        ("memory.current", "inactive_file ")
    };
    let current = number(&group.path.join(current))?;
    let stat = fs::read_to_string(group.path.join("memory.stat")).unwrap_or_default();
    let free = stat
        .lines()
        .find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<u64>().ok());
    Some(current.saturating_sub(free.unwrap_or(0)))
}

fn own_groups() -> Vec<Group> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    groups_in(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

/// The groups of a process, by its list of mounts and its list of groups, up to the root of each mount.
fn groups_in(mounts: &str, own: &str) -> Vec<Group> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let is_v1 = controllers.split(',').any(|name| name == "memory");
        if !is_v1 && !controllers.is_empty() {
            continue;
        }
        let path = path.trim_end_matches(" (deleted)");
        let Some((root, mount)) = mounts.lines().find_map(|line| mount_of(line, is_v1)) else {
            continue;
        };
        // In a container the mount may show a part of the whole only.
        let inner = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
        let mut at = mount.join(inner.strip_prefix("/").unwrap_or(inner));
        loop {
            found.push(Group {
                path: at.clone(),
                is_v1,
            });
            if at == mount || !at.pop() {
                break;
            }
        }
    }
    found
}

/// Root and place of the mount that has the memory controller.
fn mount_of(line: &str, is_v1: bool) -> Option<(PathBuf, PathBuf)> {
    let (left, right) = line.split_once(" - ")?;
    let fits = if is_v1 {
        let options = right.strip_prefix("cgroup ")?.rsplit(' ').next()?;
        options.split(',').any(|option| option == "memory")
    } else {
        right.starts_with("cgroup2 ")
    };
    let mut fields = left.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    fits.then(|| (root.into(), place.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
26 25 0:23 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 25 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn groups_are_found_up_to_the_root_of_their_mount() {
        let own = "5:cpu,cpuacct:/x\n4:memory:/docker/abc/inner\n0::/a.slice/b.service\n";
        let paths: Vec<String> = groups_in(MOUNTS, own)
            .iter()
            .map(|group| format!("{} {}", group.path.display(), group.is_v1))
            .collect();
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/memory/inner true",
                "/sys/fs/cgroup/memory/ true",
                "/sys/fs/cgroup/unified/a.slice/b.service false",
                "/sys/fs/cgroup/unified/a.slice false",
                "/sys/fs/cgroup/unified false",
            ]
            .map(|path| path.replace("memory/ ", "memory "))
        );
        assert_eq!(groups_in("", own), []);
        assert_eq!(groups_in(MOUNTS, "nonsense\n"), []);
    }

    #[test]
    fn the_tightest_limit_counts_and_reclaimable_files_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let write = |path: &Path, name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        let groups = [&inner, dir.path()].map(|path: &Path| Group {
            path: path.to_owned(),
            is_v1: false,
        });
        assert_eq!(look(&groups), (false, None), "no limit");
        write(&inner, "memory.max", "max\n");
        assert_eq!(look(&groups), (false, None), "still none");
        write(dir.path(), "memory.max", "1073741824\n");
        write(dir.path(), "memory.high", "max\n");
        write(dir.path(), "memory.current", "1073741824\n");
        write(
            dir.path(),
            "memory.stat",
            "anon 1\ninactive_file 536870912\n",
        );
        assert_eq!(look(&groups), (true, None), "half of it are files");
        write(dir.path(), "memory.high", "536870912\n");
        let refused = look(&groups).1.unwrap();
        assert_eq!((refused.used, refused.limit), (512 << 20, 512 << 20));
        let words = refused.to_string();
        assert!(words.contains("512 MiB of the 512 MiB"), "{words}");
        // A large limit keeps no more back than is of use.
        write(dir.path(), "memory.max", "1099511627776\n");
        write(dir.path(), "memory.high", "max\n");
        write(dir.path(), "memory.current", "1099000000000\n");
        write(dir.path(), "memory.stat", "");
        assert_eq!(look(&groups), (true, None));
    }
}
