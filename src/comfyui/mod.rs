//! ComfyUI: the workspace, the ecosystem of one instance per GPU, a client, and the simulator.

pub mod client;
pub mod ecosystem;
pub(crate) mod files;
pub mod flags;
pub mod install;
pub mod models;
pub mod simulate;
pub mod tell;
pub mod tree;
pub mod workspace;
