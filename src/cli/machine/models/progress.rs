//! What a pull shows while it runs: lines on standard error, one line that changes on a terminal, and figures for the manager.

use crate::cli::render::units;
use crate::comfyui::models::event::{Outcome, Step};
use crate::comfyui::tell::Manager;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the changing line is drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(200);

/// How often the manager is told, and a log that is no terminal hears of what goes on.
const TOLD_EVERY: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Columns of a terminal that does not tell.
const COLUMNS: usize = 80;

/// Files that come at this moment.
#[derive(Debug, Clone, Copy)]
struct Coming {
    have: u64,
    total: Option<u64>,
    /// When and with how much it began, for its pace.
    began: (Instant, u64),
}

/// Owner: the pull; its threads tell it of steps.
pub(super) struct Progress {
    inner: Mutex<Inner>,
    manager: Manager,
    terminal: bool,
}

struct Inner {
    files: usize,
    done: usize,
    failed: usize,
    /// Bytes of files that are done.
    bytes: u64,
    coming: BTreeMap<String, Coming>,
    drawn: Instant,
    told: Instant,
    lined: Instant,
    is_drawn: bool,
}

impl Progress {
    /// For so many files.
    pub(super) fn new(files: usize) -> Self {
        let long_ago = Instant::now()
            .checked_sub(LINE_EVERY)
            .unwrap_or_else(Instant::now);
        let inner = Inner {
            files,
            done: 0,
            failed: 0,
            bytes: 0,
            coming: BTreeMap::new(),
            drawn: long_ago,
            told: long_ago,
            lined: Instant::now(),
            is_drawn: false,
        };
        let progress = Self {
            inner: Mutex::new(inner),
            manager: Manager::from_env(),
            terminal: std::io::stderr().is_terminal(),
        };
        progress.tell(&mut progress.inner(), true);
        progress
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A step of a file.
    pub(super) fn take(&self, file: &str, step: Step) {
        let mut inner = self.inner();
        let line = inner.note(file, &step);
        if let Some(line) = line {
            self.line(&mut inner, &line);
        }
        let is_end = matches!(step, Step::End(_));
        self.tell(&mut inner, is_end);
        if self.terminal && (is_end || inner.drawn.elapsed() >= DRAWN_EVERY) {
            self.draw(&mut inner);
        } else if !self.terminal && inner.lined.elapsed() >= LINE_EVERY {
            inner.lined = Instant::now();
            let words = inner.words();
            self.line(&mut inner, &words);
        }
    }

    /// The changing line goes, and the manager hears of the end.
    pub(super) fn end(&self) {
        let mut inner = self.inner();
        inner.wipe();
        self.tell(&mut inner, true);
    }

    fn line(&self, inner: &mut Inner, line: &str) {
        inner.wipe();
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn draw(&self, inner: &mut Inner) {
        inner.drawn = Instant::now();
        let columns = terminal_size::terminal_size_of(std::io::stderr())
            .map_or(COLUMNS, |(width, _)| width.0.into());
        let words: String = inner
            .words()
            .chars()
            .take(columns.saturating_sub(1))
            .collect();
        // Nobody may be listening.
        let _ = write!(std::io::stderr(), "\r\x1b[K{words}");
        inner.is_drawn = true;
    }

    fn tell(&self, inner: &mut Inner, now: bool) {
        if !self.manager.is_there() || (!now && inner.told.elapsed() < TOLD_EVERY) {
            return;
        }
        inner.told = Instant::now();
        let percent = inner
            .percent()
            .map_or(Value::Null, |percent| json!(percent));
        self.manager.figures(&[
            ("Models", json!(inner.words())),
            ("Models percent", percent),
            ("Models failed", json!(inner.failed)),
        ]);
    }
}

impl Inner {
    /// Takes a step in. A line that is worth being said.
    fn note(&mut self, file: &str, step: &Step) -> Option<String> {
        match step {
            Step::Begin { have, total } => {
                self.coming.insert(
                    file.to_owned(),
                    Coming {
                        have: *have,
                        total: *total,
                        began: (Instant::now(), *have),
                    },
                );
                let of = total.map_or_else(|| "an unknown size".to_owned(), units::memory);
                Some(match have {
                    0 => format!("{file}: loading {of}"),
                    have => format!("{file}: going on at {} of {of}", units::memory(*have)),
                })
            }
            Step::Bytes { have, total } => {
                if let Some(coming) = self.coming.get_mut(file) {
                    (coming.have, coming.total) = (*have, *total);
                }
                None
            }
            Step::Checking => None,
            Step::Again { why, wait_ms } => Some(format!("{file}: {why}; again in {wait_ms} ms")),
            Step::Waiting { pid: Some(pid) } => {
                Some(format!("{file}: waiting for process {pid}, which loads it"))
            }
            Step::Waiting { pid: None } => Some(format!(
                "{file}: waiting for another process, which loads it"
            )),
            Step::End(outcome) => {
                self.coming.remove(file);
                self.done += 1;
                match outcome {
                    Outcome::There => None,
                    Outcome::Loaded { size, .. } => {
                        self.bytes += size;
                        Some(format!("{file}: loaded, {}", units::memory(*size)))
                    }
                    Outcome::Linked { to } => Some(format!("{file}: the same as {to}, linked")),
                    Outcome::Failed { why } => {
                        self.failed += 1;
                        Some(format!("{file}: {why}"))
                    }
                }
            }
        }
    }

    fn words(&self) -> String {
        let mut words = format!("{}/{} models", self.done, self.files);
        if self.failed > 0 {
            words.push_str(&format!(", {} failed", self.failed));
        }
        for (file, coming) in &self.coming {
            let name = file.rsplit('/').next().unwrap_or(file);
            let seconds = coming.began.0.elapsed().as_secs_f64();
            // A pace of bytes has no use for the digits behind the point.
            let pace =
                (coming.have.saturating_sub(coming.began.1) as f64 / seconds.max(0.001)) as u64;
            let of = coming
                .total
                .map_or_else(String::new, |total| format!("/{}", units::memory(total)));
            words.push_str(&format!(
                "  {name} {}{of} {}/s",
                units::memory(coming.have),
                units::memory(pace)
            ));
        }
        words
    }

    /// Of the bytes that are known of; `None` if none are.
    fn percent(&self) -> Option<u64> {
        let have: u64 = self.coming.values().map(|coming| coming.have).sum::<u64>() + self.bytes;
        let total: u64 = self
            .coming
            .values()
            .map(|coming| coming.total.unwrap_or(coming.have))
            .sum::<u64>()
            + self.bytes;
        (have * 100).checked_div(total)
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            // Nobody may be listening.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
