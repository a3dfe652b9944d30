//! PM2's words for the state of an instance (pm2 7.0.4, spec section 4.1).

use serde::{Deserialize, Serialize};

/// What `pm2 list` calls an instance's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Spawned or about to be, not confirmed yet.
    #[serde(rename = "launching")]
    Launching,
    /// Running.
    #[serde(rename = "online")]
    Online,
    /// A stop is in progress.
    #[serde(rename = "stopping")]
    Stopping,
    /// Not running, and not going to by itself.
    #[serde(rename = "stopped")]
    Stopped,
    /// Sleeping before an automatic restart.
    #[serde(rename = "waiting restart")]
    WaitingRestart,
    /// Given up.
    #[serde(rename = "errored")]
    Errored,
}

impl Status {
    /// PM2's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Launching => "launching",
            Status::Online => "online",
            Status::Stopping => "stopping",
            Status::Stopped => "stopped",
            Status::WaitingRestart => "waiting restart",
            Status::Errored => "errored",
        }
    }
}
