//! Want of descriptors, processes, disk and a steady clock: what is new is refused with its cause, what runs goes on, and
//! nobody has to help when there is enough again.

#![allow(clippy::unwrap_used)]

mod support;

use fornax::pm2::client::Client;
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::disk::SmallDisk;
use support::home::{kill, lives};
use support::{Home, eventually};

const APP: &str = "#!/bin/sh\necho up\nexec sleep 1000\n";

fn is_there(program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .any(|dir| dir.join(program).is_file());
    if !found {
        println!("NOT TESTED: `{program}` is not in PATH");
    }
    found
}

/// Sets a limit of a running process of this user: its soft one, below the hard one.
fn limit_as(user: u32, pid: u32, what: &str, soft: u64) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--{what}={soft}:")]);
    assert!(command.uid(user).gid(user).status().unwrap().success());
}

fn limit(pid: u32, what: &str, soft: u64) {
    limit_as(nix::unistd::geteuid().as_raw(), pid, what, soft);
}

fn fds(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count() as u64
}

fn client(home: &Home) -> Client {
    Client::connect(&home.root().join("rpc.sock")).unwrap()
}

#[test]
fn without_descriptors_starts_are_refused_lists_answered_and_restarts_made_up_for() {
    if !is_there("prlimit") {
        return;
    }
    let home = Home::new();
    let app = home.app("app.sh", APP);
    home.run(&["start", &app, "--name", "old"]).ok();
    home.run(&["start", &app, "--name", "steady"]).ok();
    let (daemon, steady) = (home.daemon_pid().unwrap(), home.pid("steady"));
    // One for a client; far too few for an app.
    limit(daemon, "nofile", fds(daemon) + 2);
    home.run(&["start", &app, "--name", "new"])
        .fails("the limit of open files may be reached");
    assert_eq!(home.status("new"), "errored");
    limit(daemon, "nofile", fds(daemon) - 12);
    kill(home.pid("old"), 9);
    let item = home.until_status("old", "waiting restart");
    assert_eq!(item["pm2_env"]["restart_time"], 0);
    assert!(
        home.read("pm2.log")
            .contains("the limit of open files may be reached")
    );
    // Several clients at once: each gets its answer in its turn.
    let lists: Vec<_> = (0..4)
        .map(|_| {
            home.command(home.program(), &["jlist"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for one in lists {
        let output = one.wait_with_output().unwrap();
        let items: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(items.len(), 3);
    }
    assert!(lives(steady) && home.pid("steady") == steady);
    limit(daemon, "nofile", 1024);
    let item = home.until_status("old", "online");
    assert_eq!(item["pm2_env"]["restart_time"], 1);
    home.run(&["restart", "new"]).ok();
    assert_eq!(home.status("new"), "online");
}

#[test]
fn without_processes_starts_are_refused_and_restarts_made_up_for() {
    if !is_there("prlimit") || !nix::unistd::geteuid().is_root() {
        println!("NOT TESTED: the limit of processes; it takes root and prlimit");
        return;
    }
    let home = Home::new();
    // A user of its own: the kernel counts all processes of one, and does not count root's.
    let user = 60_000 + std::process::id() % 5_000;
    let app = home.app("app.sh", APP);
    for folder in [home.apps().parent().unwrap(), &home.apps()] {
        std::os::unix::fs::chown(folder, Some(user), Some(user)).unwrap();
    }
    let run = |args: &[&str]| -> Output {
        let mut command = home.command(home.program(), args);
        command.uid(user).gid(user).output().unwrap()
    };
    let started = run(&["start", &app, "--name", "old"]);
    if !started.status.success() {
        println!(
            "NOT TESTED: another user cannot run the program: {}",
            String::from_utf8_lossy(&started.stderr)
        );
        return;
    }
    run(&["start", &app, "--name", "steady"]);
    let (daemon, steady) = (home.daemon_pid().unwrap(), home.pid("steady"));
    limit_as(user, daemon, "nproc", 1);
    let refused = run(&["start", &app, "--name", "new"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        words.contains("the limit of processes or memory may be reached"),
        "{words}"
    );
    kill(home.pid("old"), 9);
    home.until_status("old", "waiting restart");
    // Long enough for every idle thread of the daemon to have ended; no new one can be made.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(home.status("old"), "waiting restart");
    let refused = run(&["start", &app, "--name", "later"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        words.contains("the limit of processes or memory may be reached"),
        "{words}"
    );
    assert!(lives(daemon) && lives(steady));
    assert_eq!(
        home.run(&["logs", "--nostream", "--lines", "1", "steady"])
            .code,
        0
    );
    limit_as(user, daemon, "nproc", 4096);
    home.until_status("old", "online");
    assert_eq!(home.pid("steady"), steady);
}

#[test]
fn a_home_that_has_become_read_only_stops_no_app() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(&home.root(), "4m") else {
        return;
    };
    let app = home.app("app.sh", APP);
    home.run(&["start", &app, "--name", "old"]).ok();
    home.run(&["save"]).ok();
    let before = home.read("dump.pm2");
    let pid = home.pid("old");
    disk.read_only(true);
    home.run(&["save"])
        .fails("Read-only file system")
        .says("is kept");
    home.run(&["set", "a:b", "c"])
        .fails("Read-only file system");
    assert_eq!(home.pid("old"), pid);
    // Restarted by a crash and by a person, though neither its log nor its pid file can be written.
    kill(pid, 9);
    eventually("it is back", || {
        let item = home.item("old");
        (item["pm2_env"]["status"] == "online" && item["pid"] != pid).then_some(())
    });
    home.run(&["restart", "old"]).ok();
    home.run(&["start", &app, "--name", "new"]).ok();
    disk.read_only(false);
    home.run(&["save"]).ok();
    assert_ne!(home.read("dump.pm2"), before);
    home.until_file_has("logs/old-out.log", "up");
    // A daemon does not come up where it can keep nothing, and says why.
    home.run(&["kill"]).ok();
    disk.read_only(true);
    home.run(&["ping"]).fails("Read-only file system");
    disk.read_only(false);
    home.run(&["resurrect"]).ok();
    assert_eq!(home.status("new"), "online");
    home.run(&["kill"]).ok();
}

#[test]
fn a_full_disk_stops_no_app_and_logs_go_on_when_there_is_room() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mount(&home.root(), "1m") else {
        return;
    };
    let app = home.app(
        "app.sh",
        "#!/bin/sh\nwhile true; do echo tick; sleep 0.02; done\n",
    );
    home.run(&["start", &app, "--name", "old"]).ok();
    let pid = home.pid("old");
    let ballast = disk.fill();
    let start = home.run(&["start", &app, "--name", "new"]).ok();
    assert!(start.err.is_empty(), "{start:?}");
    kill(pid, 9);
    eventually("it is back", || {
        let item = home.item("old");
        (item["pm2_env"]["status"] == "online" && item["pid"] != pid).then_some(())
    });
    std::fs::remove_file(ballast).unwrap();
    home.until_file_has("logs/new-out.log", "tick");
    home.run(&["kill"]).ok();
}

/// Moves the wall clock of whoever is started with it by the seconds in a file.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *time) {
    long outcome = syscall(SYS_clock_gettime, clock, time);
    if (outcome == 0 && clock == CLOCK_REALTIME) {
        char text[32] = {0};
        int fd = open(getenv("WALL_CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
            close(fd);
        }
    }
    return (int)outcome;
}
"#;

#[test]
fn a_clock_that_jumps_by_hours_moves_no_timer() {
    let work = tempfile::tempdir().unwrap();
    let (source, library, offset) = (
        work.path().join("shim.c"),
        work.path().join("shim.so"),
        work.path().join("offset"),
    );
    std::fs::write(&source, SHIM).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("NOT TESTED: a jumping clock; there is no C compiler (`cc`) to build the shim");
        return;
    }
    std::fs::write(&offset, "0").unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let home = Home::with(&[
        ("LD_PRELOAD", &path(&library)),
        ("WALL_CLOCK_OFFSET", &path(&offset)),
    ]);
    let jump = |hours: i64| {
        let new = work.path().join("offset.new");
        std::fs::write(&new, (hours * 3600).to_string()).unwrap();
        std::fs::rename(new, &offset).unwrap();
    };
    let app = home.app("app.sh", APP);
    home.run(&["start", &app, "--name", "app", "--restart-delay", "1500"])
        .ok();
    let mut rpc = client(&home);
    let now = |rpc: &mut Client| -> i64 {
        let list: Vec<Value> = rpc.call("getMonitorData", &[json!({})]).unwrap();
        list[0]["pm2_env"]["pm_uptime"].as_i64().unwrap()
    };
    let first = now(&mut rpc);
    for hours in [7, -7] {
        let (pid, begun) = (home.pid("app"), Instant::now());
        kill(pid, 9);
        home.until_status("app", "waiting restart");
        jump(hours);
        home.until_status("app", "online");
        // Not a figure of speed: it neither came hours early nor stays away for hours.
        assert!(
            begun.elapsed() >= Duration::from_millis(1_500),
            "{:?}",
            begun.elapsed()
        );
        let moved = now(&mut rpc) - first;
        assert!(
            (moved - hours * 3_600_000).abs() < 600_000,
            "the stamp has followed the clock: {moved}"
        );
        let listed = home.run(&["list"]).ok();
        assert!(
            !listed.out.contains("-7h") && !listed.out.contains("NaN"),
            "{}",
            listed.out
        );
    }
    // A stop ladder, too, climbs by the steady clock.
    let deaf = home.app(
        "deaf.sh",
        "#!/bin/bash\ntrap '' INT TERM\necho deaf\nwhile true; do sleep 0.05; done\n",
    );
    home.run(&["start", &deaf, "--name", "deaf", "-k", "700"])
        .ok();
    home.until_file_has("logs/deaf-out.log", "deaf");
    let (pid, begun) = (home.pid("deaf"), Instant::now());
    let stop = std::thread::scope(|scope| {
        let stop = scope.spawn(|| home.run(&["stop", "deaf"]));
        home.until_status("deaf", "stopping");
        jump(30);
        stop.join().unwrap()
    });
    stop.ok();
    assert!(begun.elapsed() >= Duration::from_millis(700) && !lives(pid));
}

/// A memory cgroup of v1 or v2 below our own with this limit, in bytes. `None`, and a word, where none can be made.
struct SmallMemory {
    group: PathBuf,
    procs: PathBuf,
}

impl SmallMemory {
    fn new(limit: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let name = format!("fornax-test-{}", std::process::id());
        for line in own.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let (mount, file) = match controllers {
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                "" => ("/sys/fs/cgroup", "memory.max"),
                _ => continue,
            };
            let group = Path::new(mount).join(path).join(&name);
            let made = std::fs::create_dir(&group);
            if made.is_ok() && std::fs::write(group.join(file), limit.to_string()).is_ok() {
                let procs = group.join("cgroup.procs");
                return Some(Self { group, procs });
            }
            let _ = std::fs::remove_dir(&group);
        }
        println!("NOT TESTED: a memory limit of our own cgroup; no memory cgroup can be made here");
        None
    }
}

impl Drop for SmallMemory {
    fn drop(&mut self) {
        // It goes once the last process has left it.
        let until = Instant::now() + Duration::from_secs(30);
        while std::fs::remove_dir(&self.group).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes so much memory as the file `want` beside it says, in MiB, and gives it back when that says less.
const HOG: &str = "import time\nheld = bytearray()\nwhile True:\n    want = int(open('want').read() or 0) << 20\n    if want != len(held):\n        held = bytearray(b'x') * want\n        print('holds', want >> 20, flush=True)\n    time.sleep(0.05)\n";

#[test]
fn a_memory_limit_that_is_close_holds_new_runs_back_and_no_others() {
    if !is_there("python3") {
        return;
    }
    const LIMIT: u64 = 256 << 20;
    let Some(memory) = SmallMemory::new(LIMIT) else {
        return;
    };
    let home = Home::new();
    let (app, hog) = (home.app("app.sh", APP), home.app("hog.py", HOG));
    let want = |mib: u64| std::fs::write(home.apps().join("want"), mib.to_string()).unwrap();
    want(0);
    // Keeper, daemon and apps are born in the group.
    let procs = memory.procs.to_str().unwrap();
    let enter = format!("echo $$ > {procs} && exec \"$0\" \"$@\"");
    let program = home.program().to_str().unwrap().to_owned();
    let entered = home
        .command(
            Path::new("sh"),
            &["-c", &enter, &program, "start", &app, "--name", "old"],
        )
        .status()
        .unwrap();
    assert!(entered.success());
    home.run(&["start", &hog, "--interpreter", "python3"]).ok();
    let steady = home.pid("hog");
    let used = std::fs::read_to_string(memory.group.join("memory.usage_in_bytes"))
        .or_else(|_| std::fs::read_to_string(memory.group.join("memory.current")))
        .unwrap();
    let used: u64 = used.trim().parse().unwrap();
    // Within a twentieth of the limit, and 6 MiB below it.
    let fill = (LIMIT - used) / (1 << 20) - 6;
    want(fill);
    home.until_file_has("logs/hog-out.log", &format!("holds {fill}"));
    home.run(&["start", &app, "--name", "new"])
        .fails("memory is short");
    assert_eq!(home.status("new"), "errored");
    kill(home.pid("old"), 9);
    let item = home.until_status("old", "waiting restart");
    assert_eq!(item["pm2_env"]["restart_time"], 0);
    assert_eq!((home.pid("hog"), lives(steady)), (steady, true));
    want(0);
    let item = home.until_status("old", "online");
    assert_eq!(item["pm2_env"]["restart_time"], 1, "nobody has helped it");
    home.run(&["restart", "new"]).ok();
    assert_eq!(home.status("new"), "online");
    home.run(&["kill"]).ok();
}
