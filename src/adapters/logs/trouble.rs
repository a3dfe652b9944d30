//! A sink whose file cannot be written: what is dropped is counted, and told in the file when it can be written again.

use super::disk::Outside;
use super::format::Moment;
use super::index::Mark;
use super::sink::Sink;
use nix::errno::Errno;
use std::io;
use std::time::{Duration, Instant};

/// While a file cannot be written, it is tried again this often.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(250);

/// Why and how much is being dropped.
#[derive(Debug)]
pub(super) struct Trouble {
    pub why: String,
    lines: u64,
    bytes: u64,
    pub retry_at: Instant,
}

impl Sink {
    pub(super) fn count_dropped(&mut self, bytes: u64, lines: u64) {
        self.stats.dropped_bytes += bytes;
        self.stats.dropped_lines += lines;
        if let Some(trouble) = &mut self.trouble {
            trouble.bytes += bytes;
            trouble.lines += lines;
        }
    }

    pub(super) fn fail(&mut self, error: &io::Error, now: Moment) {
        let why = error.raw_os_error().map_or_else(
            || error.to_string(),
            |code| Errno::from_raw(code).desc().to_owned(),
        );
        let retry_at = now.at + RETRY_EVERY;
        match &mut self.trouble {
            Some(trouble) => (trouble.why, trouble.retry_at) = (why, retry_at),
            None => {
                tracing::error!(path = ?self.path, error = %why, "log lines are dropped; free the disk or mend the path");
                self.trouble = Some(Trouble {
                    why,
                    lines: 0,
                    bytes: 0,
                    retry_at,
                });
            }
        }
    }

    /// Tries to write again: says first, in the file, what was dropped.
    pub(super) fn recover(&mut self, now: Moment) -> bool {
        if self.file.as_ref().is_some_and(|file| {
            self.path
                .as_ref()
                .is_some_and(|path| file.is_regular() && !file.is_at(path))
        }) {
            self.leave_file();
        }
        if self.file.is_none() && !self.open(now) {
            return false;
        }
        let (Some(trouble), Some(file)) = (&self.trouble, &mut self.file) else {
            return true;
        };
        if trouble.lines > 0 {
            if file.outside() != Outside::Untouched {
                self.index.forget_file(self.file_no);
            }
            let seq = self.next_seq;
            let notice = format!(
                "[fornax] {} lines ({} bytes) dropped: {}\n",
                trouble.lines, trouble.bytes, trouble.why
            );
            let mark = Mark {
                seq,
                ends: self.disk_seq,
                at_ms: now.wall_ms,
                file_no: self.file_no,
                offset: file.size(),
            };
            if let Err(torn) = file.append(notice.as_bytes()) {
                self.fail(&torn.error, now);
                return false;
            }
            self.index.note(mark);
            self.next_seq += 1;
            self.count_written(notice.len() as u64, 1, seq);
        }
        tracing::info!(path = ?self.path, "log file can be written again");
        self.trouble = None;
        true
    }

    /// When it must be tried again, if it is in trouble.
    pub fn retry_at(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// Tries again if it is time, so that the notice does not wait for the next line.
    pub fn retry(&mut self, now: Moment) {
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now.at >= trouble.retry_at)
        {
            self.recover(now);
        }
    }
}
