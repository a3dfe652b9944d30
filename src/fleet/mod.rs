//! The ComfyUI instances at run time: what each is doing, what is wrong with it, and what is done about it.
//!
//! One monitor for each run of an app with a `fornax.monitor` key. They share a thread of their own (`fornax-fleet`), which
//! exists only while there is one, so that nothing of theirs delays the loop or a server.

mod book;
mod canary;
mod counters;
mod cure;
mod facts;
mod log;
mod renew;
mod rollout;
mod rollout_begin;
mod rollout_file;
mod supervise;
mod telling;
mod view;
mod watch;

pub use crate::comfyui::install::NodeState;
pub use book::{Fleet, FleetServer, open};
pub use rollout_file::{RollError, Wanted};
pub use supervise::serve;
pub use view::{
    CanaryReport, Devices, Ended, Facts, Incident, IncidentKind, ModelFacts, Report, View,
};
