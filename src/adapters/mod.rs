//! The real world behind the daemon: processes, logs, probes, files.

pub mod adopt;
pub mod channel;
pub mod cluster;
mod ending;
pub mod event;
pub mod facts;
pub mod host;
pub mod keeper;
pub mod kit;
mod launch;
pub mod logs;
pub mod plan;
mod preload;
pub mod probes;
pub mod records;
pub mod runner;
pub mod runs;
pub mod sampler;
pub mod tree;
pub mod watch;
