//! One blocking thread of a runtime kept alive: where no thread can be made, tokio queues work for those it has, and panics
//! if it has none.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Idle blocking threads end after this long.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Gives a thread of the current runtime something to do, often enough, until the daemon ends.
pub(super) async fn keep_a_thread(ended: CancellationToken) {
    loop {
        // It does nothing, so it cannot fail but by the end of the runtime.
        let _ = tokio::task::spawn_blocking(|| ()).await;
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(KEEP_ALIVE / 2) => {}
        }
    }
}
