//! Busy workers: one that has had much to do for a second is scheduled in batches (SCHED_BATCH), until it has been calm for a while.
//!
//! A worker that gets small requests is woken for each of them, and takes the processor from whoever sends them. Without that, it
//! answers several each time: on two cores up to a fifth more requests (docs/benchmarks.md). While it is calm, nothing is changed: what
//! counts then is that it answers at once.

use crate::sys::batch::{self, Policy};
use crate::sys::procfs;
use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;
use tokio::time::Instant;

/// How often a worker is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// It is busy when it has run, or waited for a processor, for so many percent of a period, of which it has run for so many: one
/// that has little to do beside others who take all processors is none.
const BUSY: Share = Share {
    wanted: 60,
    ran: 20,
};
/// It is calm below one of these.
const CALM: Share = Share {
    wanted: 30,
    ran: 10,
};
/// And is taken for calm after so many looks in a row.
const LOOKS: u32 = 5;

/// What its main thread has had of a period, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    /// It ran or waited for a processor.
    wanted: u64,
    /// It ran.
    ran: u64,
}

/// What is known of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Load {
    busy: bool,
    calm: u32,
}

impl Load {
    /// What it has had since the last look. Tells whether it is busy, if that has changed.
    fn look(&mut self, share: Share) -> Option<bool> {
        let calm = share.wanted < CALM.wanted || share.ran < CALM.ran;
        self.calm = if calm { self.calm + 1 } else { 0 };
        let busy = if self.busy {
            self.calm < LOOKS
        } else {
            share.wanted >= BUSY.wanted && share.ran >= BUSY.ran
        };
        (busy != std::mem::replace(&mut self.busy, busy)).then_some(busy)
    }
}

/// Looks after the worker with this pid until it is dropped, which must be when its process has ended.
pub async fn watch(pid: u32) -> Infallible {
    let mut load = Load {
        // A daemon before this one may have left it so.
        busy: matches!(batch::policy(pid), Ok(Policy::Batch)),
        calm: 0,
    };
    let (mut before, mut at) = (procfs::main_thread_times(pid), Instant::now());
    loop {
        tokio::time::sleep(PERIOD).await;
        // It has ended, or this kernel does not count.
        let (Some(now), Some(then)) = (procfs::main_thread_times(pid), before) else {
            return pending().await;
        };
        let took = at.elapsed();
        let percent = |time: Duration| {
            let share = time.as_secs_f64() / took.as_secs_f64().max(0.001);
            (share * 100.0) as u64
        };
        let share = Share {
            wanted: percent((now.ran + now.waited).saturating_sub(then.ran + then.waited)),
            ran: percent(now.ran.saturating_sub(then.ran)),
        };
        (before, at) = (Some(now), at + took);
        if let Some(busy) = load.look(share) {
            become_busy(pid, busy);
        }
    }
}

/// Unless somebody has chosen another policy: for it, or for us, whose policy it was born with.
fn become_busy(pid: u32, busy: bool) {
    let before = if busy { Policy::Usual } else { Policy::Batch };
    let own = batch::policy(std::process::id());
    let set = match batch::policy(pid) {
        Ok(policy) if policy == before && matches!(own, Ok(Policy::Usual)) => batch::set(pid, busy),
        Ok(_) => return,
        Err(error) => Err(error),
    };
    match set {
        Ok(()) => tracing::debug!(pid, busy, "a worker's scheduling was changed"),
        Err(error) => tracing::debug!(pid, busy, %error, "a worker's scheduling stays as it is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_busy_at_once_and_calm_after_a_while() {
        let mut load = Load::default();
        let looks = [
            ((10, 10), None),
            ((59, 59), None),
            ((90, 19), None),
            ((60, 20), Some(true)),
            ((100, 100), None),
            ((0, 0), None),
            ((0, 0), None),
            ((0, 0), None),
            ((0, 0), None),
            ((30, 10), None),
            ((29, 20), None),
            ((29, 29), None),
            ((90, 9), None),
            ((29, 20), None),
            ((29, 20), Some(false)),
            ((59, 59), None),
            ((61, 61), Some(true)),
        ];
        for (at, ((wanted, ran), want)) in looks.into_iter().enumerate() {
            assert_eq!(load.look(Share { wanted, ran }), want, "look {at}");
        }
    }
}
