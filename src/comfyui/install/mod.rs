//! Installing ComfyUI and its custom nodes (docs/adr/0009): builds beside each other, one switch, a lock file.
//!
//! Everything here blocks: it is run by a program of its own.

mod begun;
mod child;
mod copy;
mod error;
mod git;
pub mod layout;
mod nodes;
mod packages;
mod progress;
mod project;
mod python;
mod record;
mod run;
mod settings;
mod status;
mod trial;
mod upkeep;
mod validate;
mod whole;
mod work;

pub use error::InstallError;
pub use layout::{Build, Layout};
pub use progress::{Listener, State, Teller, last};
pub use record::{BuildState, Lock, NodeRecord, NodeState, Plan, Record, TreeRecord};
pub use run::{Models, Moving, Options, Outcome, STEPS, activate, install, is_current, lock};
pub use settings::{Hardware, NODES, UPSTREAM, machine, nodes, nodes_file, plan};
pub use status::{NodeReport, Report, Standing, report, validate};
pub use upkeep::{clean, prune};
