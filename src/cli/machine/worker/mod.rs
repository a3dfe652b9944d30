//! `fornax worker --redis URL`: takes jobs for this machine from a stream of Redis, and reports what became of them.
//!
//! It is a program of its own beside the daemon, to which it speaks by port 9090 only: whatever kills one leaves the other. What
//! it writes and reads in Redis is told in `docs/worker-contract.md`, and why in ADR 0014.

/// A line of what the worker does, to standard output, which may have been closed.
macro_rules! say {
    ($($words:tt)*) => { crate::cli::session::print(&format!("{}\n", format_args!($($words)*))) };
}

mod connection;
mod entry;
mod fit;
mod held;
mod job;
mod keys;
mod machine;
mod options;
mod queue;
mod report;
mod run;
mod scripts;

pub use options::WorkerArgs;
pub use run::run;
