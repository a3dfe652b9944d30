//! Everything that a run has started, wherever it has hidden: `setsid`, double fork or not.
//!
//! Where cgroup v2 is writable, membership is exact. Elsewhere a process belongs to a run if it descends from its root,
//! shares the root's session, or was orphaned to us (we are a subreaper) with the run's marker in its environment.

use super::facts::RunFacts;
use super::keeper::Keeper;
use crate::core::signal::Signal;
use crate::sys::cgroup::Cgroup;
use crate::sys::{pidfd, procfs};
use procfs::ProcStat;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, Output};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The root processes of all runs, so that an orphan can be told from an app.
///
/// A lock, not a message: it is read and written by blocking threads for microseconds, never across an await.
#[derive(Debug, Default)]
pub struct Roots {
    state: Mutex<RootsState>,
    keeper: Keeper,
    scans: Mutex<Scans>,
    scanned: Condvar,
}

/// Looks at every process, shared by whoever wants one at the same time: a stop of hundreds of apps takes a few, not hundreds.
#[derive(Debug, Default)]
struct Scans {
    begun: u64,
    at_work: bool,
    waiting: usize,
    /// The number of the latest complete one; kept only while somebody waits.
    last: Option<(u64, Arc<Forest>)>,
}

#[derive(Debug, Default)]
struct RootsState {
    pids: HashSet<u32>,
    spawning: usize,
    spawned: u64,
}

impl Roots {
    /// Of apps that are the keeper's children, if there is one, else ours.
    pub fn new(keeper: Keeper) -> Self {
        Self {
            keeper,
            ..Self::default()
        }
    }

    /// The children of the parent of all apps, but for the daemon itself.
    pub fn children(&self) -> Option<Vec<u32>> {
        let own = std::process::id();
        let mut children = procfs::children(self.keeper.pid().unwrap_or(own))?;
        children.retain(|pid| *pid != own);
        Some(children)
    }

    /// A root that was there before us.
    pub fn adopt(&self, pid: u32) {
        self.state().pids.insert(pid);
    }

    /// A spawn begins: until it is `registered`, no unknown child is reaped.
    pub fn spawning(&self) {
        self.state().spawning += 1;
    }

    /// A spawn has ended, with a child or without.
    pub fn registered(&self, pid: Option<u32>) {
        if let Some(pid) = pid {
            self.keeper.born(pid);
        }
        let mut state = self.state();
        state.spawning = state.spawning.saturating_sub(1);
        state.spawned += 1;
        state.pids.extend(pid);
    }

    /// Reaps a root whose end is written down.
    pub fn reap(&self, pid: u32) {
        self.keeper.reap(pid);
        self.state().pids.remove(&pid);
    }

    /// A helper has been waited for.
    fn forget(&self, pid: u32) {
        self.state().pids.remove(&pid);
    }

    /// Reaps orphans that were given to us and have ended. Never an app: its exit belongs to its runner.
    pub fn reap_strays(&self) {
        let before = self.state().spawned;
        let Some(children) = self.children() else {
            return;
        };
        let state = self.state();
        // A spawn in between: the list may hold an app that is not registered yet. The next signal tries again.
        if state.spawning > 0 || state.spawned != before {
            return;
        }
        for pid in children.into_iter().filter(|pid| !state.pids.contains(pid)) {
            if procfs::stat(pid).is_some_and(|process| process.is_dead()) {
                self.keeper.reap(pid);
            }
        }
    }

    /// Runs a helper of ours (a probe, a question to an interpreter) to its end, so that it is not taken for an orphan.
    /// Blocking. `None`: it did not end within the limit, and was killed. Its output must fit into a pipe.
    pub fn run_helper(&self, command: &mut Command, limit: Duration) -> io::Result<Option<Output>> {
        self.spawning();
        let spawned = command.spawn();
        self.registered(spawned.as_ref().ok().map(Child::id));
        let mut child = spawned?;
        let pid = child.id();
        let ended = pidfd::open(pid).and_then(|pidfd| pidfd::wait_readable(&pidfd, limit));
        if !matches!(ended, Ok(true)) {
            // It may have ended in this moment.
            let _ = child.kill();
        }
        let output = child.wait_with_output();
        self.forget(pid);
        Ok(Some(output?).filter(|_| matches!(ended, Ok(true))))
    }

