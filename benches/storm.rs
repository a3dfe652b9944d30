//! Two hundred apps that crash at once and for ever: how soon does the daemon answer meanwhile?
//!
//! Run: `cargo bench --bench storm -- [--apps N] [--seconds N]`. `FORNAX_BIN` names another build.
//! Budget: a list within 20 ms, throughout. Ends with code 1 if one took longer.

#[allow(dead_code)] // the comparison uses the rest of it
#[path = "compare/process.rs"]
mod process;

use fornax::pm2::client::Client;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two lists.
const PERIOD: Duration = Duration::from_millis(50);
/// How long a list may take.
const BUDGET: Duration = Duration::from_millis(20);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, otherwise: u64| {
        let at = args.iter().position(|arg| arg == name);
        let value = at.and_then(|at| args.get(at + 1));
        value.map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let (apps, seconds) = (number("--apps", 200), number("--seconds", 20));
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // However it ends, nothing of it is left running.
    let whole = std::panic::catch_unwind(|| run(apps, seconds, folder.path()));
    process::end_marked(folder.path());
    if !matches!(whole, Ok(true)) {
        std::process::exit(1);
    }
}

fn fornax(folder: &Path, args: &[&str]) -> Duration {
    let program = std::env::var_os("FORNAX_BIN").unwrap_or(env!("CARGO_BIN_EXE_fornax").into());
    let begun = Instant::now();
    let status = Command::new(program)
        .args(args)
        .env("PM2_HOME", folder.join("pm2"))
        .env("FORNAX_HTTP", "off")
        .env(process::MARK, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("the program can be started");
    assert!(status.success(), "{args:?}");
    begun.elapsed()
}

fn run(apps: u64, seconds: u64, folder: &Path) -> bool {
    let script = folder.join("crash.sh");
    std::fs::write(&script, "#!/bin/sh\necho 'about to fail' >&2\nexit 1\n")
        .expect("the folder is ours");
    let apps: Vec<Value> = (0..apps)
        .map(|n| {
            json!({"name": format!("app-{n}"), "script": script, "interpreter": "/bin/sh",
                   "cwd": folder, "max_restarts": 1_000_000_000})
        })
        .collect();
    let file = folder.join("ecosystem.json");
    std::fs::write(&file, json!({ "apps": apps }).to_string()).expect("the folder is ours");
    let started = fornax(
        folder,
        &["start", file.to_str().expect("a plain path"), "-s"],
    );
    let mut client = Client::connect(&folder.join("pm2/rpc.sock")).expect("the daemon listens");
    let mut restarts = || -> u64 {
        let list: Vec<Value> = client
            .call("getMonitorData", &[json!({"env": false})])
            .expect("it answers");
        assert_eq!(list.len(), apps.len());
        let of = |item: &Value| item["pm2_env"]["restart_time"].as_u64();
        list.iter().filter_map(of).sum()
    };
    let (begun, before) = (Instant::now(), restarts());
    let (mut calls, mut commands, mut last) = (Vec::new(), Vec::new(), before);
    for turn in 1.. {
        if begun.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        std::thread::sleep((begun + turn * PERIOD).saturating_duration_since(Instant::now()));
        let asked = Instant::now();
        last = restarts();
        calls.push(asked.elapsed());
        if turn % 20 == 0 {
            commands.push(fornax(folder, &["list"]));
        }
    }
    println!(
        "{} apps, started in {} ms, {:.0} restarts a second",
        apps.len(),
        started.as_millis(),
        (last - before) as f64 / begun.elapsed().as_secs_f64()
    );
    tell("list over the socket", &mut calls);
    tell("list as a command", &mut commands);
    fornax(folder, &["kill", "-s"]);
    calls.last().is_some_and(|worst| *worst <= BUDGET)
}

/// Sorts them.
fn tell(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: f64| {
        let time = times.get(((times.len() - 1) as f64 * part) as usize);
        time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{what}: median {:.1}, 95th {:.1}, 99th {:.1}, worst {:.1} ms ({} times)",
        at(0.5),
        at(0.95),
        at(0.99),
        at(1.0),
        times.len()
    );
}
