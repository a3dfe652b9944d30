//! PM2's own programs, unmodified: its JavaScript clients from 2.4 to 7 and the CLI of 7.0.4 on our daemon, and our CLI on PM2's.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::home::{free_ports, lives};
use support::{Home, Ran, eventually};

/// The versions, and the variables that name the folders of their modules.
const CLIENTS: [(&str, &str); 4] = [
    ("7.0.4", "FORNAX_PM2_MODULE"),
    ("5.4.3", "FORNAX_PM2_MODULE_5"),
    ("4.5.6", "FORNAX_PM2_MODULE_4"),
    ("2.4.6", "FORNAX_PM2_MODULE_24"),
];

const TALKER: &str = "process.on('message', (m) => process.send({ type: 'echo', data: m }));
process.on('SIGUSR2', () => process.send({ type: 'signalled', data: 1 }));
setInterval(() => {}, 1000);\n";

fn module(variable: &str) -> Option<PathBuf> {
    let module = std::env::var_os(variable).map(PathBuf::from);
    module.filter(|module| module.is_dir() && support::pm2_client::node_is_here())
}

fn client(version: &str, module: &Path) {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let daemon = home.daemon_pid().unwrap();
    let app = home.app("talker.js", TALKER);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pm2-clients/client.js");
    let args = [script.to_str().unwrap(), module.to_str().unwrap(), &app];
    let ran = home.run_as("node".as_ref(), &args).ok();
    let steps: Vec<Value> = ran
        .out
        .split("STEP ")
        .skip(1)
        .map(|step| serde_json::from_str(step.lines().next().unwrap()).unwrap())
        .collect();
    let want = json!([
        ["connect", true],
        ["list", 0],
        ["start", [["js", "online"]]],
        ["launchBus", {"a": 1}],
        ["signal", 1],
        ["restart", 1],
        ["reload", 2],
        ["stop", "stopped"],
        ["flush", true],
        ["reloadLogs", true],
        ["set", true],
        ["get", true],
        ["getVersion", "7.0.4"],
        ["dump", true],
        ["delete", 0],
        ["killDaemon", true],
        ["disconnect", true]
    ]);
    assert_eq!(Value::from(steps), want, "{version}: {}", ran.err);
    // It was ours that it talked to.
    eventually("the daemon has ended", || (!lives(daemon)).then_some(()));
    assert!(home.read("dump.pm2").contains("\"js\""), "{version}");
}

#[test]
fn every_client_from_2_4_to_7_works_unmodified() {
    for (version, variable) in CLIENTS {
        match module(variable) {
            Some(module) => client(version, &module),
            None => eprintln!("NOT RUN: no node, or no pm2 {version} in {variable}"),
        }
    }
}

/// The CLI of PM2 7.0.4 by its own words, on the daemon of this home.
fn pm2(home: &Home, module: &Path, words: &[&str]) -> Ran {
    let program = module.join("bin/pm2");
    let mut args = vec![program.to_str().unwrap()];
    args.extend(words);
    home.run_as("node".as_ref(), &args)
}

