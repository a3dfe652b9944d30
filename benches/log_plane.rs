//! How fast the log plane is: MB/s from an app's pipe to its file, and the log thread's CPU time, beside `cat`.
//!
//! Run: `cargo bench --bench log_plane`. The lines are written by another thread, so two cores are busy.

use fornax::adapters::logs::{
    Filter, Journal, LogConfig, LogFormat, LogOptions, LogPlane, RunLogs,
};
use fornax::core::ids::{Generation, PmId};
use fornax::core::spec::fornax::LogRotation;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

const LINES: usize = 2_000_000;
const LINE_BYTES: usize = 100;
const MEGABYTE: f64 = 1e6;
/// Each row is the best of so many runs: other work on the machine only ever makes them slower.
const ROUNDS: usize = 4;

/// One row of the table.
struct Case {
    name: &'static str,
    format: LogFormat,
    rotate: bool,
    followed: bool,
    /// How many bytes the writer writes at once.
    write_bytes: usize,
    lines: usize,
    /// With the journal, as the daemon runs it.
    kept: bool,
}

fn main() {
    let stamped = |pattern: &str| LogFormat::Stamped(pattern.to_owned());
    let big = 64_000;
    let case = |name, format, rotate, followed, write_bytes, lines| Case {
        name,
        format,
        rotate,
        followed,
        write_bytes,
        lines,
        kept: true,
    };
    let unkept = |name, format, write_bytes, lines| Case {
        kept: false,
        ..case(name, format, false, false, write_bytes, lines)
    };
    let cases = [
        unkept("raw, no journal", LogFormat::Raw, big, LINES),
        case("raw", LogFormat::Raw, false, false, big, LINES),
        case(
            "raw, rotated at 10M",
            LogFormat::Raw,
            true,
            false,
            big,
            LINES,
        ),
        unkept(
            "stamped, no journal",
            stamped("YYYY-MM-DDTHH:mm:ss"),
            big,
            LINES,
        ),
        case(
            "stamped",
            stamped("YYYY-MM-DDTHH:mm:ss"),
            false,
            false,
            big,
            LINES,
        ),
        case(
            "stamped, rotated at 10M",
            stamped("YYYY-MM-DDTHH:mm:ss"),
            true,
            false,
            big,
            LINES,
        ),
        case(
            "stamped with ms",
            stamped("YYYY-MM-DD HH:mm:ss.SSS Z"),
            false,
            false,
            big,
            LINES,
        ),
        case("json", LogFormat::Json(None), false, false, big, LINES),
        case("raw, one follower", LogFormat::Raw, false, true, big, LINES),
        unkept(
            "stamped, a write a line, no journal",
            stamped("YYYY-MM-DDTHH:mm:ss"),
            LINE_BYTES,
            LINES / 4,
        ),
        case(
            "stamped, a write a line",
            stamped("YYYY-MM-DDTHH:mm:ss"),
            false,
            false,
            LINE_BYTES,
            LINES / 4,
        ),
    ];
    println!(
        "{:<36} {:>9} {:>10} {:>14} {:>12}",
        "", "MB/s", "seconds", "thread CPU s", "CPU s/GB"
    );
    for folder in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(dir) = tempfile::tempdir_in(&folder) else {
            println!("{}: not there", folder.display());
            continue;
        };
        println!("in {}", folder.display());
        let runs: Vec<(f64, Option<f64>)> = (0..ROUNDS).map(|_| (cat(dir.path()), None)).collect();
        row("cat", LINES * LINE_BYTES, &runs);
        for case in &cases {
            let runs: Vec<(f64, Option<f64>)> =
                (0..ROUNDS).map(|_| run(case, dir.path())).collect();
            row(case.name, case.lines * LINE_BYTES, &runs);
        }
    }
    idle();
}

