//! Memory and CPU of every run's whole tree, from one walk over /proc.

use super::runner::RunHandle;
use super::tree::{Forest, Roots};
use crate::core::ids::{Generation, PmId};
use crate::sys::procfs;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What a run uses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Resident memory of the tree, in bytes.
    pub memory: u64,
    /// CPU of the tree since the sample before, in percent of one core; one decimal.
    pub cpu: f64,
    /// How many processes.
    pub processes: usize,
}

/// The sampler's memory. Owner: the sampling task.
#[derive(Debug, Default)]
pub struct Sampler {
    last: HashMap<u32, (u64, u64)>,
    at: Option<Instant>,
}

impl Sampler {
    /// The first figures of runs that have none yet: memory, and no CPU, which takes two looks. Cheaper than measuring all.
    /// Blocking.
    pub fn first(
        &mut self,
        roots: &Roots,
        runs: &[(PmId, Generation, Arc<RunHandle>)],
    ) -> HashMap<PmId, (Generation, Usage)> {
        let forest = Forest::scan(roots);
        let page = procfs::page_size();
        let mut usages = HashMap::new();
        for (id, generation, run) in runs {
            let members = run.tree.members_in(&forest);
            for process in &members {
                self.last
                    .insert(process.pid, (process.start_time, process.cpu_ticks));
            }
            let memory = members.iter().map(|process| process.rss_pages * page).sum();
            usages.insert(
                *id,
                (
                    *generation,
                    Usage {
                        memory,
                        cpu: 0.0,
                        processes: members.len(),
                    },
                ),
            );
        }
        usages
    }

    /// Measures the runs. Blocking: about 10 µs a process of the machine.
    pub fn sample(
        &mut self,
        roots: &Roots,
        runs: &[(PmId, Generation, Arc<RunHandle>)],
    ) -> HashMap<PmId, (Generation, Usage)> {
        if runs.is_empty() {
            return HashMap::new();
        }
        let forest = Forest::scan(roots);
        let now = Instant::now();
        let seconds = self.at.map(|at| now.duration_since(at).as_secs_f64());
        let (page, ticks) = (procfs::page_size(), procfs::ticks_per_second() as f64);
        let mut seen = HashMap::new();
        let mut usages = HashMap::new();
        for (id, generation, run) in runs {
            let members = run.tree.members_in(&forest);
            let mut spent = 0_u64;
            for process in &members {
                // A process that is new since the last sample has spent all of its time since then.
                let before = self
                    .last
                    .get(&process.pid)
                    .filter(|(start, _)| *start == process.start_time)
                    .map_or(0, |(_, ticks)| *ticks);
                spent += process.cpu_ticks.saturating_sub(before);
                seen.insert(process.pid, (process.start_time, process.cpu_ticks));
            }
            let cpu = seconds
                .filter(|seconds| *seconds > 0.0)
                .map_or(0.0, |seconds| spent as f64 / ticks / seconds * 100.0);
            let usage = Usage {
                memory: members.iter().map(|process| process.rss_pages * page).sum(),
                cpu: (cpu * 10.0).round() / 10.0,
                processes: members.len(),
            };
            usages.insert(*id, (*generation, usage));
        }
        self.last = seen;
        self.at = Some(now);
        usages
    }
}
