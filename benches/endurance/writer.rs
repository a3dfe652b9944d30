//! An app that writes lines at a steady rate, and counts them in a file until it is told to end.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often lines are written.
const PERIOD: Duration = Duration::from_millis(10);

/// Writes for ever. The count goes to `PID.count` in the working directory once a second and never tells more than was written.
pub fn write(rate: u64) {
    let (begun, mut written, mut out) = (Instant::now(), 0_u64, std::io::stdout().lock());
    let mut told = Instant::now();
    loop {
        let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
        let mut block = String::new();
        for number in written..due {
            block.push_str(&format!(
                "{number:012} a line of an app, a hundred bytes long, of no great interest to anybody who reads it ...\n"
            ));
        }
        if out
            .write_all(block.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
        written = due;
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            let name = format!("{}.count", std::process::id());
            // What can't be counted is only told less.
            let _ = std::fs::write(&name, written.to_string());
        }
        std::thread::sleep(PERIOD);
    }
}

/// The sum of all writers' counts.
pub fn total(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder)
        .expect("the folder is ours")
        .flatten();
    entries
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "count")
        })
        .filter_map(|entry| {
            std::fs::read_to_string(entry.path())
                .ok()?
                .parse::<u64>()
                .ok()
        })
        .sum()
}
