//! What the kernel tells of a process, and the end of every process that carries our mark.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The variable that marks every process of a benchmark run; its value is a folder of the run.
pub const MARK: &str = "FORNAX_COMPARE";
/// How long anything may take before the benchmark gives up.
pub const LIMIT: Duration = Duration::from_secs(240);

/// A process's memory in kB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// VmRSS: every resident page, shared ones in full.
    pub rss: f64,
    /// RssAnon: what is its own and no file's.
    pub anon: f64,
    /// Pss: shared pages divided among their users.
    pub pss: f64,
}

/// Zeroes when the process is gone.
pub fn memory(pid: i32) -> Memory {
    let field = |file: &str, key: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or(0.0)
    };
    Memory {
        rss: field("status", "VmRSS:"),
        anon: field("status", "RssAnon:"),
        pss: field("smaps_rollup", "Pss:"),
    }
}

/// CPU seconds of all threads that live or have lived; the kernel's tick is 10 ms.
pub fn cpu_seconds(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    ticks as f64 / per_second.ok().flatten().unwrap_or(100) as f64
}

/// Processes whose environment at exec held the mark with this folder or one in it, ourselves apart.
pub fn marked(folder: &Path) -> Vec<i32> {
    let wanted = format!("{MARK}=");
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").expect("proc is mounted");
    let pids = entries.flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let values = environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.strip_prefix(wanted.as_bytes()));
        let ours = values
            .map(|value| Path::new(OsStr::from_bytes(value)))
            .any(|value| value.starts_with(folder));
        (pid != own && ours).then_some(pid)
    });
    pids.collect()
}

/// SIGKILL to all that carry the mark, until none is left: a daemon may start another meanwhile.
pub fn end_marked(folder: &Path) {
    until("the end of our processes", || {
        let left = marked(folder);
        for pid in &left {
            kill(*pid);
        }
        left.is_empty().then_some(())
    });
}

/// SIGKILL. A process that is gone already is as wanted.
pub fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    );
}

/// Seconds since the epoch, as bash's `EPOCHREALTIME` has them.
pub fn wall() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_secs_f64()
}

/// Asks until there is an answer. What is timed is timed by stamps, so that this pause does not count.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A file's text; empty when there is none.
pub fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
