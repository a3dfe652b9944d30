//! The daemon: one task owns the table of instances; everybody else holds a handle or a snapshot.

pub mod boot;
pub mod bus;
pub mod command;
pub mod crowd;
pub mod dump;
pub mod handle;
mod health;
pub mod launch;
mod memory_limits;
mod messages;
mod own_log;
mod preflight;
pub mod reload;
pub mod reserve;
pub mod run;
mod sampling;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod succession;
pub mod table;
mod telemetry;
mod timers;
mod upkeep;
mod warm;
pub mod wire;
pub mod world;
