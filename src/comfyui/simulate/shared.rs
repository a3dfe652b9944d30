//! What routes and worker share.

use super::clients::Clients;
use super::console::Console;
use super::fault::Fault;
use super::jobs::Jobs;
use super::options::SimulateOptions;
use super::places::Places;
use super::told::Current;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The ComfyUI whose protocol this is.
pub(super) const COMFYUI_VERSION: &str = "0.3.64";

/// The state of one simulated instance.
pub(super) struct Shared {
    /// How it was started.
    pub options: SimulateOptions,
    /// Its directories.
    pub places: Places,
    /// Its output.
    pub console: Console,
    /// Its websocket clients.
    pub clients: Arc<Clients>,
    /// Its queue.
    pub jobs: Jobs,
    /// The node being executed.
    pub current: Current,
    /// VRAM that loaded models take, in bytes.
    pub loaded: AtomicU64,
    /// `/free` has been asked for.
    pub freed: AtomicBool,
    /// Told when the whole process is to hang.
    pub hold: Notify,
    /// Ends when the server is to end.
    pub stop: CancellationToken,
}

impl Shared {
    /// A fresh instance.
    pub(super) fn new(options: SimulateOptions, places: Places) -> Self {
        let clients = Arc::new(Clients::default());
        Self {
            options,
            places,
            console: Console::new(clients.clone()),
            clients,
            jobs: Jobs::default(),
            current: Current::default(),
            loaded: AtomicU64::new(0),
            freed: AtomicBool::new(false),
            hold: Notify::new(),
            stop: CancellationToken::new(),
        }
    }

    /// True if this fault is to be shown.
    pub(super) fn has(&self, fault: &Fault) -> bool {
        self.options.faults.contains(fault)
    }

    /// Tells everyone how long the queue is.
    pub(super) fn tell_queue(&self) {
        self.clients.broadcast_status(self.jobs.remaining());
    }

    /// The machine's memory, as (total, available) bytes.
    pub(super) fn ram(&self) -> (u64, u64) {
        // Where /proc is missing the figures are 0, which says "unknown" and ends nothing.
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| {
                rest.trim_start_matches(':')
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .unwrap_or(0)
                * 1024
        };
        (field("MemTotal"), field("MemAvailable"))
    }
}
