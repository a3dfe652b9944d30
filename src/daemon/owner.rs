//! A command that stays in the foreground (`pm2-runtime`, `--no-daemon`) and whose daemon ends with it, however it ends: by SIGKILL, want
//! of memory or a closed terminal it can't say so itself.

use super::handle::Handle;
use crate::sys::owner::Owner;
use std::future::pending;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The daemon then outlives it, as without an owner.
const UNSEEN: &str = "cannot wait for the end of the command that this daemon belongs to";

/// Ends the daemon, and with it everything, when its owner has ended. Without an owner it does nothing until the daemon ends.
pub async fn watch(handle: Handle) {
    tokio::select! {
        () = handle.shutdown.cancelled() => {}
        () = end_of(Owner::from_env()) => {
            tracing::info!("the command that this daemon belongs to has ended, and everything ends with it");
            handle.shutdown.cancel();
        }
    }
}

async fn end_of(owner: Owner) {
    let pidfd = match owner {
        Owner::Nobody => return pending().await,
        Owner::Ended => return,
        Owner::Unknown(error) => {
            tracing::warn!(%error, "{UNSEEN}");
            return pending().await;
        }
        Owner::Running(pidfd) => pidfd,
    };
    #[expect(
        deprecated,
        reason = "the safe constructor; an OwnedFd is never swapped under the poller here"
    )]
    let owner = AsyncFd::with_interest(pidfd, Interest::READABLE);
    match owner {
        // It fails with the runtime only.
        Ok(owner) => drop(owner.readable().await),
        Err(error) => {
            tracing::warn!(%error, "{UNSEEN}");
            pending().await
        }
    }
}
