//! PM2's protocol: AMP framing, axon's request-reply and bus sockets, and the RPC methods.

pub mod amp;
pub mod client;
mod methods;
mod node_version;
mod publish;
mod report;
mod rpc;
pub mod server;
mod versioning;
