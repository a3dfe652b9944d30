//! Hours of work in one run: lines at a steady rate, slow followers, restarts; memory, descriptors and CPU of the daemon.
//!
//! Run: `cargo bench --bench endurance -- [--seconds N] [--rate LINES] [--period SECONDS]`. `FORNAX_BIN` names another build.
//! Ends with code 1 if memory or descriptors grew, or if a line is not accounted for.

#[path = "endurance/followers.rs"]
mod followers;
#[allow(dead_code)] // the comparison uses the rest of it
#[path = "compare/process.rs"]
mod process;
#[path = "endurance/samples.rs"]
mod samples;
#[path = "endurance/writer.rs"]
mod writer;

use fornax::pm2::client::Client;
use samples::{Sample, Samples};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Apps that share the rate of lines.
const WRITERS: u64 = 4;

/// What the command line asks for.
struct Options {
    seconds: u64,
    /// Lines a second, of all writers together.
    rate: u64,
    /// Seconds between two samples.
    period: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [word, rate] = args.as_slice()
        && word == "write"
    {
        return writer::write(rate.parse().expect("a number of lines"));
    }
    let options = match parse(&args) {
        Ok(options) => options,
        Err(reason) => {
            eprintln!("endurance: {reason}; see the head of benches/endurance.rs");
            std::process::exit(2);
        }
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // However it ends, nothing of it is left running.
    let whole = std::panic::catch_unwind(|| run(&options, folder.path()));
    process::end_marked(folder.path());
    if !matches!(whole, Ok(true)) {
        std::process::exit(1);
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        seconds: 60,
        rate: 20_000,
        period: 1,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let field = match arg.as_str() {
            // Cargo adds it.
            "--bench" => continue,
            "--seconds" => &mut options.seconds,
            "--rate" => &mut options.rate,
            "--period" => &mut options.period,
            _ => return Err(format!("unknown option {arg}")),
        };
        let number = args.next().and_then(|value| value.parse().ok());
        *field = number
            .filter(|number| *number > 0)
            .ok_or(format!("{arg} needs a number from 1"))?;
    }
    Ok(options)
}

/// The program in a home under `folder`.
fn fornax(folder: &Path, args: &[&str]) -> String {
    let program = std::env::var_os("FORNAX_BIN").unwrap_or(env!("CARGO_BIN_EXE_fornax").into());
    let output = Command::new(program)
        .args(args)
        .env("PM2_HOME", folder.join("pm2"))
        .env("FORNAX_HTTP", "127.0.0.1:0")
        .env(process::MARK, folder)
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ecosystem(options: &Options, folder: &Path) -> String {
    let bench = std::env::current_exe().expect("we have a program file");
    let mut apps: Vec<Value> = (0..WRITERS)
        .map(|n| {
            json!({"name": format!("writer-{n}"), "script": bench, "interpreter": "none",
                   "args": ["write", (options.rate / WRITERS).to_string()], "cwd": folder})
        })
        .collect();
    apps.push(
        json!({"name": "crashes", "script": "/bin/false", "interpreter": "none",
                     "restart_delay": 500, "max_restarts": 1_000_000_000, "cwd": folder}),
    );
    json!({ "apps": apps }).to_string()
}

fn run(options: &Options, folder: &Path) -> bool {
    let file = folder.join("ecosystem.json");
    std::fs::write(&file, ecosystem(options, folder)).expect("the folder is ours");
    fornax(
        folder,
        &["start", file.to_str().expect("a plain path"), "-s"],
    );
    let rpc = folder.join("pm2/rpc.sock");
    let mut client = Client::connect(&rpc).expect("the daemon listens");
    let status: Value = client
        .call("fornaxStatus", &[json!({})])
        .expect("it answers");
    let http = status["http"]["address"]
        .as_str()
        .expect("HTTP listens")
        .to_owned();
    let pid: i32 = std::fs::read_to_string(folder.join("pm2/pm2.pid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .expect("the daemon has a pid file");
    followers::start(&folder.join("pm2/pub.sock"), &http);

    let (begun, mut samples) = (Instant::now(), Samples::default());
    println!(
        "{:>8} {:>9} {:>6} {:>8} {:>7} {:>12} {:>9} {:>9} {:>9}",
        "s", "RSS kB", "fds", "threads", "CPU %", "lines", "dropped", "missed", "restarts"
    );
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        turn += 1;
        let next = begun + Duration::from_secs(turn * options.period);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // A person's restart now and then, beside the crashes.
        if turn % 10 == 0 {
            fornax(folder, &["restart", "writer-0", "-s"]);
        }
        let logs = followers::log_counts(&http);
        let list: Vec<Value> = client
            .call("getMonitorData", &[json!({"env": false})])
            .expect("it answers");
        let restarts = list
            .iter()
            .filter_map(|item| item["pm2_env"]["restart_time"].as_u64())
            .sum();
        let sample = Sample::take(pid, begun.elapsed(), &logs, restarts);
        samples.push(sample);
        if samples.is_worth_a_line() {
            println!("{sample}");
        }
    }
    // Every line that a writer has counted is in a file, told as dropped, or still in a pipe.
    fornax(folder, &["stop", "all", "-s"]);
    let (written, logs) = (writer::total(folder), followers::log_counts(&http));
    println!("\n{}", samples.summary());
    println!(
        "lines written {written}, logged {}, dropped {}",
        logs.written, logs.dropped
    );
    println!("{}", followers::summary());
    let accounted = logs.written + logs.dropped >= written;
    fornax(folder, &["kill", "-s"]);
    samples.are_flat() && accounted
}
