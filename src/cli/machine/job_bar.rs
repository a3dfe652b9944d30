//! A job's progress on one line of standard error; nothing without a terminal.

use serde_json::Value;
use std::io::{IsTerminal, Write};

/// Cells of the bar.
const CELLS: usize = 24;

/// The line. It is wiped when it is dropped.
pub struct Bar {
    shown: bool,
    width: usize,
    colour: bool,
}

impl Bar {
    /// On standard error, if that is a terminal and nothing asks for silence.
    pub fn new(silent: bool) -> Self {
        Self {
            shown: !silent && std::io::stderr().is_terminal(),
            width: 0,
            colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    /// Shows an event.
    pub fn show(&mut self, event: &str, data: &Value) {
        if self.shown {
            let line = line(event, data, self.colour);
            self.put(&line);
        }
    }

    fn put(&mut self, line: &str) {
        let width = line.chars().count();
        let blank = " ".repeat(self.width.saturating_sub(width));
        let mut stderr = std::io::stderr();
        // A terminal that has gone needs no progress.
        let _ = write!(stderr, "\r{line}{blank}");
        let _ = stderr.flush();
        self.width = width;
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.width > 0 {
            self.put("");
            // The cursor goes back to where the next line begins.
            let _ = write!(std::io::stderr(), "\r");
        }
    }
}

fn line(event: &str, data: &Value, colour: bool) -> String {
    if event != "progress" {
        let instance = data["instance"]
            .as_str()
            .map_or_else(String::new, |name| format!(" on {name}"));
        let again = match data["attempt"].as_u64() {
            Some(attempt) if attempt > 1 => format!(", attempt {attempt}"),
            _ => String::new(),
        };
        return format!("{event}{instance}{again}");
    }
    let number = |name: &str| data[name].as_f64().unwrap_or_default();
    let (value, max) = (number("value"), number("max"));
    let node = data["node"].as_str().unwrap_or("?");
    if max < 1.0 {
        return format!("node {node}");
    }
    let full = ((value / max).clamp(0.0, 1.0) * CELLS as f64).round() as usize;
    let (done, rest) = ("█".repeat(full), "·".repeat(CELLS - full));
    let bar = if colour {
        format!("\x1b[32m{done}\x1b[0m{rest}")
    } else {
        format!("{done}{rest}")
    };
    format!("node {node} {bar} {value:.0}/{max:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn steps_are_a_bar_and_states_are_words() {
        let half = line(
            "progress",
            &json!({"node": "3", "value": 5.0, "max": 10.0}),
            false,
        );
        assert_eq!(half, "node 3 ████████████············ 5/10");
        assert_eq!(
            line(
                "progress",
                &json!({"node": "3", "value": 0.0, "max": 0.0}),
                false
            ),
            "node 3"
        );
        assert_eq!(
            line(
                "running",
                &json!({"instance": "comfyui-gpu0", "attempt": 2}),
                false
            ),
            "running on comfyui-gpu0, attempt 2"
        );
    }
}
