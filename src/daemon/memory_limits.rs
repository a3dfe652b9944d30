//! PM2's worker: now and then it looks for runs whose tree holds more memory than `max_memory_restart` allows.

use super::command::Command;
use super::handle::Handle;
use super::snapshot::{InstanceView, Snapshot};
use crate::adapters::sampler::Usage;
use crate::core::ids::{Generation, PmId};

/// Looks until the daemon ends. The figures are the sampler's, which measures whether anybody asks or not.
pub async fn run(handle: Handle) {
    loop {
        let pause = handle.settings.borrow().worker_interval.duration();
        tokio::select! {
            () = handle.shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let snapshot = handle.snapshot();
        if !snapshot
            .instances
            .iter()
            .any(|view| view.spec.max_memory.is_some())
        {
            continue;
        }
        handle.refresh_usages().await;
        for (id, generation, used) in over(&snapshot, |view| handle.usage(view)) {
            // It may have been deleted meanwhile.
            let _ = handle
                .call(Command::OverMemory {
                    id,
                    generation,
                    used,
                })
                .await;
        }
    }
}

/// The runs that hold more than they may, and how much, in bytes.
fn over(
    snapshot: &Snapshot,
    usage: impl Fn(&InstanceView) -> Usage,
) -> Vec<(PmId, Generation, u64)> {
    let runs = snapshot.instances.iter().filter_map(|view| {
        let (limit, used) = (view.spec.max_memory?, usage(view).memory);
        (used > limit.0).then_some((view.id, view.generation, used))
    });
    runs.collect()
}
