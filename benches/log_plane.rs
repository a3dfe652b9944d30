//! How fast the log plane is: MB/s from an app's pipe to its file, and the log thread's CPU time, beside `cat`.
//!
//! Run: `cargo bench --bench log_plane`. The lines are written by another thread, so two cores are busy.

use fornax::adapters::logs::{Filter, LogConfig, LogFormat, LogOptions, LogPlane, RunLogs};
use fornax::core::ids::{Generation, PmId};
use fornax::core::spec::fornax::LogRotation;
use std::fs::{self, File};
use std::io::Write;
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
    };
    let cases = [
        case("raw", LogFormat::Raw, false, false, big, LINES),
        case(
            "raw, rotated at 10M",
            LogFormat::Raw,
            true,
            false,
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
        "{:<26} {:>9} {:>10} {:>14} {:>12}",
        "", "MB/s", "seconds", "thread CPU s", "CPU s/GB"
    );
    for folder in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(dir) = tempfile::tempdir_in(&folder) else {
            println!("{}: not there", folder.display());
            continue;
        };
        println!("in {}", folder.display());
        cat(dir.path());
        for case in &cases {
            run(case, dir.path());
        }
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

fn row(name: &str, bytes: usize, seconds: f64, cpu: Option<f64>) {
    let [cpu, per_gb] = [cpu, cpu.map(|cpu| cpu / (bytes as f64 / 1e9))]
        .map(|n| n.map_or("-".to_owned(), |n| format!("{n:.3}")));
    println!(
        "{name:<26} {:>9.0} {seconds:>10.3} {cpu:>14} {per_gb:>12}",
        bytes as f64 / MEGABYTE / seconds
    );
}

fn cat(dir: &Path) {
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
    row(
        "cat",
        LINES * LINE_BYTES,
        begun.elapsed().as_secs_f64(),
        None,
    );
    fs::remove_file(dir.join("cat.log")).expect("the file is there");
}

fn run(case: &Case, dir: &Path) {
    let dir = tempfile::tempdir_in(dir).expect("a folder");
    let plane = LogPlane::start(LogOptions::default()).expect("the plane starts");
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
    let names = ("bench".to_owned(), "default".to_owned());
    let logs = RunLogs {
        instance,
        generation,
        name: names.0,
        namespace: names.1,
        out: out.into(),
        err: err.into(),
        config: Arc::new(config),
    };
    plane.attach(logs).expect("the plane lives");
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
    row(case.name, case.lines * LINE_BYTES, seconds, Some(cpu));
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
