//! A run's counters, from /proc and the driver. Blocking, for about a millisecond.

use crate::adapters::runner::RunHandle;
use crate::core::monitor::signs::Counters;
use crate::gpu::meter::Meter;
use crate::sys::procfs;
use std::sync::Arc;

/// Reads the counters of a run. `threads`: those of its threads too, which cost a file each.
pub(super) fn read(run: &RunHandle, meter: Option<&Arc<Meter>>, threads: bool) -> Counters {
    let ticks = procfs::ticks_per_second();
    let members = run.tree.members();
    let spent: u64 = members
        .iter()
        .map(|process| process.cpu_ticks + process.children_ticks)
        .sum();
    let root = members.iter().find(|process| process.pid == run.pid);
    let io = procfs::io(run.pid);
    let gpu = meter.and_then(|meter| meter.read());
    Counters {
        cpu_ms: spent * 1000 / ticks,
        read: io.map(|io| io.read),
        fetched: io.map(|io| io.fetched),
        written: io.map(|io| io.written),
        rss: root.map_or(0, |root| root.rss_pages) * procfs::page_size(),
        gpu_memory: gpu.map(|gpu| gpu.memory_used),
        gpu_busy: gpu.map(|gpu| gpu.busy_percent),
        switches: if threads {
            procfs::thread_switches(run.pid)
        } else {
            Vec::new()
        },
    }
}
