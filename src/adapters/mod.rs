//! The real world behind the daemon: processes, logs, probes, files.

pub mod channel;
pub mod event;
pub mod host;
pub mod logs;
pub mod probes;
pub mod runner;
pub mod sampler;
pub mod tree;
