//! The rows: what is done to a manager, and which numbers come of it.

use super::apps::App;
use super::flood;
use super::manager::{Kind, Manager};
use super::process::{self, MARK, Memory};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Apps in "at 100 apps".
const MANY: usize = 100;
/// How long a daemon rests before its memory is read.
const REST: Duration = Duration::from_secs(6);
/// Between two kills or restarts of the same app: a crash loop is not what is measured.
const PAUSE: Duration = Duration::from_millis(150);
/// A flood that takes longer than this is not repeated.
const SLOW_FLOOD_S: f64 = 15.0;

/// A group of numbers that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// From the first command to its answer, no daemon there.
    Boot,
    /// Resident memory, idle and at 100 apps.
    Memory,
    /// 100 apps from one file.
    Start,
    /// `list` at 100 apps.
    List,
    /// SIGKILL to the successor's first line.
    Successor,
    /// The restart command.
    Restart,
    /// Two million lines.
    Flood,
}

impl Row {
    /// In the order they are measured.
    pub const ALL: [Row; 7] = [
        Row::Boot,
        Row::Memory,
        Row::Start,
        Row::List,
        Row::Successor,
        Row::Restart,
        Row::Flood,
    ];

    /// What `--rows` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Row::Boot => "boot",
            Row::Memory => "memory",
            Row::Start => "start",
            Row::List => "list",
            Row::Successor => "successor",
            Row::Restart => "restart",
            Row::Flood => "flood",
        }
    }

    /// Measures `rounds` times with managers that `make` makes.
    pub fn measure(self, make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
        match self {
            Row::Boot => boot(make, rounds, results),
            Row::Memory => memory(make, rounds.min(3), results),
            Row::Start => start(make, rounds, results),
            Row::List => list(make, rounds * 3, results),
            Row::Successor => successor(make, rounds * 3, results),
            Row::Restart => restart(make, rounds, results),
            Row::Flood => {
                for stamped in [false, true] {
                    for round in 0..rounds.min(3) {
                        let (rate, cpu) = flood::run(make(round), stamped);
                        if stamped {
                            results.flood_stamped.push(rate);
                            results.flood_cpu.push(cpu);
                        } else {
                            results.flood_raw.push(rate);
                        }
                        if flood::BYTES / 1e6 / rate > SLOW_FLOOD_S {
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// Every sample of one manager. Times are milliseconds, memory kB, rates MB/s.
#[derive(Debug, Default)]
pub struct Results {
    pub boot: Vec<f64>,
    /// Fornax only: from exec of the daemon to its first accepted connection.
    pub accepts: Vec<f64>,
    pub idle: Vec<Memory>,
    pub loaded: Vec<Memory>,
    pub start: Vec<f64>,
    /// Until the start command returned, the apps' own first lines apart.
    pub start_command: Vec<f64>,
    pub list: Vec<f64>,
    pub successor: Vec<f64>,
    pub restart: Vec<f64>,
    pub flood_raw: Vec<f64>,
    pub flood_stamped: Vec<f64>,
    /// CPU seconds of the daemon for the stamped flood.
    pub flood_cpu: Vec<f64>,
}

/// What the machine does without a manager.
#[derive(Debug, Default)]
pub struct Floors {
    /// Spawn of bash to the first line of its script, ms.
    pub bash: Vec<f64>,
    /// `cat flood | cat > file`, MB/s.
    pub cat: Vec<f64>,
}

fn boot(make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
    for round in 0..rounds {
        let manager = make(round);
        results.boot.push(manager.boot());
        manager.end();
        if round % 2 == 0 {
            let manager = make(round);
            if manager.kind == Kind::Fornax {
                results.accepts.push(accepts(&manager));
            }
            manager.end();
        }
    }
}

/// Milliseconds from the daemon's exec until its socket takes a connection.
fn accepts(manager: &Manager) -> f64 {
    let socket = manager.home().join("rpc.sock");
    let mut command = manager.command(&["daemon"]);
    let begun = Instant::now();
    let mut daemon = command.spawn().expect("our own program can be run");
    while UnixStream::connect(&socket).is_err() {
        assert!(
            begun.elapsed() < process::LIMIT,
            "the daemon does not listen"
        );
        std::thread::sleep(Duration::from_micros(50));
    }
    let taken = begun.elapsed().as_secs_f64() * 1e3;
    process::kill(daemon.id() as i32);
    daemon.wait().expect("it is our child");
    taken
}

fn memory(make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
    for round in 0..rounds {
        let manager = make(round);
        manager.boot();
        let daemon = manager.daemon();
        std::thread::sleep(REST);
        results.idle.push(process::memory(daemon));
        let apps = App::sleepers(&manager.folder, MANY);
        manager.start(&apps, false);
        for app in &apps {
            app.stamp(0);
        }
        manager.time(&["list"]);
        std::thread::sleep(REST);
        results.loaded.push(process::memory(daemon));
        manager.end();
    }
}

fn start(make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
    for round in 0..rounds {
        let manager = make(round);
        manager.boot();
        let apps = App::sleepers(&manager.folder, MANY);
        let begun = process::wall();
        let command = manager.start(&apps, false);
        let returned = process::wall();
        let last = apps
            .iter()
            .map(|app| app.stamp(0).at)
            .fold(returned, f64::max);
        results.start.push((last - begun) * 1e3);
        results.start_command.push(command);
        manager.end();
    }
}

fn list(make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
    let manager = make(0);
    let apps = App::sleepers(&manager.folder, MANY);
    manager.start(&apps, false);
    for app in &apps {
        app.stamp(0);
    }
    std::thread::sleep(REST);
    for _ in 0..rounds {
        results.list.push(manager.time(&["list"]));
        std::thread::sleep(PAUSE);
    }
    manager.end();
}

fn successor(make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
    let manager = make(0);
    let apps = App::sleepers(&manager.folder, 1);
    manager.start(&apps, false);
    for round in 0..rounds {
        let run = apps[0].stamp(round);
        std::thread::sleep(PAUSE);
        let killed = process::wall();
        process::kill(run.pid);
        results
            .successor
            .push((apps[0].stamp(round + 1).at - killed) * 1e3);
    }
    manager.end();
}

fn restart(make: &dyn Fn(usize) -> Manager, rounds: usize, results: &mut Results) {
    let manager = make(0);
    let apps = App::sleepers(&manager.folder, 1);
    manager.start(&apps, false);
    apps[0].stamp(0);
    for round in 0..rounds {
        std::thread::sleep(PAUSE);
        results
            .restart
            .push(manager.time(&["restart", &apps[0].name]));
        apps[0].stamp(round + 1);
    }
    manager.end();
}

/// The floors that belong to `rows`.
pub fn floors(scratch: &Path, rows: &[Row], rounds: usize) -> Floors {
    let mut floors = Floors::default();
    if rows.contains(&Row::Successor) {
        let app = App::new(scratch, "bare", "exit 0");
        for round in 0..rounds * 3 {
            std::thread::sleep(PAUSE);
            let begun = process::wall();
            let mut bash = Command::new("bash");
            bash.arg(&app.script)
                .env(MARK, scratch)
                .stdin(Stdio::null());
            let status = bash.status().expect("bash is installed");
            assert!(status.success(), "the bare script failed: {status}");
            floors.bash.push((app.stamp(round).at - begun) * 1e3);
        }
    }
    if rows.contains(&Row::Flood) {
        floors.cat = (0..rounds.min(3)).map(|_| flood::cat(scratch)).collect();
    }
    floors
}
