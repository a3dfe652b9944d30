//! What the log plane is told: where an app's output goes and how its lines look.

use crate::core::ids::{Generation, PmId};
use crate::core::spec::fornax::LogRotation;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How lines are written (pm2 7.0.4: `log_type`, `log_date_format`, `time`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// As they came.
    #[default]
    Raw,
    /// `<stamp>: <line>`, the stamp by this dayjs pattern, in local time.
    Stamped(String),
    /// One JSON object a line (PM2: a chunk), its `timestamp` by this pattern, else ISO 8601 with milliseconds in UTC.
    Json(Option<String>),
}

/// Where the output of one app goes. Paths are absolute; two spellings of one file are two files to the plane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// Standard output's file; `None` or `/dev/null`: none, and the lines still reach followers.
    pub out_file: Option<PathBuf>,
    /// Standard error's file, likewise; it may be the same as `out_file`.
    pub err_file: Option<PathBuf>,
    /// A file for both streams, beside their own.
    pub combined_file: Option<PathBuf>,
    /// How lines look.
    pub format: LogFormat,
    /// `disable_logs`: nothing is written and nothing is published; the output is read and thrown away.
    pub disabled: bool,
    /// When files are rotated. Where apps share a file, the latest one's wish holds.
    pub rotation: LogRotation,
}

/// One run's output, handed to the plane.
#[derive(Debug)]
pub struct RunLogs {
    /// The instance that runs.
    pub instance: PmId,
    /// Which of its runs.
    pub generation: Generation,
    /// The app's name, as PM2 tells it.
    pub name: String,
    /// The app's namespace.
    pub namespace: String,
    /// The read end of its standard output.
    pub out: OwnedFd,
    /// The read end of its standard error.
    pub err: OwnedFd,
    /// Where it goes.
    pub config: Arc<LogConfig>,
}

/// Settings of the plane itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// How much a follower's queue holds, in bytes; past it the oldest lines are dropped. Default 1 MiB.
    pub follower_bytes: usize,
    /// How many batches a follower's queue holds. Default 1024.
    pub follower_batches: usize,
    /// How long an unfinished line waits before its file shows it. Default 1 s.
    pub show_after: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            follower_bytes: 1 << 20,
            follower_batches: 1024,
            show_after: Duration::from_secs(1),
        }
    }
}
