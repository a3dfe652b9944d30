//! The keeper: the small process that is the parent of the daemon and of every app, and holds a copy of each descriptor that
//! must outlive a daemon (docs/adr/0002).
//!
//! It supervises one thing, the daemon, and starts it again when it ends unasked; every other decision is the daemon's. It has
//! one thread, reads packets of fixed words, and answers at once.

mod daemon;
mod memory;
mod serve;
mod signals;
mod table;

pub use serve::{KeeperError, run};
