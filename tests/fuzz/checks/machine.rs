//! A runtime on a virtual clock, for one run of a check.

use std::future::Future;

/// Runs it to its end.
pub fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(2)
        .build()
        .unwrap();
    runtime.block_on(work);
}
