//! What one ComfyUI is doing, from what can be seen of it: a state machine without I/O and without a clock.
//!
//! ```text
//! answers of GET /prompt ─┐
//! websocket, queue ───────┤                ┌─► a verdict with a named cause
//! /proc, the driver ──────┼─► Monitor ─────┼─► a cure to apply
//! lines of its log ───────┤                ├─► incidents, for people
//! canary jobs ────────────┘                └─► a canary job to run
//! ```

pub mod cause;
pub mod cures;
pub mod facts;
mod judge;
pub mod lines;
pub mod machine;
pub mod signs;
