//! Telling the manager: figures over the channel that every managed app has (Node's, newline JSON), which 9090 and `pm2 describe`
//! then show.

use crate::sys::fds;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A manager that does not read for so long is not told any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// The channel of this process. Owner: whoever took it; it can be taken once.
pub struct Manager {
    channel: Mutex<Option<UnixStream>>,
}

impl Manager {
    /// The channel that `NODE_CHANNEL_FD` names, if this process is a managed app. Children must not be given that variable.
    pub fn from_env() -> Self {
        let number = std::env::var("NODE_CHANNEL_FD")
            .ok()
            .and_then(|text| text.parse().ok());
        let channel = number
            .filter(|number| *number > 2)
            .and_then(|number| fds::take_over(number).ok())
            .map(UnixStream::from);
        let channel = channel.filter(|channel| channel.set_write_timeout(Some(PATIENCE)).is_ok());
        Self {
            channel: Mutex::new(channel),
        }
    }

    /// Whether anybody listens.
    pub fn is_there(&self) -> bool {
        self.channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Tells figures by name (`axm:monitor`). A channel that fails is not used again: half a line would spoil the next.
    pub fn figures(&self, figures: &[(&str, Value)]) {
        let data: serde_json::Map<String, Value> = figures
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!({"value": value})))
            .collect();
        let line = format!("{}\n", json!({"type": "axm:monitor", "data": data}));
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = channel.as_mut()
            && open.write_all(line.as_bytes()).is_err()
        {
            *channel = None;
        }
    }
}
