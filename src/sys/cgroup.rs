//! One cgroup (v2) per run, where the machine lets us make them: exact membership, and a kill that nothing escapes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Cgroups made ahead.
const SPARES: usize = 2;

/// The folder under which runs get their cgroups. Removed, with what is empty in it, on drop.
#[derive(Debug)]
pub struct CgroupRoot {
    path: PathBuf,
    /// Made ahead, so that a crash does not wait for the kernel to make one. A lock, not a message: taken by the threads that
    /// launch runs, for a push or a pop.
    spares: Mutex<Vec<Cgroup>>,
    made: AtomicU64,
}

impl CgroupRoot {
    /// Makes `fornax-PID` below our own cgroup. An error means: no cgroup v2 here, or not ours to write.
    pub fn create(pid: u32) -> io::Result<Self> {
        let base = own_path()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 hierarchy"))?;
        sweep(&base);
        let path = base.join(format!("fornax-{pid}"));
        fs::create_dir(&path)?;
        let root = Self::at(path);
        // Making a folder may be allowed where entering a process is not: try with an inner one, as a run would.
        let trial = root.make()?;
        fs::metadata(trial.path.join("cgroup.kill"))?;
        root.spares().push(trial);
        Ok(root)
    }

    fn at(path: PathBuf) -> Self {
        Self {
            path,
            spares: Mutex::default(),
            made: AtomicU64::new(0),
        }
    }

    /// A cgroup for one run: a spare one, or a new one.
    pub fn take(&self) -> io::Result<Cgroup> {
        let spare = self.spares().pop();
        spare.map_or_else(|| self.make(), Ok)
    }

    /// Makes spare ones for the next runs. What can't be made is made when it is needed, or told then.
    pub fn restock(&self) {
        while self.spares().len() < SPARES {
            let Ok(spare) = self.make() else { return };
            self.spares().push(spare);
        }
    }

    fn make(&self) -> io::Result<Cgroup> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("run-{number}"));
        fs::create_dir(&path)?;
        Ok(Cgroup { path })
    }

    fn spares(&self) -> MutexGuard<'_, Vec<Cgroup>> {
        // A list of names is whole after any panic.
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// One that another daemon has made.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The one, made by a daemon of ours, that a process is in.
    pub fn of(pid: u32) -> Option<Self> {
        let path = path_of(&pid.to_string())?;
        let named = |path: &Path, prefix: &str| {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix(prefix)?.parse::<u64>().ok()
        };
        let is_run = |path: &&Path| {
            let parent = path.parent();
            named(path, "run-").is_some()
                && parent.is_some_and(|parent| named(parent, "fornax-").is_some())
        };
        // An app may have made cgroups of its own in it.
        let run = path.ancestors().find(is_run)?;
        Some(Self::at(run.to_owned()))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor for `CLONE_INTO_CGROUP`.
    pub fn open(&self) -> io::Result<OwnedFd> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(&self.path)?;
        Ok(file.into())
    }

    /// Whether anything lives in it or below it, by the kernel's own word. `true` too when that can't be read.
    pub fn is_populated(&self) -> bool {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(events) => !events.lines().any(|line| line == "populated 0"),
            Err(_) => self.path.exists(),
        }
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
            drop(CgroupRoot::at(entry.path()));
        }
    }
}

/// Where our own cgroup is.
fn own_path() -> Option<PathBuf> {
    path_of("self")
}

/// Where a process's cgroup is mounted: the v2 mount of /proc/self/mountinfo with the `0::` path of its `cgroup` file.
fn path_of(process: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right
            .starts_with("cgroup2 ")
            .then(|| left.split(' ').nth(4).map(PathBuf::from))?
    })?;
    let own = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let relative = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))?
        .trim_end_matches(" (deleted)")
        .to_owned();
    let path = mount.join(relative);
    path.is_dir().then_some(path)
}
