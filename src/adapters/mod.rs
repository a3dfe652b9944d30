//! The real world behind the daemon: processes, logs, probes, files.

pub mod logs;
