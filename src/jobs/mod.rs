//! Jobs: accepted onto disk, placed on healthy ComfyUIs, followed to their outputs.
//!
//! One task, the *engine*, owns every job that is not settled. It starts when the first job comes, or when there is a store
//! already; a daemon without jobs runs nothing of this.

pub mod store;
