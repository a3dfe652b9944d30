//! The log plane in a process of its own, killed by SIGKILL again and again under a flood: every line is counted.

// Helpers here are not in `#[test]` functions, where clippy would let them unwrap by itself.
#![allow(clippy::unwrap_used)]

use fornax::adapters::logs::*;
use fornax::core::ids::{Generation, PmId};
use fornax::core::spec::fornax::LogRotation;
use fornax::core::units::Bytes;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Runs, each with two writers: eight in all.
const RUNS: u32 = 4;
/// How much each writer writes between two kills, in bytes.
const ROUND_BYTES: usize = 120_000;
/// Where the child finds its folder, its parent and the numbers of the pipes there.
const FOLDER: &str = "FORNAX_TEST_KILL_FOLDER";
const PIPES: &str = "FORNAX_TEST_KILL_PIPES";

fn kills() -> usize {
    if std::env::var_os("FORNAX_LONG_TESTS").is_some() {
        3000
    } else {
        50
    }
}

fn stamped() -> LogFormat {
    LogFormat::Stamped("YYYY-MM-DDTHH:mm:ss.SSS".to_owned())
}

/// Raw and stamped, rotated and not; two runs share a third file.
fn config(dir: &Path, run: u32) -> LogConfig {
    LogConfig {
        out_file: Some(dir.join(format!("{run}-out.log"))),
        err_file: Some(dir.join(format!("{run}-err.log"))),
        combined_file: (run < 2).then(|| dir.join("all.log")),
        format: if run.is_multiple_of(2) {
            LogFormat::Raw
        } else {
            stamped()
        },
        rotation: LogRotation {
            rotate: run < 3,
            max_size: Bytes(if kills() > 50 { 5_000_000 } else { 300_000 }),
            retain: 400,
            compress: false,
        },
        ..LogConfig::default()
    }
}

/// A plane on this journal and these pipes: out and err of each run.
fn plane(dir: &Path, memfd: OwnedFd, pipes: Vec<OwnedFd>) -> LogPlane {
    let journal = Journal::adopt(memfd).unwrap();
    let plane = LogPlane::start(LogOptions::default(), Some(journal)).unwrap();
    let mut pipes = pipes.into_iter();
    for run in 0..RUNS {
        let logs = RunLogs {
            instance: PmId(run),
            generation: Generation(1),
            name: format!("app{run}"),
            namespace: "default".to_owned(),
            out: pipes.next().unwrap(),
            err: pipes.next().unwrap(),
            config: Arc::new(config(dir, run)),
        };
        plane.attach(logs).unwrap();
    }
    plane
}

#[test]
#[ignore = "it is the process that the other test starts and kills"]
fn child() {
    let dir = PathBuf::from(std::env::var_os(FOLDER).expect("the other test starts this one"));
    let parent = parent_id();
    let open = |number: &str| {
        let path = format!("/proc/{parent}/fd/{number}");
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        OwnedFd::from(options.open(path).unwrap())
    };
    let pipes = std::env::var(PIPES).unwrap().split(',').map(open).collect();
    let memfd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let _plane = plane(&dir, memfd, pipes);
    while parent_id() == parent {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number from 0 to below `end`, of a xorshift sequence.
fn random(state: &mut u64, end: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % end
}

/// Line `n` of a writer.
fn line(writer: usize, n: usize) -> String {
    format!("{writer} {n} {}", "x".repeat(n * 37 % 180))
}

/// Writes whole rounds of lines in blocks that end anywhere; returns how many lines there were.
fn write(writer: usize, mut pipe: File, rounds: &Receiver<()>) -> usize {
    let (mut seed, mut lines) = (writer as u64 + 1, 0);
    let mut held = Vec::new();
    while rounds.recv().is_ok() {
        let mut left = ROUND_BYTES;
        while left > 0 {
            let length = (1 + random(&mut seed, 30_000) as usize).min(left);
            while held.len() < length {
                held.extend_from_slice((line(writer, lines) + "\n").as_bytes());
                lines += 1;
            }
            let rest = held.split_off(length);
            pipe.write_all(&held).unwrap();
            (held, left) = (rest, left - length);
        }
    }
    pipe.write_all(&held).unwrap();
    lines
}

/// How much stands in all logs.
fn written(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).unwrap().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|meta| meta.len())
        .sum()
}

