//! A simulated ComfyUI: a server that speaks ComfyUI 0.3.64's HTTP and websocket protocol, draws pictures without a model, and
//! shows faults on demand. Simulated GPU instances, tests and demonstrations run it.
//!
//! [`serve`] runs it in this process until a future ends; [`run`] is `fornax simulate` itself, with ComfyUI's exit codes.
//!
//! One task, the *worker*, executes prompts one at a time; the routes reach it through the shared state in `shared` only.

mod bind;
mod cache;
mod clients;
mod console;
mod error;
mod execute;
mod fault;
mod graph;
mod history;
mod jobs;
mod make;
mod models;
mod nodes;
mod options;
mod picture;
mod places;
mod refusal;
mod routes;
mod save;
mod serve;
mod shared;
mod told;
mod validate;
mod worker;

pub use error::SimulateError;
pub use fault::Fault;
pub use options::{IgnoredFlags, SimulateOptions};
pub use serve::{run, serve};
