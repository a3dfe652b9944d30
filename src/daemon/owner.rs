//! A command that stays in the foreground (`pm2-runtime`, `--no-daemon`) and whose daemon ends with it, however it ends: by SIGKILL, want
//! of memory or a closed terminal it can't say so itself.

use super::handle::Handle;
use crate::sys::{pidfd, procfs};
use std::future::pending;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Names the command to the daemon and to its successors: its pid and its start time (proc_pid_stat(5), in ticks), with a colon between.
pub const VARIABLE: &str = "FORNAX_OWNER";

/// This process, as the daemon that it starts is told of it. `None` if the kernel doesn't tell when it began.
pub fn ourselves() -> Option<String> {
    let pid = std::process::id();
    Some(format!("{pid}:{}", procfs::stat(pid)?.start_time))
}

/// Ends the daemon, and with it everything, when its owner has ended. Without an owner it does nothing until the daemon ends.
pub async fn watch(handle: Handle) {
    tokio::select! {
        () = handle.shutdown.cancelled() => {}
        () = end_of_owner() => {
            tracing::info!("the command that this daemon belongs to has ended, and everything ends with it");
            handle.shutdown.cancel();
        }
    }
}

async fn end_of_owner() {
    let Some((pid, began)) = std::env::var(VARIABLE).ok().as_deref().and_then(parse) else {
        return pending().await;
    };
    // Opened first: what is looked at then is what is waited for.
    let Ok(owner) = pidfd::open(pid) else {
        return;
    };
    let is_it = procfs::stat(pid).is_some_and(|stat| stat.start_time == began && !stat.is_dead());
    if !is_it {
        return;
    }
    #[expect(
        deprecated,
        reason = "the safe constructor; an OwnedFd is never swapped under the poller here"
    )]
    let owner = AsyncFd::with_interest(owner, Interest::READABLE);
    match owner {
        // It fails with the runtime only.
        Ok(owner) => drop(owner.readable().await),
        Err(error) => {
            tracing::warn!(%error, "cannot wait for the end of the command that this daemon belongs to");
            pending().await
        }
    }
}

fn parse(text: &str) -> Option<(u32, u64)> {
    let (pid, began) = text.split_once(':')?;
    Some((pid.parse().ok()?, began.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_pid_and_a_start_time() {
        assert_eq!(parse("12:345"), Some((12, 345)));
        for wrong in ["", "12", "12:", ":3", "a:3", "-1:3"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let us = ourselves().as_deref().and_then(parse);
        assert_eq!(us.map(|(pid, _)| pid), Some(std::process::id()));
    }
}
