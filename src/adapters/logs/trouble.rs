//! A sink whose file cannot be written: what is dropped is counted, and told in the file when it can be written again.

use super::disk::Outside;
use super::format::Moment;
use super::index::Mark;
use super::journal::{Book, Head, Kind};
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
    /// The system's number for it, 0 if it has none.
    code: i32,
    lines: u64,
    bytes: u64,
    pub retry_at: Instant,
}

impl Trouble {
    /// What the journal keeps of it: that there is trouble and why, lines, bytes.
    pub fn words(&self) -> [u64; 3] {
        let code = u64::try_from(self.code).unwrap_or(0);
        [code + 1, self.lines, self.bytes]
    }

    /// From [`Trouble::words`]; zeros are no trouble.
    pub fn from_words([code, lines, bytes]: [u64; 3], now: Moment) -> Option<Self> {
        let code = i32::try_from(code.checked_sub(1)?).unwrap_or(0);
        Some(Self {
            why: Errno::from_raw(code).desc().to_owned(),
            code,
            lines,
            bytes,
            retry_at: now.at,
        })
    }
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
        let code = error.raw_os_error().unwrap_or(0);
        let retry_at = now.at + RETRY_EVERY;
        match &mut self.trouble {
            Some(trouble) => {
                (trouble.why, trouble.code, trouble.retry_at) = (why, code, retry_at);
            }
            None => {
                tracing::error!(path = ?self.path, error = %why, "log lines are dropped; free the disk or mend the path");
                self.trouble = Some(Trouble {
                    why,
                    code,
                    lines: 0,
                    bytes: 0,
                    retry_at,
                });
            }
        }
    }

    /// Tries to write again: says first, in the file, what was dropped. Never within a turn of a stream: it is a turn of its own.
    pub(super) fn recover(&mut self, now: Moment, book: &mut Book) -> bool {
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
            if let Some(seat) = &self.seat {
                book.begin(&Head {
                    kind: Kind::Notice,
                    stream: 0,
                    wall_ms: now.wall_ms,
                    style: 0,
                    decor: notice.as_bytes(),
                    sinks: [Some(seat.slot), None],
                });
                book.writing(self.file_no, file.identity(), file.size(), notice.len());
            }
            if let Err(torn) = file.append(notice.as_bytes()) {
                book.cancel();
                self.fail(&torn.error, now);
                return false;
            }
            book.written();
            self.index.note(mark);
            self.told(notice.len());
        }
        tracing::info!(path = ?self.path, "log file can be written again");
        self.trouble = None;
        self.save(book);
        if book.is_open() {
            book.commit();
        }
        true
    }

    /// The notice of what was dropped is in the file: so many bytes.
    pub(super) fn told(&mut self, bytes: usize) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.count_written(bytes as u64, 1, seq);
        self.trouble = None;
    }

    /// When it must be tried again, if it is in trouble.
    pub fn retry_at(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.retry_at)
    }

    /// Tries again if it is time, so that the notice does not wait for the next line.
    pub fn retry(&mut self, now: Moment, book: &mut Book) {
        if self
            .trouble
            .as_ref()
            .is_some_and(|trouble| now.at >= trouble.retry_at)
        {
            self.recover(now, book);
        }
    }
}