#[test]
fn the_cli_of_pm2_drives_our_daemon() {
    let Some(module) = module("FORNAX_PM2_MODULE") else {
        eprintln!("NOT RUN: no node, or no pm2 7.0.4 in FORNAX_PM2_MODULE");
        return;
    };
    let port = free_ports(1).to_string();
    let home = Home::with(&[("PM2_DISABLE_VERSION_CHECK", "true"), ("PORT", &port)]);
    home.run(&["ping"]).ok();
    let daemon = home.daemon_pid();
    let app = home.app(
        "app.js",
        "process.send({ type: 'axm:action', data: { action_name: 'hello', action_type: 'custom', arity: 0 } });
process.on('message', (m) => process.send({ type: 'axm:reply', data: { return: { ok: 1 }, action_name: 'hello' } }));
process.stdin.on('data', (line) => console.log('got ' + line));\n",
    );
    let web = home.app(
        "web.js",
        "require('http').createServer((q, r) => r.end('x')).listen(process.env.PORT, '127.0.0.1');\n",
    );
    let run = |words: &[&str]| pm2(&home, &module, words);
    run(&["start", &app]).ok().says("in fork_mode");
    run(&["start", &web, "-i", "2"])
        .ok()
        .says("in cluster_mode");
    run(&["ls"]).ok().says("web");
    let listed: Value = serde_json::from_str(run(&["jlist"]).ok().out.trim()).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    run(&["describe", "app"]).ok().says("hello");
    run(&["restart", "app"]).ok().says("[app](0)");
    run(&["reload", "web"]).ok().says("[web](2)");
    run(&["scale", "web", "3"]).ok();
    run(&["scale", "web", "1"]).ok();
    run(&["send", "0", "a line"]).ok();
    home.until_file_has("logs/app-out.log", "got a line");
    run(&["trigger", "app", "hello"]).ok().says("={\"ok\":1}");
    run(&["trigger", "app", "nothing"]).fails("Not any process has received a command");
    run(&["sendSignal", "SIGCONT", "app"]).ok().says("SIGCONT");
    run(&["logs", "app", "--nostream"]).ok().says("got a line");
    run(&["reset", "app"]).ok();
    assert_eq!(run(&["id", "app"]).ok().out.trim(), "[ 0 ]");
    assert_eq!(
        run(&["pid", "app"]).ok().out.trim(),
        home.pid("app").to_string()
    );
    run(&["monitor", "app"]).ok();
    run(&["unmonitor", "app"]).ok();
    run(&["reloadLogs"]).ok().says("All logs reloaded");
    run(&["flush", "app"]).ok().says("Logs flushed");
    run(&["save"]).ok().says("Successfully saved");
    run(&["stop", "app"]).ok();
    assert_eq!(home.status("app"), "stopped");
    run(&["start", "app"]).ok();
    assert_eq!(home.status("app"), "online");
    run(&["delete", "web"]).ok();
    run(&["resurrect"]).ok().says("restored");
    assert_eq!(home.status("web"), "online");
    run(&["stop", "nobody"]).fails("not found");
    run(&["delete", "all"]).ok();
    assert_eq!(home.daemon_pid(), daemon, "it was another daemon");
    run(&["kill"]).ok().says("PM2 Daemon Stopped");
    eventually("the daemon has ended", || {
        home.daemon_pid().is_none().then_some(())
    });
}

/// A daemon of PM2 in this home; ours is never started.
#[test]
fn our_cli_drives_the_daemon_of_pm2() {
    let Some(module) = module("FORNAX_PM2_MODULE") else {
        eprintln!("NOT RUN: no node, or no pm2 7.0.4 in FORNAX_PM2_MODULE");
        return;
    };
    let home = Home::with(&[("PM2_DISABLE_VERSION_CHECK", "true")]);
    pm2(&home, &module, &["ping"]).ok();
    let daemon = home.daemon_pid();
    let app = home.app(
        "app.sh",
        "#!/bin/bash\necho begun\nwhile read -r line; do echo \"got $line\"; done\n",
    );
    home.run(&["ping"]).ok();
    home.run(&["start", &app]).ok();
    home.run(&["ls"]).ok().says("online");
    assert_eq!(home.status("app"), "online");
    home.run(&["describe", "app"]).ok().says("fork_mode");
    home.run(&["restart", "app"]).ok();
    home.run(&["reload", "app"]).ok();
    home.run(&["scale", "app", "2"]).ok();
    home.run(&["send", "0", "a line"]).ok();
    home.until_file_has("logs/app-out.log", "got a line");
    home.run(&["logs", "app", "--nostream"])
        .ok()
        .says("got a line");
    home.run(&["sendSignal", "SIGCONT", "app"]).ok();
    home.run(&["reset", "app"]).ok();
    home.run(&["env", "0"]).ok();
    home.run(&["save"]).ok();
    home.run(&["set", "a:b", "c"]).ok();
    // What only our daemon has is said to be lacking, and nothing else happens.
    home.run(&["update"]).fails("PM2");
    home.run(&["stop", "app"]).ok();
    home.run(&["delete", "all"]).ok();
    home.run(&["resurrect"]).ok();
    assert_eq!(home.daemon_pid(), daemon, "it was another daemon");
    home.run(&["kill"]).ok();
    eventually("the daemon has ended", || {
        home.daemon_pid().is_none().then_some(())
    });
}

/// A running PM2 with an app in each mode, one that is stopped, and a saved list of before.
fn running_pm2(home: &Home, module: &Path, port: &str) -> (String, String) {
    let app = home.app("app.sh", "#!/bin/bash\necho \"$COLOUR\"\nexec sleep 1000\n");
    let web = home.app(
        "web.js",
        "require('http').createServer((q, r) => r.end('x')).listen(process.env.WEB, '127.0.0.1');\n",
    );
    let with = |words: &[&str], env: &[(&str, &str)]| {
        let program = module.join("bin/pm2");
        let mut command = home.command("node".as_ref(), &[program.to_str().unwrap()]);
        command.args(words).envs(env.iter().copied());
        assert!(command.output().unwrap().status.success(), "{words:?}");
    };
    with(&["start", &app], &[("COLOUR", "red")]);
    with(&["start", &web, "-i", "2"], &[("WEB", port)]);
    with(&["start", &app, "--name", "idle"], &[]);
    with(&["stop", "idle"], &[]);
    with(&["restart", "app"], &[]);
    (app, web)
}

