//! The pure core: specs, the instance state machine, restart and stop policy, probes, log lines, units, selection.
//!
//! Nothing in here does I/O or knows a clock; `tests/layers.rs` holds that.

pub mod cluster;
pub mod comfyui;
pub mod cron;
pub mod dateformat;
pub mod exit;
pub mod ids;
pub mod instance;
pub mod job;
pub mod json;
pub mod keeping;
pub mod logline;
pub mod machine;
pub mod monitor;
pub mod pace;
pub mod placement;
pub mod positions;
pub mod probe;
pub mod problem;
pub mod refusal;
pub mod restart;
pub mod rollout;
pub mod select;
pub mod service;
pub mod signal;
pub mod spec;
pub mod status;
pub mod stop;
pub mod units;
pub mod watch;
pub mod workflow;
