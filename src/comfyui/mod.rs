//! ComfyUI: the workspace, the ecosystem of one instance per GPU, and the simulator.

pub mod simulate;
