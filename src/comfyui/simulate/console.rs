//! What the simulated process prints: stderr, the last 300 writes for `/internal/logs`, and the websocket's log followers.

use super::clients::Clients;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Writes kept for `/internal/logs` (ComfyUI 0.3.64: 300); the oldest is dropped.
const KEPT: usize = 300;
/// Longest text of one write, in bytes; the rest is cut, so that 300 writes stay small.
const LONGEST: usize = 16 * 1024;
/// Cells of the progress bar.
const BAR: u32 = 10;

/// Where every line of the simulated process goes. A lock, not a message: lines come from routes and worker alike, and must
/// keep their order with the websocket messages around them.
pub(super) struct Console {
    entries: Mutex<VecDeque<Entry>>,
    clients: Arc<Clients>,
    size_told: AtomicBool,
}

#[derive(Clone)]
struct Entry {
    time: String,
    text: String,
}

impl Entry {
    fn json(&self) -> Value {
        json!({"t": self.time, "m": self.text})
    }
}

impl Console {
    /// A console whose followers are among `clients`.
    pub(super) fn new(clients: Arc<Clients>) -> Self {
        Self {
            entries: Mutex::default(),
            clients,
            size_told: AtomicBool::new(false),
        }
    }

    /// Prints one line (or several, with their line ends between).
    pub(super) fn line(&self, text: impl AsRef<str>) {
        self.write(format!("{}\n", cut(text.as_ref())));
    }

    /// Draws the progress bar over itself, as tqdm does; the last step ends the line.
    pub(super) fn progress(&self, done: u32, total: u32, elapsed: Duration) {
        let filled = (u64::from(done) * u64::from(BAR) / u64::from(total.max(1))) as usize;
        let bar: String = (0..BAR as usize)
            .map(|at| if at < filled { '█' } else { ' ' })
            .collect();
        let percent = u64::from(done) * 100 / u64::from(total.max(1));
        let spent = elapsed.as_secs_f64();
        let rate = if spent > 0.0 {
            f64::from(done) / spent
        } else {
            0.0
        };
        let left = if rate > 0.0 {
            f64::from(total - done.min(total)) / rate
        } else {
            0.0
        };
        let end = if done >= total { "\n" } else { "" };
        self.write(format!(
            "\r{percent:>3}%|{bar}| {done}/{total} [{}<{}, {rate:>5.2}it/s]{end}",
            clock(spent),
            clock(left)
        ));
    }

    /// Every kept write as `/internal/logs/raw` shows it, oldest first.
    pub(super) fn entries(&self) -> Vec<Value> {
        self.lock().iter().map(Entry::json).collect()
    }

    /// Every kept write as the one text of `/internal/logs`.
    pub(super) fn text(&self) -> String {
        self.lock()
            .iter()
            .map(|entry| format!("{} - {}", entry.time, entry.text))
            .collect()
    }

    /// The terminal's size as ComfyUI reports it without a terminal.
    pub(super) fn size() -> Value {
        json!({"cols": 80, "rows": 24})
    }

    fn write(&self, text: String) {
        // A closed or full stderr must not end the server: the line is still in the ring.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        let entry = Entry {
            time: jiff::ZonedDateTime::now()
                .strftime("%Y-%m-%dT%H:%M:%S%.6f")
                .to_string(),
            text,
        };
        {
            let mut entries = self.lock();
            if entry.text.starts_with('\r')
                && entries
                    .back()
                    .is_some_and(|last| !last.text.ends_with('\n'))
            {
                entries.pop_back();
            }
            if entries.len() == KEPT {
                entries.pop_front();
            }
            entries.push_back(entry.clone());
        }
        if self.clients.has_log_followers() {
            let first = !self.size_told.swap(true, Ordering::Relaxed);
            let size = if first { Self::size() } else { Value::Null };
            self.clients.send_logs(
                &json!({"type": "logs", "data": {"entries": [entry.json()], "size": size}}),
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=LONGEST.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    &text[..end]
}

fn clock(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds / 3600 {
        0 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_replaces_its_last_drawing_and_the_ring_is_bounded() {
        let console = Console::new(Arc::default());
        console.line("before");
        for done in 1..=4 {
            console.progress(done, 4, Duration::from_secs(2));
        }
        let entries = console.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[1]["m"],
            "\r100%|██████████| 4/4 [00:02<00:00,  2.00it/s]\n"
        );
        for number in 0..400 {
            console.line(format!("line {number}"));
        }
        assert_eq!(console.entries().len(), KEPT);
        assert!(console.text().ends_with(" - line 399\n"));
    }
}