    /// A look at every process that began after this call did. Blocking for one look, or for two where one is under way.
    pub fn forest(&self) -> Arc<Forest> {
        let mut scans = self.scans();
        let wanted = scans.begun + 1;
        loop {
            if let Some((number, forest)) = &scans.last
                && *number >= wanted
            {
                let forest = Arc::clone(forest);
                if scans.waiting == 0 {
                    scans.last = None;
                }
                return forest;
            }
            if scans.at_work {
                scans.waiting += 1;
                let woken = self.scanned.wait(scans);
                scans = woken.unwrap_or_else(PoisonError::into_inner);
                scans.waiting -= 1;
                continue;
            }
            scans.begun += 1;
            scans.at_work = true;
            let number = scans.begun;
            drop(scans);
            let forest = Arc::new(Forest::scan(self));
            scans = self.scans();
            scans.at_work = false;
            scans.last = (scans.waiting > 0).then(|| (number, Arc::clone(&forest)));
            self.scanned.notify_all();
            return forest;
        }
    }

    fn scans(&self) -> MutexGuard<'_, Scans> {
        // Counters and a finished look are whole after any panic.
        self.scans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strays(&self) -> Option<Vec<u32>> {
        let children = self.children()?;
        let state = self.state();
        Some(
            children
                .into_iter()
                .filter(|pid| !state.pids.contains(pid))
                .collect(),
        )
    }

    fn state(&self) -> MutexGuard<'_, RootsState> {
        // A set of pids is whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes of one run.
#[derive(Debug)]
pub struct Tree {
    /// Its root's pid, which is also its session.
    pub root: u32,
    /// The root's start time; `None` if it had ended before it could be read.
    root_start: Option<u64>,
    marker: String,
    cgroup: Option<Cgroup>,
    roots: Arc<Roots>,
}

impl Tree {
    /// Of a run that has just been spawned. `marker` is the `NAME=value` in its environment.
    pub fn new(root: u32, marker: String, cgroup: Option<Cgroup>, roots: Arc<Roots>) -> Self {
        Self {
            root,
            root_start: procfs::stat(root).map(|stat| stat.start_time),
            marker,
            cgroup,
            roots,
        }
    }

    /// Of a run that another daemon has spawned.
    pub fn adopted(root: u32, facts: &RunFacts, marker: String, roots: Arc<Roots>) -> Self {
        Self {
            root,
            root_start: facts.start_time,
            marker,
            cgroup: facts.cgroup.clone().map(Cgroup::at),
            roots,
        }
    }

    /// What another daemon needs to know of it.
    pub fn facts(&self, oom_kills: Option<u64>) -> RunFacts {
        RunFacts {
            start_time: self.root_start,
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
            oom_kills,
        }
    }

    /// The live processes of the run, children before their parents.
    pub fn members_in(&self, forest: &Forest) -> Vec<ProcStat> {
        let exact: HashSet<u32> = self.cgroup.iter().flat_map(Cgroup::members).collect();
        let is_seed = |process: &ProcStat| {
            (process.pid == self.root
                && self
                    .root_start
                    .is_none_or(|start| start == process.start_time))
                || process.session == self.root
                || exact.contains(&process.pid)
                || (self.cgroup.is_none()
                    && forest.strays.contains(&process.pid)
                    && procfs::environ_has(process.pid, &self.marker))
        };
        let mut found: Vec<ProcStat> = Vec::new();
        let mut seen = HashSet::new();
        let mut queue: Vec<&ProcStat> = forest
            .all
            .iter()
            .filter(|process| is_seed(process))
            .collect();
        while let Some(process) = queue.pop() {
            if seen.insert(process.pid) {
                found.push(*process);
                queue.extend(
                    forest
                        .children
                        .get(&process.pid)
                        .into_iter()
                        .flatten()
                        .map(|at| &forest.all[*at]),
                );
            }
        }
        found.retain(|process| !process.is_dead());
        order_children_first(&mut found);
        found
    }

    /// The live processes of the run now. With a cgroup only those are looked at, else every process of the machine.
    pub fn members(&self) -> Vec<ProcStat> {
        match &self.cgroup {
            Some(cgroup) => {
                let all = cgroup.members().into_iter().filter_map(procfs::stat);
                self.members_in(&Forest::of(all.collect(), HashSet::new()))
            }
            None => self.members_in(&self.roots.forest()),
        }
    }

    /// Whether anything of the run lives after its root has been reaped. Cheap: it looks at orphans only.
    pub fn has_leftovers(&self) -> bool {
        if let Some(cgroup) = &self.cgroup {
            // A root that is still to be reaped counts for the kernel, and not for us.
            let lives = |pid| procfs::stat(pid).is_some_and(|process| !process.is_dead());
            return cgroup.is_populated() && cgroup.members().into_iter().any(lives);
        }
        match self.roots.strays() {
            Some(strays) => strays.into_iter().filter_map(procfs::stat).any(|process| {
                !process.is_dead()
                    && (process.session == self.root
                        || procfs::environ_has(process.pid, &self.marker))
            }),
            None => !self.members().is_empty(),
        }
    }

