//! The command line: what a person types and what is printed back.

pub mod cmd;
pub mod deploy;
pub mod machine;
pub mod modules;
pub mod monit;
pub mod options;
pub mod program;
pub mod render;
pub mod runtime;
pub mod session;
pub mod signals;
mod start_context;
pub mod startup;
