//! The command line: what a person types and what is printed back.

pub mod cmd;
pub mod machine;
pub mod options;
pub mod program;
pub mod render;
pub mod session;
mod start_context;
