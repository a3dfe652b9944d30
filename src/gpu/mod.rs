//! GPUs: what is there (NVML or simulated), and who owns which.

pub mod inventory;
pub mod lease;
pub mod meter;
pub mod nvml;
pub mod place;
pub mod render;
pub mod select;
pub mod simulated;
