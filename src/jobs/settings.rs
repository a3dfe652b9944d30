//! What the daemon's environment says about jobs.

use super::store::{Folders, Retention};
use crate::core::units::{Bytes, Millis};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How jobs are kept and placed.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// `FORNAX_JOBS_DIR`: the store's folder; by default `jobs` in the home.
    pub folders: Folders,
    /// `FORNAX_JOBS_QUEUE`: jobs that are not settled; a further one is refused. Default 10,000.
    pub queue: usize,
    /// `FORNAX_JOBS_DEPTH`: prompts given to one instance at once, 1 to 100. Default 2, so that it has the next one when it is
    /// done with one. More are lost, and tried again, when it dies.
    pub depth: u32,
    /// `FORNAX_JOBS_KEEP`: settled jobs are kept for so long. Default 7 days.
    pub keep: Millis,
    /// `FORNAX_JOBS_KEEP_BYTES`: and no more bytes of outputs than these; the oldest go first. Default 20 GiB.
    pub keep_bytes: Bytes,
    /// `FORNAX_JOBS_KEEP_JOBS`: and no more jobs than these. Default 100,000.
    pub keep_jobs: u64,
    /// `FORNAX_WEBHOOK_SECRET`: signs webhooks that bring no secret of their own.
    pub webhook_secret: Option<String>,
    /// `FORNAX_WEBHOOK_HOSTS`: the only hosts that webhooks may go to, separated by commas; by default any but link-local ones.
    pub webhook_hosts: Option<Vec<String>>,
    /// `FORNAX_WEBHOOK_CA`: certificates (PEM) of authorities that servers of https webhooks may be signed by, besides the machine's.
    pub webhook_ca: Option<PathBuf>,
}

impl JobSettings {
    /// From these variables. What cannot be read is logged, and the default holds.
    pub fn from_env(home: &Path, env: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| env(name).filter(|text| !text.trim().is_empty());
        fn read<T>(
            name: &str,
            text: Option<String>,
            parse: impl Fn(&str) -> Option<T>,
            default: T,
        ) -> T {
            let Some(text) = text else {
                return default;
            };
            parse(text.trim()).unwrap_or_else(|| {
                tracing::warn!(name, "cannot be read; the default holds");
                default
            })
        }
        let root = text("FORNAX_JOBS_DIR").map_or_else(|| home.join("jobs"), Into::into);
        let number = |name: &str, default: u64, least: u64, most: u64| {
            let fit = |number: &u64| (least..=most).contains(number);
            read(
                name,
                text(name),
                |text| text.parse().ok().filter(fit),
                default,
            )
        };
        Self {
            folders: Folders::new(root),
            queue: number("FORNAX_JOBS_QUEUE", 10_000, 1, 1_000_000) as usize,
            depth: number("FORNAX_JOBS_DEPTH", 2, 1, 100) as u32,
            keep: read(
                "FORNAX_JOBS_KEEP",
                text("FORNAX_JOBS_KEEP"),
                Millis::parse,
                Millis(7 * 86_400_000),
            ),
            keep_bytes: read(
                "FORNAX_JOBS_KEEP_BYTES",
                text("FORNAX_JOBS_KEEP_BYTES"),
                Bytes::parse,
                Bytes(20 << 30),
            ),
            keep_jobs: number("FORNAX_JOBS_KEEP_JOBS", 100_000, 0, 10_000_000),
            webhook_secret: text("FORNAX_WEBHOOK_SECRET"),
            webhook_ca: text("FORNAX_WEBHOOK_CA").map(Into::into),
            webhook_hosts: text("FORNAX_WEBHOOK_HOSTS").map(|hosts| {
                hosts
                    .split(',')
                    .map(|host| host.trim().to_ascii_lowercase())
                    .collect()
            }),
        }
    }

    /// What is to be kept, as of now.
    pub(super) fn retention(&self, now_ms: u64) -> Retention {
        Retention {
            ended_after_ms: now_ms.saturating_sub(self.keep.0),
            bytes: self.keep_bytes.0,
            jobs: self.keep_jobs,
        }
    }
}

/// An outstanding prompt that has been silent for so long is looked for.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(2);
/// A prompt of which it is not sure that it ever arrived is looked for so much later once more.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How long an instance may take to let go of what is taken back.
pub(super) const LET_GO: Duration = Duration::from_secs(10);
/// How often what has limits is looked at.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// How long nothing is placed after the store has failed.
pub(super) const STORE_REST: Duration = Duration::from_secs(2);
/// How long an instance without a websocket is not given anything.
pub(super) const SOCKET_WITHIN: Duration = Duration::from_secs(3);
