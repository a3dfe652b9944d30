//! What can go wrong between us and a ComfyUI, and whether it may have heard us.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A call that failed. `path` is the route without its query.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection; nothing has been sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// To whom.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection broke after the request may have been heard.
    #[error("{method} {path} broke off: {source}")]
    Broken {
        /// `GET`, say.
        method: &'static str,
        /// The route.
        path: String,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// No whole answer in time; the request may have been heard.
    #[error("{method} {path} had no whole answer within {} ms", limit.as_millis())]
    Late {
        /// `GET`, say.
        method: &'static str,
        /// The route.
        path: String,
        /// What was waited.
        limit: Duration,
    },
    /// More than we take.
    #[error("the answer to {path} is larger than {limit} bytes")]
    TooLarge {
        /// The route.
        path: String,
        /// The bound, in bytes.
        limit: u64,
    },
    /// An answer that is no success.
    #[error("{path} answered {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Status {
        /// The route.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of its body, at most 200 characters.
        said: String,
    },
    /// An answer that is not what the route answers.
    #[error("the answer to {path} cannot be read: {source}")]
    Unreadable {
        /// The route.
        path: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A path, name or header that HTTP cannot carry.
    #[error("{what} cannot be asked for: {source}")]
    Unaskable {
        /// The path.
        what: String,
        /// Why not.
        #[source]
        source: hyper::http::Error,
    },
    /// The websocket could not be opened, or ended.
    #[error("the websocket of {address}: {source}")]
    Socket {
        /// Whose.
        address: SocketAddr,
        /// How.
        #[source]
        source: Box<tokio_tungstenite::tungstenite::Error>,
    },
    /// The websocket was closed by the other end, or has been silent in spite of our pings.
    #[error("the websocket of {address} {how}")]
    Gone {
        /// Whose.
        address: SocketAddr,
        /// `was closed`, or how long it was silent.
        how: String,
    },
}

impl ClientError {
    /// The other end cannot have acted on the request.
    pub fn is_unheard(&self) -> bool {
        matches!(
            self,
            ClientError::Connect { .. } | ClientError::Unaskable { .. }
        )
    }

    /// It answered, but not with a success.
    pub fn status(&self) -> Option<u16> {
        match self {
            ClientError::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}
