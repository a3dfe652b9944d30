//! One cgroup (v2) per run, where the machine lets us make them: exact membership, and a kill that nothing escapes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The folder under which runs get their cgroups. Removed, with what is empty in it, on drop.
#[derive(Debug)]
pub struct CgroupRoot {
    path: PathBuf,
}

impl CgroupRoot {
    /// Makes `fornax-PID` below our own cgroup. An error means: no cgroup v2 here, or not ours to write.
    pub fn create(pid: u32) -> io::Result<Self> {
        let base = own_path()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 hierarchy"))?;
        sweep(&base);
        let path = base.join(format!("fornax-{pid}"));
        fs::create_dir(&path)?;
        let root = Self { path };
        // Making a folder may be allowed where entering a process is not: try with an inner one, as a run would.
        let trial = root.make("trial")?;
        fs::metadata(trial.path.join("cgroup.kill"))?;
        trial.remove();
        Ok(root)
    }

    /// Makes the cgroup of one run.
    pub fn make(&self, name: &str) -> io::Result<Cgroup> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        Ok(Cgroup { path })
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        if let Ok(entries) = fs::read_dir(&self.path) {
            for entry in entries.flatten().filter(is_folder) {
                Cgroup { path: entry.path() }.remove();
            }
        }
        // It can't be removed while an app of ours lives in it; then it stays for whoever comes next.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The cgroup of one run.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A descriptor for `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> io::Result<OwnedFd> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(&self.path)?;
        Ok(file.into())
    }

    /// The pids in it and in cgroups made below it.
    pub fn members(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        collect(&self.path, 0, &mut pids);
        pids
    }

    /// SIGKILL to everything in it, atomically (`cgroup.kill`).
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Removes it, and empty ones below it. It stays if something lives in it.
    pub fn remove(&self) {
        if fs::remove_dir(&self.path).is_ok() {
            return;
        }
        if let Ok(entries) = fs::read_dir(&self.path) {
            for entry in entries.flatten().filter(is_folder) {
                // Same here: not empty means not ours to remove now.
                let _ = fs::remove_dir(entry.path());
            }
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// By the listing's own word: asking each of a cgroup's twenty files by path would cost as much as all the rest.
fn is_folder(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn collect(path: &Path, depth: usize, pids: &mut Vec<u32>) {
    if let Ok(text) = fs::read_to_string(path.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    // An app may make cgroups of its own; eight levels are more than any does.
    if depth < 8
        && let Ok(entries) = fs::read_dir(path)
    {
        for entry in entries.flatten().filter(is_folder) {
            collect(&entry.path(), depth + 1, pids);
        }
    }
}

/// Removes what daemons that were killed have left, as far as nothing lives in it.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix("fornax-")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| super::procfs::stat(pid).is_none()) {
            drop(CgroupRoot { path: entry.path() });
        }
    }
}

/// Where our own cgroup is mounted: the v2 mount of /proc/self/mountinfo with the `0::` path of /proc/self/cgroup.
fn own_path() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right
            .starts_with("cgroup2 ")
            .then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let relative = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?
        .trim_end_matches(" (deleted)")
        .to_owned();
    let path = mount.join(relative);
    path.is_dir().then_some(path)
}
