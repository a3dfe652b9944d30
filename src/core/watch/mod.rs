//! What PM2's `watch` means: which paths count, which are left out before they are walked, and when a burst is over.

mod burst;
mod filter;
mod pattern;
mod spec;

pub use burst::{Burst, matters};
pub use filter::Filter;
pub use pattern::{Pattern, PatternIssue};
pub use spec::WatchSpec;