fn start(dir: &Path, memfd: &OwnedFd, pipes: &str) -> Child {
    let args = ["--exact", "child", "--ignored", "--nocapture"];
    Command::new(std::env::current_exe().unwrap())
        .args(args)
        .env(FOLDER, dir)
        .env(PIPES, pipes)
        .stdin(memfd.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The lines of a log and its rotated files, without stamps.
fn lines(path: &Path) -> Vec<String> {
    let mut parts = vec![fs::read_to_string(path).unwrap()];
    for n in 1.. {
        match fs::read_to_string(format!("{}.{n}", path.display())) {
            Ok(part) => parts.push(part),
            Err(_) => break,
        }
    }
    let message = |line: &str| match line.get(23..25) {
        Some(": ") => line[25..].to_owned(),
        _ => line.to_owned(),
    };
    let lines = parts.iter().rev().flat_map(|part| part.lines());
    lines.map(message).collect()
}

#[test]
fn a_daemon_killed_again_and_again_under_a_flood_loses_doubles_and_splits_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::create().unwrap();
    let memfd = journal.fd().try_clone_to_owned().unwrap();
    drop(journal);
    let (mut reads, mut writers) = (Vec::new(), Vec::new());
    let mut rounds: Vec<SyncSender<()>> = Vec::new();
    for writer in 0..2 * RUNS as usize {
        let (read, end) = std::io::pipe().unwrap();
        reads.push(OwnedFd::from(read));
        let (round, begun) = sync_channel(1);
        rounds.push(round);
        let end = File::from(OwnedFd::from(end));
        writers.push(std::thread::spawn(move || write(writer, end, &begun)));
    }
    let numbers: Vec<String> = reads.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let numbers = numbers.join(",");
    let (mut seed, mut interrupted) = (u64::from(std::process::id()), 0);
    for kill in 0..kills() {
        let before = written(dir.path());
        // A writer that is still at its last round has enough to do.
        for round in &rounds {
            let _ = round.try_send(());
        }
        let mut child = start(dir.path(), &memfd, &numbers);
        // Every fifth one is killed while it starts, perhaps while it completes what the last one was doing.
        if kill % 5 > 0 {
            let deadline = Instant::now() + Duration::from_secs(60);
            while written(dir.path()) == before {
                assert!(Instant::now() < deadline, "nothing is written");
                std::thread::yield_now();
            }
        }
        let moment = Duration::from_micros(random(&mut seed, 4000));
        let until = Instant::now() + moment;
        while Instant::now() < until {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let left = Journal::adopt(memfd.try_clone().unwrap()).unwrap();
        interrupted += usize::from(left.is_interrupted());
    }
    let pipes = reads.iter().map(|fd| fd.try_clone().unwrap()).collect();
    let plane = plane(dir.path(), memfd, pipes);
    drop(rounds);
    let counts: Vec<usize> = writers.into_iter().map(|w| w.join().unwrap()).collect();
    for run in 0..RUNS {
        let finish = plane.finish(PmId(run), Generation(1));
        finish.blocking_recv().unwrap();
    }
    plane.shutdown();
    println!(
        "{} kills, {interrupted} of them within a turn; {} lines",
        kills(),
        counts.iter().sum::<usize>()
    );
    let all = lines(&dir.path().join("all.log"));
    for (writer, count) in counts.iter().enumerate() {
        let config = config(dir.path(), writer as u32 / 2);
        let file = if writer % 2 == 0 {
            config.out_file
        } else {
            config.err_file
        };
        compare(writer, *count, &lines(&file.unwrap()));
        if config.combined_file.is_some() {
            let begin = format!("{writer} ");
            let own = all.iter().filter(|line| line.starts_with(&begin));
            compare(writer, *count, &own.cloned().collect::<Vec<_>>());
        }
    }
    let own = all
        .iter()
        .filter(|line| line.starts_with(['0', '1', '2', '3']));
    assert_eq!(
        own.count(),
        all.len(),
        "a line of the shared file is nobody's"
    );
}

/// The lines of a writer are there, each once and in order.
fn compare(writer: usize, count: usize, found: &[String]) {
    for (n, found) in found.iter().enumerate() {
        assert_eq!(*found, line(writer, n), "line {n} of writer {writer}");
    }
    assert_eq!(found.len(), count, "lines of writer {writer}");
}