fn standing(home: &Home) -> Vec<Value> {
    let of = |item: &Value| {
        let env = &item["pm2_env"];
        json!([
            item["name"],
            env["status"],
            env["restart_time"],
            env["exec_mode"],
            env["COLOUR"]
        ])
    };
    home.list().iter().map(of).collect()
}

#[test]
fn a_running_pm2_is_taken_over_with_all_it_runs() {
    let Some(module) = module("FORNAX_PM2_MODULE") else {
        eprintln!("NOT RUN: no node, or no pm2 7.0.4 in FORNAX_PM2_MODULE");
        return;
    };
    let home = Home::with(&[("PM2_DISABLE_VERSION_CHECK", "true")]);
    assert_eq!(home.run(&["takeover"]).code, 3, "nothing runs yet");
    running_pm2(&home, &module, &free_ports(1).to_string());
    let (before, pm2_pid) = (standing(&home), home.daemon_pid().unwrap());
    home.run(&["takeover", "--dry-run"])
        .ok()
        .says("is restarted")
        .says("stays stopped")
        .says("connections open to cluster workers");
    assert_eq!(home.daemon_pid(), Some(pm2_pid), "a dry run does nothing");
    assert!(!home.root().join("dump.pm2").exists());
    home.run(&["takeover"]).ok().says("Fornax runs 4 instances");
    eventually("PM2 has ended", || (!lives(pm2_pid)).then_some(()));
    assert_eq!(standing(&home), before);
    assert_eq!(before[0], json!(["app", "online", 1, "fork_mode", "red"]));
    assert!(home.read("dump.pm2").contains("web.js"));
    home.run(&["takeover"]).fails("Fornax already");
}

#[test]
fn a_takeover_that_fails_half_way_leaves_pm2_as_it_was() {
    let Some(module) = module("FORNAX_PM2_MODULE") else {
        eprintln!("NOT RUN: no node, or no pm2 7.0.4 in FORNAX_PM2_MODULE");
        return;
    };
    let home = Home::with(&[("PM2_DISABLE_VERSION_CHECK", "true")]);
    running_pm2(&home, &module, &free_ports(1).to_string());
    let before = standing(&home);
    // Its folder goes while it runs: nobody can start it again here.
    let folder = home.apps().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(home.apps().join("app.sh"), folder.join("gone.sh")).unwrap();
    let program = module.join("bin/pm2");
    let args = [program.to_str().unwrap(), "start", "gone.sh"];
    let mut command = home.command("node".as_ref(), &args);
    assert!(
        command
            .current_dir(&folder)
            .output()
            .unwrap()
            .status
            .success()
    );
    std::fs::remove_dir_all(&folder).unwrap();
    home.run(&["takeover"])
        .fails("cannot be started here: gone")
        .says("PM2 runs its apps again");
    // PM2's own daemon answers, with what it can run.
    home.run(&["update"]).fails("PM2's own");
    let names =
        |list: &[Value]| -> Vec<Value> { list.iter().map(|item| item[0].clone()).collect() };
    assert_eq!(names(&standing(&home))[..4], names(&before)[..]);
    home.run(&["kill"]).ok();
}

/// The small version; `docs/benchmarks.md` tells how a thousand are measured.
#[test]
fn restarts_through_a_client_leave_nothing_in_the_daemon() {
    let Some(module) = module("FORNAX_PM2_MODULE") else {
        eprintln!("NOT RUN: no node, or no pm2 7.0.4 in FORNAX_PM2_MODULE");
        return;
    };
    let home = Home::new();
    home.run(&["ping"]).ok();
    let app = home.app("app.sh", "#!/bin/bash\nexec sleep 1000\n");
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pm2-clients/restarts.js");
    let args = [
        script.to_str().unwrap(),
        module.to_str().unwrap(),
        &app,
        "60",
    ];
    let ran = home.run_as("node".as_ref(), &args).ok();
    assert!(ran.out.contains("RESTARTS 60"), "{}", ran.out);
    let held: Vec<[u64; 3]> = ran
        .out
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("HELD ")?).ok())
        .collect();
    // Once it is warm; a page more or less is the allocator's.
    let (warm, last) = (held[2], held[held.len() - 1]);
    assert_eq!(last[0], 60);
    assert!(last[1] <= warm[1] + 512, "kB: {held:?}");
    // Those of a run that has just ended are closed a moment later.
    let fds = format!("/proc/{}/fd", home.daemon_pid().unwrap());
    eventually("the descriptors are as few as before", || {
        let count = std::fs::read_dir(&fds).unwrap().count() as u64;
        (count <= held[0][2]).then_some(())
    });
}
