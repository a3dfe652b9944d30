//! Node's cluster primary: one socket for each address that an app's workers listen on, and connections handed to them in
//! turn. The protocol is Node's own (lib/internal/cluster): JSON on the IPC channel, descriptors beside it.

mod accept;
mod bind;
mod busy;
mod keep;
mod legacy;
mod listener;
mod preload;
mod query;
mod registry;

pub use busy::watch as watch_load;
pub use legacy::ListenerState;
pub use preload::as_worker;
pub use query::ClusterFact;
pub use registry::{Registry, WorkerSeat};
