//! What the daemon says of itself.

use crate::daemon::handle::{Handle, HttpState};
use serde_json::{Value, json};

/// Milliseconds since the Unix epoch.
pub(super) fn wall_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

/// `getReport` (spec 3.3). There is no Node in this daemon, and its environment stays with it.
pub(super) fn report(handle: &Handle) -> Value {
    json!({
        "pm2_version": super::methods::PM2_VERSION,
        "fornax_version": env!("CARGO_PKG_VERSION"),
        "node_version": "N/A",
        "node_path": "N/A",
        "argv0": "fornax",
        "argv": ["fornax", "daemon"],
        "user": handle.info.user,
        "uid": nix::unistd::getuid().as_raw(),
        "gid": nix::unistd::getgid().as_raw(),
        "env": {},
        "managed_apps": handle.snapshot().instances.len(),
        "started_at": handle.info.started_at_ms,
    })
}

/// `fornaxStatus`: what our own commands need and PM2's protocol has no place for.
pub(super) fn status(handle: &Handle) -> Value {
    let http = match &*handle.http.borrow() {
        HttpState::Off => json!({"state": "off"}),
        HttpState::Pending => json!({"state": "pending"}),
        HttpState::Listening(address) => {
            json!({"state": "listening", "address": address.to_string()})
        }
        HttpState::Failed { address, reason } => {
            json!({"state": "failed", "address": address, "reason": reason})
        }
    };
    let succession = &handle.succession;
    json!({"keeper": succession.keeper_pid(), "predecessor": succession.predecessor, "pid": handle.info.pid, "version": env!("CARGO_PKG_VERSION"), "started_at_ms": handle.info.started_at_ms, "home": handle.info.home, "http": http})
}