/// What 200 silent runs cost, and how fast the end of a run is answered.
fn idle() {
    let plane = LogPlane::start(
        LogOptions::default(),
        Some(Journal::create().expect("a journal")),
    )
    .expect("the plane starts");
    let dir = tempfile::tempdir().expect("a folder");
    let pipes: Vec<_> = (0..400).map(|_| std::io::pipe().expect("a pipe")).collect();
    let (mut ends, before) = (Vec::new(), resident_kib());
    for (id, pair) in pipes.chunks(2).enumerate() {
        let (out, err) = (
            pair[0].0.try_clone().expect("an fd"),
            pair[1].0.try_clone().expect("an fd"),
        );
        let config = LogConfig {
            out_file: Some(dir.path().join(format!("{id}-out.log"))),
            err_file: Some(dir.path().join(format!("{id}-err.log"))),
            format: LogFormat::Stamped("YYYY-MM-DDTHH:mm:ss".to_owned()),
            ..LogConfig::default()
        };
        plane
            .attach(logs(id as u32, out, err, config))
            .expect("the plane lives");
        ends.push(pair[0].1.try_clone().expect("an fd"));
    }
    for end in &mut ends {
        end.write_all(b"one line and a half\nof another")
            .expect("the reader lives");
    }
    plane.stats().blocking_recv().expect("the plane lives");
    println!(
        "200 idle runs with a line each: {} KiB resident",
        resident_kib().saturating_sub(before)
    );
    let begun = Instant::now();
    for id in 0..200 {
        plane
            .finish(PmId(id), Generation(1))
            .blocking_recv()
            .expect("the plane lives");
    }
    println!(
        "end of a run answered in {:.0} us on average",
        begun.elapsed().as_secs_f64() * 1e6 / 200.0
    );
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("the kernel tells it");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

fn logs(id: u32, out: impl Into<OwnedFd>, err: impl Into<OwnedFd>, config: LogConfig) -> RunLogs {
    let names = ("bench".to_owned(), "default".to_owned());
    let (out, err, config) = (out.into(), err.into(), Arc::new(config));
    RunLogs {
        instance: PmId(id),
        generation: Generation(1),
        name: names.0,
        namespace: names.1,
        out,
        err,
        config,
    }
}

/// The writing end: `lines` lines of [`LINE_BYTES`] each.
fn pour(mut pipe: impl Write, write_bytes: usize, lines: usize) {
    let line = format!(
        "{:1$}\n",
        "2026 a line of an app, of no great interest to anybody",
        LINE_BYTES - 1
    );
    let block = line.repeat((write_bytes / LINE_BYTES).max(1));
    for _ in 0..lines * LINE_BYTES / block.len() {
        pipe.write_all(block.as_bytes()).expect("the reader lives");
    }
}

fn row(name: &str, bytes: usize, runs: &[(f64, Option<f64>)]) {
    let seconds = runs.iter().map(|run| run.0).fold(f64::INFINITY, f64::min);
    let cpu = runs.iter().filter_map(|run| run.1).reduce(f64::min);
    let text = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.3}"));
    let (cpu, per_gb) = (text(cpu), text(cpu.map(|cpu| cpu / (bytes as f64 / 1e9))));
    println!(
        "{name:<36} {:>9.0} {seconds:>10.3} {cpu:>14} {per_gb:>12}",
        bytes as f64 / MEGABYTE / seconds
    );
}

fn cat(dir: &Path) -> f64 {
    let file = File::create(dir.join("cat.log")).expect("a file");
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .expect("cat is installed");
    let begun = Instant::now();
    pour(
        cat.stdin.take().expect("its input is a pipe"),
        64_000,
        LINES,
    );
    cat.wait().expect("cat ends");
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_file(dir.join("cat.log")).expect("the file is there");
    seconds
}

fn run(case: &Case, dir: &Path) -> (f64, Option<f64>) {
    let dir = tempfile::tempdir_in(dir).expect("a folder");
    let plane = LogPlane::start(
        LogOptions::default(),
        case.kept.then(|| Journal::create().expect("a journal")),
    )
    .expect("the plane starts");
    let (out, out_end) = std::io::pipe().expect("a pipe");
    let (err, _err_end) = std::io::pipe().expect("a pipe");
    let rotation = LogRotation {
        rotate: case.rotate,
        ..LogRotation::default()
    };
    let config = LogConfig {
        out_file: Some(dir.path().join("out.log")),
        format: case.format.clone(),
        rotation,
        ..LogConfig::default()
    };
    let follower = case.followed.then(|| {
        plane
            .follow(Filter::default(), Vec::new())
            .expect("a follower")
    });
    let reader = follower.map(|mut follower| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .expect("a runtime");
            runtime.block_on(async { while follower.recv().await.is_some() {} });
        })
    });
    let (instance, generation) = (PmId(0), Generation(1));
    plane
        .attach(logs(0, out, err, config))
        .expect("the plane lives");
    plane.stats().blocking_recv().expect("the plane lives");
    let (begun, cpu) = (Instant::now(), thread_cpu());
    pour(out_end, case.write_bytes, case.lines);
    plane
        .finish(instance, generation)
        .blocking_recv()
        .expect("the plane lives");
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), thread_cpu() - cpu);
    let lines = plane
        .stats()
        .blocking_recv()
        .expect("the plane lives")
        .total
        .lines;
    assert_eq!(lines, case.lines as u64, "no line is lost");
    plane.shutdown();
    if let Some(reader) = reader {
        reader.join().expect("the follower ends");
    }
    (seconds, Some(cpu))
}

/// CPU seconds of the thread `fornax-logs`, as the scheduler counts them.
fn thread_cpu() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").expect("proc is mounted");
    let log_thread = tasks.flatten().map(|task| task.path()).find(|task| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "fornax-logs")
    });
    let stat = log_thread
        .and_then(|task| fs::read_to_string(task.join("schedstat")).ok())
        .unwrap_or_default();
    stat.split(' ')
        .next()
        .and_then(|ns| ns.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1e9
}
