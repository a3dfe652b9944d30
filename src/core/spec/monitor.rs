//! How a ComfyUI is watched: the `fornax.monitor` key.

use crate::core::units::Millis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the ComfyUI of this app is watched, beyond its probe: whether its jobs go on, and what is done when they do not. Its
/// probe's `startup` says how long a start may take. Needs `fornax.port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Monitor {
    /// Time from one look to the next, 100 ms to 60 s. An answer may take as long, and 5 s at most. Default 5 s.
    pub period: Millis,
    /// A job without any sign of life for so long is hung: no event, no step, no processor, disk or GPU time, no thread that
    /// wakes up. Default 2 minutes. What this instance has been seen to survive makes it longer, up to four times.
    pub stall: Millis,
    /// The same for a job that does nothing but wake up now and then, as one does that polls another machine. Default 15 minutes.
    pub waiting: Millis,
    /// The same for a job that works (loads a model, computes) without a step, an event or an end. Default 45 minutes.
    pub busy: Millis,
    /// The same for an instance that works and answers nothing. Default 10 minutes.
    pub unanswered: Millis,
    /// A job of one pixel is run when nothing else was for so long. 0: never. Default 5 minutes.
    pub canary: Millis,
    /// How often it may be restarted to cure it, within `restart_window`. 0: its troubles are only told. Default 3.
    pub restarts: u32,
    /// Default 30 minutes.
    pub restart_window: Millis,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            period: Millis::from_secs(5),
            stall: Millis::from_secs(120),
            waiting: Millis::from_secs(15 * 60),
            busy: Millis::from_secs(45 * 60),
            unanswered: Millis::from_secs(10 * 60),
            canary: Millis::from_secs(5 * 60),
            restarts: 3,
            restart_window: Millis::from_secs(30 * 60),
        }
    }
}

impl Monitor {
    /// How long an answer may take.
    pub fn timeout(&self) -> Millis {
        self.period.min(Millis::from_secs(5))
    }
}
