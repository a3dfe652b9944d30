//! ComfyUI: the workspace, the ecosystem of one instance per GPU, a client, and the simulator.

pub mod client;
pub mod ecosystem;
mod files;
<<<<<<< HEAD
pub mod models;
=======
pub mod install;
>>>>>>> cf7fccc (comfyui: install, update, roll back, and custom nodes, in builds beside each other)
pub mod simulate;
pub mod tell;
pub mod tree;
pub mod workspace;
