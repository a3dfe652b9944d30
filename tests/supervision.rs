//! Life and death of real processes under the real daemon.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use support::home::{free_ports, kill, lives};
use support::{Home, eventually};

const LOOP: &str = "#!/bin/bash\necho up\nwhile true; do sleep 0.05; done\n";

/// Leaves a grandchild in a session of its own, whose parent has gone, and that ignores polite signals.
const HIDER: &str = r#"
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
while True:
    time.sleep(1)
"#;

fn hidden(home: &Home) -> u32 {
    let file = home.apps().join("hidden.pid");
    eventually("the hidden one tells its pid", || {
        std::fs::read_to_string(&file).ok()?.trim().parse().ok()
    })
}

fn state(home: &Home, name: &str) -> Value {
    home.item(name)["pm2_env"]["fornax_state"].clone()
}

fn no_descendant_survives(home: &Home) {
    let app = home.app("hider.py", HIDER);
    let file = home.apps().join("hidden.pid");
    home.run(&["start", &app, "-k", "300", "--", file.to_str().unwrap()])
        .ok();
    let (root, deep) = (home.pid("hider"), hidden(home));
    assert!(lives(deep));
    home.run(&["stop", "hider"]).ok();
    assert_eq!(home.status("hider"), "stopped");
    assert!(!lives(deep) && !lives(root), "stopped, and one still lives");

    // The same when the root dies by itself: its successor comes when the last one has gone.
    std::fs::remove_file(&file).unwrap();
    home.run(&["restart", "hider"]).ok();
    let (root, deep) = (home.pid("hider"), hidden(home));
    kill(root, 9);
    eventually("a successor", || {
        let item = home.item("hider");
        let pid = item["pid"].as_u64().unwrap();
        (item["pm2_env"]["status"] == "online" && pid != u64::from(root)).then_some(())
    });
    assert!(!lives(deep), "the successor runs beside a leftover");
    home.run(&["delete", "all"]).ok();
    assert!(home.list().is_empty());
}

#[test]
fn a_descendant_that_hides_is_dead_when_its_app_is_stopped() {
    no_descendant_survives(&Home::new());
}

#[test]
fn a_descendant_that_hides_is_dead_without_cgroups_too() {
    no_descendant_survives(&Home::with(&[("FORNAX_NO_CGROUPS", "1")]));
}

#[test]
fn an_app_that_ignores_sigint_is_killed_after_its_timeout() {
    let home = Home::new();
    let app = home.app(
        "deaf.sh",
        "#!/bin/bash\ntrap '' INT\necho deaf\nwhile true; do sleep 0.05; done\n",
    );
    home.run(&["start", &app, "--kill-timeout", "400"]).ok();
    home.until_file_has("logs/deaf-out.log", "deaf");
    let pid = home.pid("deaf");
    let began = Instant::now();
    home.run(&["stop", "deaf"]).ok();
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert!(!lives(pid));
    assert_eq!(
        state(&home, "deaf")["last_exit"]["cause"],
        "killed by SIGKILL"
    );
}

#[test]
fn a_ladder_of_its_own_is_climbed() {
    let home = Home::new();
    let app = home.app(
        "l.sh",
        "#!/bin/bash\ntrap 'echo int' INT\ntrap 'echo term; exit 5' TERM\necho up\nwhile true; do sleep 0.05; done\n",
    );
    let stop = json!([{"signal": "SIGINT", "wait": "200ms"}, {"signal": "SIGTERM", "wait": "10s"}]);
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "l", "script": app, "fornax": {"stop": stop}}]}).to_string(),
    );
    home.run(&["start", &file]).ok();
    home.until_file_has("logs/l-out.log", "up");
    home.run(&["stop", "l"]).ok();
    home.until_file_has("logs/l-out.log", "up\nint\nterm\n");
    assert_eq!(state(&home, "l")["last_exit"]["cause"], "exit code 5");
}

#[test]
fn what_cannot_be_executed_is_told_with_its_reason() {
    let home = Home::new();
    let app = home.app("odd.sh", "#!/no/such/interpreter\n");
    let ran = home.run(&["start", &app, "--interpreter", "none"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(home.status("odd"), "errored");
    let told = state(&home, "odd");
    let why = told["message"].as_str().unwrap();
    assert!(why.contains("odd.sh") || why.contains("no/such"), "{why}");
    assert_eq!(told["service_status"], "unhealthy");
}

#[test]
fn an_exit_is_told_with_its_cause_and_the_last_lines_of_stderr() {
    let home = Home::new();
    let app = home.app(
        "bad.sh",
        "#!/bin/bash\necho one >&2\necho 'the reason' >&2\nprintf tail >&2\nexit 7\n",
    );
    home.run(&["start", &app, "--max-restarts", "3"]).ok();
    home.until_status("bad", "errored");
    let exit = state(&home, "bad")["last_exit"].clone();
    assert_eq!(exit["cause"], "exit code 7");
    assert_eq!(exit["stderr_tail"], json!(["one", "the reason", "tail"]));
    assert_eq!(home.item("bad")["pm2_env"]["exit_code"], 7);
    assert_eq!(
        home.read("logs/bad-error.log"),
        "one\nthe reason\ntail\n".repeat(3)
    );
}

#[test]
fn an_instant_crasher_runs_16_times() {
    let home = Home::new();
    let app = home.app("crash.sh", "#!/bin/bash\necho ran\nexit 1\n");
    home.run(&["start", &app]).ok();
    home.until_status("crash", "errored");
    assert_eq!(home.read("logs/crash-out.log"), "ran\n".repeat(16));
    assert_eq!(home.item("crash")["pm2_env"]["restart_time"], 15);
}

#[test]
fn an_app_that_is_killed_comes_back() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app]).ok();
    home.until_file_has("logs/a-out.log", "up");
    let first = home.pid("a");
    kill(first, 9);
    home.until_file_has("logs/a-out.log", "up\nup\n");
    let item = home.until_status("a", "online");
    assert_ne!(item["pid"].as_u64(), Some(u64::from(first)));
    assert_eq!(item["pm2_env"]["restart_time"], 1);
    assert_eq!(
        item["pm2_env"]["fornax_state"]["last_exit"]["cause"],
        "killed by SIGKILL"
    );
}

