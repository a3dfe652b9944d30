//! Figures of the daemon over time, and whether they have stayed where they were.

use super::followers::LogCounts;
use super::process;
use std::fmt;
use std::time::Duration;

/// RSS may grow by so much, in kB, between the first and the last tenth of a run after its warm-up.
const RSS_GROWTH: f64 = 1_000.0;
/// The part of a run that is its warm-up: queues, indexes and heaps fill up.
const WARM_UP: f64 = 0.2;
/// Lines printed in a run of any length.
const LINES: usize = 60;

/// The daemon at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    at: Duration,
    rss_kb: f64,
    fds: usize,
    threads: usize,
    /// Since its start, in seconds.
    cpu: f64,
    lines: u64,
    dropped: u64,
    missed: u64,
    restarts: u64,
}

impl Sample {
    /// Looks.
    pub fn take(pid: i32, at: Duration, logs: &LogCounts, restarts: u64) -> Self {
        let entries = |name: &str| {
            std::fs::read_dir(format!("/proc/{pid}/{name}")).map_or(0, Iterator::count)
        };
        Self {
            at,
            rss_kb: process::memory(pid).rss,
            fds: entries("fd"),
            threads: entries("task"),
            cpu: process::cpu_seconds(pid),
            lines: logs.written,
            dropped: logs.dropped,
            missed: logs.missed,
            restarts,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:>8.0} {:>9.0} {:>6} {:>8} {:>7.1} {:>12} {:>9} {:>9} {:>9}",
            self.at.as_secs_f64(),
            self.rss_kb,
            self.fds,
            self.threads,
            self.cpu / self.at.as_secs_f64() * 100.0,
            self.lines,
            self.dropped,
            self.missed,
            self.restarts
        )
    }
}

/// All samples of a run.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// One more.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Every one at first, then ever fewer.
    pub fn is_worth_a_line(&self) -> bool {
        let count = self.0.len();
        count.is_multiple_of((count / LINES + 1).next_power_of_two())
    }

    /// The medians of the first and the last tenth after the warm-up.
    fn ends(&self, figure: impl Fn(&Sample) -> f64) -> (f64, f64) {
        let warm = &self.0[(self.0.len() as f64 * WARM_UP) as usize..];
        let tenth = (warm.len() / 10).max(1).min(warm.len());
        let median = |part: &[Sample]| {
            let mut all: Vec<f64> = part.iter().map(&figure).collect();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied().unwrap_or(0.0)
        };
        (median(&warm[..tenth]), median(&warm[warm.len() - tenth..]))
    }

    /// Neither memory nor descriptors have grown.
    pub fn are_flat(&self) -> bool {
        let (rss, fds) = (
            self.ends(|sample| sample.rss_kb),
            self.ends(|sample| sample.fds as f64),
        );
        // A run that ends and its successor hold descriptors at once: so much may be a matter of the moment.
        rss.1 - rss.0 < RSS_GROWTH && fds.1 - fds.0 < 12.0
    }

    /// In words.
    pub fn summary(&self) -> String {
        let (rss, fds) = (
            self.ends(|sample| sample.rss_kb),
            self.ends(|sample| sample.fds as f64),
        );
        let Some(last) = self.0.last() else {
            return "no sample".to_owned();
        };
        let peak = self
            .0
            .iter()
            .map(|sample| sample.rss_kb)
            .fold(0.0, f64::max);
        let seconds = last.at.as_secs_f64();
        format!(
            "{seconds:.0} s, {:.0} lines a second, {} restarts\nRSS {:.0} to {:.0} kB (peak {peak:.0}), descriptors {:.0} to {:.0}, after the warm-up: {}\nCPU {:.1} % of a core ({:.1} s)",
            last.lines as f64 / seconds,
            last.restarts,
            rss.0,
            rss.1,
            fds.0,
            fds.1,
            if self.are_flat() { "flat" } else { "GROWN" },
            last.cpu / seconds * 100.0,
            last.cpu
        )
    }
}
