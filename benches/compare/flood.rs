//! The log flood: two million lines of 100 bytes through a manager into its log files, and counted there.

use super::apps::App;
use super::manager::Manager;
use super::process::{self, until};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

const LINES: usize = 2_000_000;
const LINE_BYTES: usize = 100;
/// All of a flood.
pub const BYTES: f64 = (LINES * LINE_BYTES) as f64;
/// Files may not have changed for so long when a flood that is not whole is given up as it is.
const STILL: Duration = Duration::from_secs(10);

/// MB/s from the app's first line to the last write of the log files, and the daemon's CPU seconds.
pub fn run(manager: Manager, stamped: bool) -> (f64, f64) {
    let lines = write_lines(&manager.folder);
    let flood = format!("cat '{}'\nexec sleep 1000000", lines.display());
    let apps = [App::new(&manager.folder, "flood", &flood)];
    manager.boot();
    let daemon = manager.daemon();
    let before = process::cpu_seconds(daemon);
    manager.start(&apps, stamped);
    let begun = apps[0].stamp(0).at;
    let mut progress = (0, Instant::now());
    let counted = until("the flood's end", || {
        let bytes = log_files(&manager.logs()).iter().map(|log| log.1).sum();
        if bytes != progress.0 {
            progress = (bytes, Instant::now());
        }
        let enough = bytes >= BYTES as u64 && progress.1.elapsed() > Duration::from_millis(300);
        (enough || progress.1.elapsed() > STILL).then(|| count_lines(&manager.logs()))
    });
    let ended = log_files(&manager.logs())
        .iter()
        .map(|log| log.2)
        .fold(0.0, f64::max);
    let cpu = process::cpu_seconds(daemon) - before;
    if counted != LINES {
        eprintln!(
            "{}: {counted} lines of {LINES} are in its files",
            manager.kind.name()
        );
    }
    manager.end();
    (BYTES / 1e6 / (ended - begun), cpu)
}

/// MB/s of `cat lines | cat > file`: what a pipe and a file cost here without a manager.
pub fn cat(scratch: &Path) -> f64 {
    let (lines, copy) = (write_lines(scratch), scratch.join("cat.log"));
    let begun = Instant::now();
    let mut writer = Command::new("cat")
        .arg(&lines)
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat is installed");
    let pipe = writer.stdout.take().expect("its output is a pipe");
    let status = Command::new("cat")
        .stdin(pipe)
        .stdout(File::create(&copy).expect("a file can be made"))
        .status()
        .expect("cat is installed");
    let taken = begun.elapsed().as_secs_f64();
    assert!(status.success(), "cat failed: {status}");
    writer.wait().expect("it is our child");
    fs::remove_file(&copy).expect("the copy is there");
    fs::remove_file(&lines).expect("the lines are there");
    BYTES / 1e6 / taken
}

fn write_lines(folder: &Path) -> PathBuf {
    let path = folder.join("lines.txt");
    let line = format!(
        "{:1$}\n",
        "a line of an app, of no great interest to anybody",
        LINE_BYTES - 1
    );
    fs::write(&path, line.repeat(LINES)).expect("the disk has room for the flood");
    // Its own writing back is not to be measured.
    File::open(&path)
        .and_then(|file| file.sync_all())
        .expect("the file can be synced");
    path
}

/// Path, size and time of the last write of the app's log files, rotated ones too.
fn log_files(folder: &Path) -> Vec<(PathBuf, u64, f64)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().contains("flood"))
        .filter_map(|entry| {
            let meta = entry.metadata().ok().filter(|meta| meta.len() > 0)?;
            let written = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
            Some((entry.path(), meta.len(), written.as_secs_f64()))
        })
        .collect()
}

fn count_lines(folder: &Path) -> usize {
    let mut block = vec![0; 1 << 20];
    let mut lines = 0;
    for (path, ..) in log_files(folder) {
        let mut file = File::open(path).expect("the log file is there");
        loop {
            let read = file.read(&mut block).expect("the log file can be read");
            if read == 0 {
                break;
            }
            lines += memchr::memchr_iter(b'\n', &block[..read]).count();
        }
    }
    lines
}
