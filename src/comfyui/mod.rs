//! ComfyUI: the workspace, the ecosystem of one instance per GPU, a client, and the simulator.

pub mod client;
pub mod ecosystem;
mod files;
pub mod simulate;
pub mod tree;
pub mod workspace;