    /// Sends a signal to every process of the run, children first. The pids signalled.
    pub fn signal(&self, signal: Signal) -> Vec<u32> {
        let members = self.members();
        if signal == Signal::KILL
            && let Some(cgroup) = &self.cgroup
            && cgroup.kill().is_ok()
        {
            // Whoever has left the cgroup is still killed one by one below.
            tracing::debug!(root = self.root, "cgroup killed");
        }
        let mut signalled = Vec::new();
        for process in members {
            let Ok(pidfd) = pidfd::open(process.pid) else {
                continue;
            };
            // The pid may have been given to another process since the scan.
            if procfs::stat(process.pid).is_none_or(|now| now.start_time != process.start_time) {
                continue;
            }
            if pidfd::signal(pidfd.as_fd(), signal).is_ok_and(|sent| sent) {
                signalled.push(process.pid);
            }
        }
        signalled
    }

    /// The run is over: its cgroup goes.
    pub fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}

/// One look at every process of the machine, from which the trees of many runs are read.
#[derive(Debug)]
pub struct Forest {
    all: Vec<ProcStat>,
    children: HashMap<u32, Vec<usize>>,
    strays: HashSet<u32>,
}

impl Forest {
    /// Looks. About 10 µs a process.
    pub fn scan(roots: &Roots) -> Self {
        Self::of(
            procfs::all(),
            roots.strays().unwrap_or_default().into_iter().collect(),
        )
    }

    fn of(all: Vec<ProcStat>, strays: HashSet<u32>) -> Self {
        let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, process) in all.iter().enumerate() {
            children.entry(process.ppid).or_default().push(at);
        }
        Self {
            all,
            children,
            strays,
        }
    }
}

fn order_children_first(processes: &mut [ProcStat]) {
    let parents: HashMap<u32, u32> = processes
        .iter()
        .map(|process| (process.pid, process.ppid))
        .collect();
    let depth = |pid: u32| {
        let mut at = pid;
        let mut depth = 0_usize;
        // Bounded: pids read at different moments could form a circle.
        while let Some(parent) = parents.get(&at).filter(|_| depth < parents.len()) {
            at = *parent;
            depth += 1;
        }
        depth
    };
    processes.sort_by_cached_key(|process| std::cmp::Reverse(depth(process.pid)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, ppid: u32, session: u32) -> ProcStat {
        ProcStat {
            pid,
            ppid,
            session,
            state: b'S',
            cpu_ticks: 0,
            children_ticks: 0,
            start_time: u64::from(pid),
            rss_pages: 1,
        }
    }

    fn tree(root: u32) -> Tree {
        Tree {
            root,
            root_start: Some(u64::from(root)),
            marker: "M=1".into(),
            cgroup: None,
            roots: Arc::default(),
        }
    }

    #[test]
    fn descendants_are_found_through_a_new_session_and_listed_children_first() {
        let all = [
            process(10, 1, 10),
            process(11, 10, 10),
            process(12, 11, 12),
            process(13, 12, 12),
            process(50, 1, 50),
        ];
        let pids: Vec<u32> = tree(10)
            .members_in(&Forest::of(all.to_vec(), HashSet::new()))
            .iter()
            .map(|process| process.pid)
            .collect();
        assert_eq!(pids, [13, 12, 11, 10]);
    }

    #[test]
    fn an_orphan_of_the_same_session_is_a_member_and_a_zombie_is_not() {
        let mut zombie = process(12, 10, 10);
        zombie.state = b'Z';
        let all = [process(11, 1, 10), zombie];
        let pids: Vec<u32> = tree(10)
            .members_in(&Forest::of(all.to_vec(), HashSet::new()))
            .iter()
            .map(|process| process.pid)
            .collect();
        assert_eq!(pids, [11]);
    }

    #[test]
    fn a_recycled_root_pid_is_no_member() {
        let mut other = process(10, 1, 99);
        other.start_time = 777;
        assert!(
            tree(10)
                .members_in(&Forest::of(vec![other], HashSet::new()))
                .is_empty()
        );
    }

    #[test]
    fn a_look_that_is_shared_began_after_each_who_asked() {
        let roots = Roots::default();
        let begun = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let before = roots.scans().begun;
                        roots.forest();
                        let after = roots.scans().begun;
                        assert!(after > before);
                        begun.fetch_max(after, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
        });
        let begun = begun.into_inner();
        assert!(begun <= 40, "never more looks than were asked for: {begun}");
    }
}
