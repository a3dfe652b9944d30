//! ComfyUI: the workspace, the ecosystem of one instance per GPU, and the simulator.

pub mod ecosystem;
mod files;
pub mod simulate;
pub mod tree;
pub mod workspace;
