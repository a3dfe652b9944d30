//! How a run ended, in words that tell a person why.

use super::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The process returned this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal(Signal),
    /// The kernel's out-of-memory killer ended it (seen in the cgroup's `memory.events`, or SIGKILL that nobody of ours sent
    /// while the kernel log tells so).
    OomKilled,
    /// It has ended, and nobody could learn how: who would have been told was killed before.
    Unknown,
    /// The program was never executed.
    CouldNotStart {
        /// What was tried and why it failed, with the remedy where there is one.
        reason: String,
    },
}

impl ExitCause {
    /// The code that PM2 shows and compares with `stop_exit_codes`: 0 for a signal (pm2 7.0.4, quirk 18).
    pub fn pm2_code(&self) -> i32 {
        match self {
            ExitCause::Code(code) => *code,
            ExitCause::Signal(_) | ExitCause::OomKilled | ExitCause::Unknown => 0,
            ExitCause::CouldNotStart { .. } => 127,
        }
    }

    /// The signal that PM2 names for an end: SIGINT where there was none.
    pub fn pm2_signal(&self) -> String {
        match self {
            ExitCause::Signal(signal) => signal.to_string(),
            ExitCause::OomKilled => "SIGKILL (out of memory)".to_owned(),
            ExitCause::Code(_) | ExitCause::Unknown | ExitCause::CouldNotStart { .. } => {
                "SIGINT".to_owned()
            }
        }
    }

    /// Ended by itself with code 0.
    pub fn is_success(&self) -> bool {
        matches!(self, ExitCause::Code(0))
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitCause::Code(code) => write!(f, "exit code {code}"),
            ExitCause::Signal(signal) => write!(f, "killed by {signal}"),
            ExitCause::OomKilled => write!(f, "killed by the kernel's out-of-memory killer"),
            ExitCause::Unknown => write!(f, "ended in an unknown way, while nobody watched it"),
            ExitCause::CouldNotStart { reason } => write!(f, "could not start: {reason}"),
        }
    }
}

/// The end of an instance's last run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Why it ended.
    pub cause: ExitCause,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long the run had lasted, in milliseconds.
    pub uptime_ms: u64,
    /// The last lines of its standard error, oldest first; at most 10.
    pub stderr_tail: Vec<String>,
    /// Why the daemon ended it to restart it, if it did: a changed file, its cron pattern, its memory, its probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
