//! A client of one ComfyUI: its HTTP routes and its websocket, typed; every reply is bounded in size and in time.
//!
//! Speaks what ComfyUI 0.3.64 and later speak. It knows nothing of instances, health or jobs: it is told an address. A
//! [`Client`] is cheap; the connections it keeps are closed with it. Nothing here spawns a task.

mod calls;
mod error;
mod event;
mod files;
mod line;
mod replies;
mod socket;
mod submit;

pub use calls::{Client, Limits};
pub use error::ClientError;
pub use event::{Event, ImageFormat, NodeProgress};
pub use files::{Download, FileKind, FileRef, Upload};
pub use replies::{Device, HistoryEntry, Outcome, Queue, SystemStats};
pub use socket::Events;
pub use submit::{Submission, Submitted};