#[test]
fn a_port_that_is_taken_is_told_with_its_holder() {
    let home = Home::new();
    let port = free_ports(1);
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let app = home.app("a.sh", LOOP);
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "a", "script": app, "fornax": {"port": port}}]}).to_string(),
    );
    home.run(&["start", &file])
        .fails(&format!("port {port} is already taken"))
        .says(&format!("(pid {})", std::process::id()));
    assert_eq!(home.status("a"), "errored");
}

#[test]
fn many_clients_at_once_on_an_empty_home_end_with_one_daemon() {
    let home = Home::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| home.run(&["ping"])))
            .collect();
        for run in runs {
            run.join().unwrap().ok();
        }
    });
    let pid = home.daemon_pid().unwrap();
    eventually("one daemon and its keeper are left", || {
        let left = home.processes();
        (left.len() == 2 && left.contains(&pid)).then_some(())
    });
}

#[test]
fn the_home_and_its_sockets_are_nobody_elses() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let mode = |name: &str| {
        let data = std::fs::metadata(home.root().join(name)).unwrap();
        data.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("rpc.sock"), mode("pub.sock")),
        (0o700, 0o600, 0o600)
    );
    assert_eq!(mode("pm2.log") & 0o077, 0);
    home.run(&["kill"]).ok();
    for name in ["rpc.sock", "pub.sock", "pm2.pid"] {
        assert!(!home.root().join(name).exists(), "{name} is left behind");
    }
}

#[test]
fn the_environment_of_an_app_is_not_on_http() {
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
    let app = home.app("a.sh", LOOP);
    home.run_with(&["start", &app], &[("API_KEY", "s3cr3t")])
        .ok();
    home.run_with(&["env", "0"], &[]).ok().says("s3cr3t");
    for path in [
        "/health",
        "/ready",
        "/services",
        "/services/a/health",
        "/services/a/logs",
        "/status",
        "/version",
        "/metrics",
    ] {
        let (status, body) = home.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        assert!(!body.contains("s3cr3t"), "{path} tells the secret");
    }
}

#[test]
fn the_daemon_that_gets_sigterm_saves_the_list_and_leaves_nothing() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app]).ok();
    let pid = home.daemon_pid().unwrap();
    kill(pid, 15);
    eventually("everything has ended", || {
        home.processes().is_empty().then_some(())
    });
    home.run(&["resurrect"]).ok();
    assert_eq!(home.status("a"), "online");
}

#[test]
fn wait_ready_is_online_by_the_nodes_word_and_stop_wins_while_it_launches() {
    let home = Home::new();
    let app = home.app(
        "r.js",
        "setTimeout(() => process.send('ready'), +process.argv[2]); setInterval(() => {}, 1000);\n",
    );
    home.run(&[
        "start",
        &app,
        "--wait-ready",
        "--listen-timeout",
        "30000",
        "--",
        "200",
    ])
    .ok();
    assert_eq!(home.status("r"), "online");
    home.run(&["delete", "r"]).ok();

    let program = home.program().to_owned();
    let mut start = home.spawn(
        &program,
        &[
            "start",
            &app,
            "--wait-ready",
            "--listen-timeout",
            "30000",
            "--",
            "60000",
        ],
    );
    eventually("it launches", || {
        home.list()
            .first()
            .is_some_and(|item| item["pm2_env"]["status"] == "launching" && item["pid"] != 0)
            .then_some(())
    });
    home.run(&["stop", "r"]).ok();
    start.code();
    assert_eq!(home.status("r"), "stopped");
}

#[test]
fn signals_reach_the_app_and_a_handler_of_the_daemons_is_not_inherited() {
    let home = Home::new();
    let app = home.app(
        "u.sh",
        "#!/bin/bash\ntrap 'echo usr1' USR1\ngrep -E 'Sig(Ign|Blk)' /proc/self/status\nwhile true; do sleep 0.05; done\n",
    );
    home.run(&["start", &app]).ok();
    let masks = home.until_file_has("logs/u-out.log", "SigIgn");
    for mask in masks.split_whitespace().skip(1).step_by(2).take(2) {
        let signals = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(signals, 0, "{masks}");
    }
    home.run(&["sendSignal", "SIGUSR1", "u"]).ok();
    home.until_file_has("logs/u-out.log", "usr1");
    assert_eq!(home.status("u"), "online");
}
