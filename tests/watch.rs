//! Restarts that nobody asks for, with real files, clocks and memory under the real daemon.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use support::home::{kill, lives};
use support::{Home, eventually};

const LOOP: &str = "#!/bin/bash\necho up\nwhile true; do sleep 0.05; done\n";

fn env(home: &Home, name: &str) -> Value {
    home.item(name)["pm2_env"].clone()
}

fn restarts(home: &Home, name: &str) -> u64 {
    env(home, name)["restart_time"].as_u64().unwrap()
}

/// Until it has been restarted so often, and runs.
fn until_restarts(home: &Home, name: &str, count: u64) {
    eventually("a restart", || {
        let env = env(home, name);
        let done = env["restart_time"].as_u64()? >= count && env["status"] == "online";
        done.then_some(())
    });
}

fn why(home: &Home, name: &str) -> String {
    let env = env(home, name);
    let why = &env["fornax_state"]["last_exit"]["why"];
    why.as_str().unwrap_or_default().to_owned()
}

/// A change that counts for sure, and what the daemon has done by then: later than all changes before it.
fn marker(home: &Home, folder: &Path, name: &str) -> u64 {
    let before = restarts(home, name);
    fs::write(folder.join("marker"), before.to_string()).unwrap();
    until_restarts(home, name, before + 1);
    before
}

fn threads(home: &Home) -> Vec<String> {
    let tasks = format!("/proc/{}/task", home.daemon_pid().unwrap());
    let names = fs::read_dir(tasks).unwrap().flatten();
    names
        .map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default())
        .collect()
}

/// inotify instances of the daemon, and the watches they hold.
fn inotify(home: &Home) -> (usize, usize) {
    let proc = format!("/proc/{}", home.daemon_pid().unwrap());
    let mut counts = (0, 0);
    for fd in fs::read_dir(format!("{proc}/fd")).unwrap().flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        if target.to_string_lossy().contains("inotify") {
            let info = format!("{proc}/fdinfo/{}", fd.file_name().to_string_lossy());
            let text = fs::read_to_string(info).unwrap_or_default();
            counts.0 += 1;
            counts.1 += text
                .lines()
                .filter(|line| line.starts_with("inotify "))
                .count();
        }
    }
    counts
}

#[test]
fn a_saved_file_restarts_its_app_and_what_is_left_out_does_not() {
    let home = Home::new();
    let app = home.app("web.sh", LOOP);
    for folder in ["src/deep", "node_modules/x", ".git"] {
        fs::create_dir_all(home.apps().join(folder)).unwrap();
    }
    home.run(&["start", &app, "--watch"]).ok();
    assert_eq!(env(&home, "web")["watch"], true);
    assert!(home.run(&["list"]).ok().out.contains("enabled"));
    home.until_file_has("pm2.log", "[Watch] Start watching web");
    let (_, watches) = eventually("the watches", || {
        let counts = inotify(&home);
        (counts.1 >= 3).then_some(counts)
    });
    // The app's folder, src and src/deep: what is left out is not walked.
    assert_eq!(watches, 3);

    fs::write(home.apps().join("node_modules/x/index.js"), "1").unwrap();
    fs::write(home.apps().join(".git/HEAD"), "1").unwrap();
    fs::write(home.apps().join("src/deep/a.js"), "1").unwrap();
    until_restarts(&home, "web", 1);
    home.until_file_has(
        "pm2.log",
        "Change detected on path src/deep/a.js for app web - restarting",
    );
    assert_eq!(why(&home, "web"), "restarted: src/deep/a.js has changed");

    // A folder that is made later, an editor's way to save, and a file that goes.
    fs::create_dir_all(home.apps().join("src/new/er")).unwrap();
    until_restarts(&home, "web", 2);
    fs::write(home.apps().join("src/new/er/x.tmp"), "2").unwrap();
    until_restarts(&home, "web", 3);
    fs::rename(
        home.apps().join("src/new/er/x.tmp"),
        home.apps().join("src/deep/a.js"),
    )
    .unwrap();
    until_restarts(&home, "web", 4);
    fs::remove_dir_all(home.apps().join("src/new")).unwrap();
    until_restarts(&home, "web", 5);
}

#[test]
fn a_stop_ends_the_watch_for_good_and_restart_toggles_it() {
    let home = Home::new();
    let app = home.app("web.sh", LOOP);
    home.run(&["start", &app, "--watch"]).ok();
    marker(&home, &home.apps(), "web");
    home.run(&["stop", "web"]).ok();
    home.until_file_has("pm2.log", "[Watch] Stop watching web");
    assert_eq!(env(&home, "web")["watch"], false);
    eventually("the thread ends with the last watch", || {
        let none = !threads(&home).iter().any(|name| name.contains("watch"));
        (none && inotify(&home) == (0, 0)).then_some(())
    });
    fs::write(home.apps().join("marker"), "while stopped").unwrap();
    home.run(&["restart", "web"]).ok();
    assert_eq!(
        (restarts(&home, "web"), env(&home, "web")["watch"].clone()),
        (1, json!(false))
    );
    home.run(&["restart", "web", "--watch"]).ok();
    assert_eq!(env(&home, "web")["watch"], true);
    marker(&home, &home.apps(), "web");
    home.run(&["restart", "web", "--watch"]).ok();
    assert_eq!(env(&home, "web")["watch"], false);
    assert!(home.run(&["list"]).ok().out.contains("disabled"));
}

#[test]
fn paths_globs_and_ignore_lists_are_the_apps_own() {
    let home = Home::new();
    home.app("web.sh", LOOP);
    for folder in ["src", "logs", "other"] {
        fs::create_dir(home.apps().join(folder)).unwrap();
    }
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "web", "script": "./web.sh", "watch": ["src", "logs/*.txt", "later.conf"],
            "ignore_watch": ["src/**/*.log", "src/out"]}]})
        .to_string(),
    );
    home.run(&["start", &file]).ok();
    let src = home.apps().join("src");
    marker(&home, &src, "web");
    for path in ["other/x", "src/a.log", "src/out", "logs/a.js"] {
        fs::write(home.apps().join(path), "1").unwrap();
    }
    let counted = marker(&home, &src, "web");
    assert_eq!(counted, 1, "what is left out has restarted it");
    // One that did not exist, and one that matches.
    fs::write(home.apps().join("later.conf"), "1").unwrap();
    until_restarts(&home, "web", 3);
    fs::write(home.apps().join("logs/a.txt"), "1").unwrap();
    until_restarts(&home, "web", 4);
    assert_eq!(why(&home, "web"), "restarted: logs/a.txt has changed");
}

#[test]
fn polling_sees_what_the_kernel_does_not_tell() {
    let home = Home::new();
    home.app("web.sh", LOOP);
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "web", "script": "./web.sh", "watch": true, "watch_options": {"usePolling": true, "interval": 50}}]})
            .to_string(),
    );
    home.run(&["start", &file]).ok();
    eventually("the watching thread", || {
        threads(&home)
            .iter()
            .any(|name| name.contains("watch"))
            .then_some(())
    });
    // The first look may be still to come: then the file is there from the start.
    eventually("a restart", || {
        let path = home.apps().join("polled");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, text + "x").unwrap();
        (restarts(&home, "web") > 0).then_some(())
    });
    until_restarts(&home, "web", 1);
    assert_eq!(inotify(&home), (0, 0));
    assert_eq!(why(&home, "web"), "restarted: polled has changed");
}

#[test]
fn fifty_watched_apps_share_one_instance_and_their_watches() {
    let home = Home::new();
    home.app("web.sh", LOOP);
    home.run(&["ping"]).ok();
    let apps: Vec<Value> = (0..10)
        .map(|number| json!({"name": format!("web{number}"), "script": "./web.sh", "watch": true, "instances": 5, "exec_mode": "fork", "autostart": false}))
        .collect();
    let file = home.app("eco.json", &json!({"apps": apps}).to_string());
    assert!(!threads(&home).iter().any(|name| name.contains("watch")));
    home.run(&["start", &file]).ok();
    let counts = eventually("a watch", || {
        let counts = inotify(&home);
        (counts.1 > 0).then_some(counts)
    });
    assert_eq!(counts, (1, 1));
    home.run(&["delete", "all"]).ok();
    eventually("nothing is left of it", || {
        (inotify(&home) == (0, 0)).then_some(())
    });
}

#[test]
fn cron_restarts_and_a_stop_warns_of_it() {
    let home = Home::new();
    let app = home.app("tick.sh", LOOP);
    home.run(&["start", &app, "--cron", "bad pat"])
        .fails("Cron pattern error: CronPattern: invalid configuration format ('bad pat'), exacly five or six space separated parts required.");
    assert!(home.list().is_empty());
    home.run(&["start", &app, "--cron", "* * * * * *"])
        .ok()
        .says("[PM2] cron restart at * * * * * *");
    until_restarts(&home, "tick", 2);
    assert_eq!(
        why(&home, "tick"),
        "restarted by its cron pattern `* * * * * *`"
    );
    home.run(&["stop", "tick"])
        .ok()
        .says("[PM2][WARN] App tick stopped but CRON RESTART is still UP * * * * * *");
    // It is started again by it, as in PM2.
    home.until_status("tick", "online");
    home.run(&["restart", "tick", "--cron-restart", "0"])
        .ok()
        .says("[PM2] disabling cron restart");
    home.until_file_has("pm2.log", "[PM2] Deregistering a cron job on: 0");
    home.run(&["stop", "tick"]).ok();
    let warned = home.run(&["stop", "tick"]).ok();
    assert!(!warned.out.contains("CRON"), "{warned:?}");
}

#[test]
fn a_tree_over_its_memory_limit_is_restarted_with_the_reason() {
    let home = Home::with(&[
        ("PM2_WORKER_INTERVAL", "300"),
        ("FORNAX_HTTP", "127.0.0.1:0"),
    ]);
    // The root is small: it is the child that holds the memory.
    let child = "import time\nblock = bytearray(b'x') * (120 << 20)\ntime.sleep(600)\n";
    home.app("child.py", child);
    let app = home.app("fat.sh", "#!/bin/bash\npython3 child.py\necho never\n");
    home.run(&["start", &app, "--max-memory-restart", "60M"])
        .ok();
    until_restarts(&home, "fat", 1);
    let why = why(&home, "fat");
    assert!(
        why.starts_with("restarted: memory ") && why.ends_with(" MB over its limit of 60 MB"),
        "{why}"
    );
    home.until_file_has(
        "pm2.log",
        "[PM2][WORKER] Process 0 restarted because it exceeds --max-memory-restart value (current_memory=",
    );
    let (_, body) = home.get("/services");
    assert!(body.contains("over its limit of 60 MB"), "{body}");
}

/// An app whose child outlives a stop of its root, and tells its pid.
const PARENT: &str = r#"
const child = require("child_process").spawn("sleep", ["600"], { stdio: "ignore" });
require("fs").writeFileSync("child.new", String(child.pid));
require("fs").renameSync("child.new", "child.pid");
process.on("SIGINT", () => { console.log("signalled"); process.exit(3); });
process.on("message", (message) => { console.log("told " + message); process.exit(7); });
setInterval(() => {}, 1000);
"#;

fn child_of(home: &Home) -> u32 {
    let file = home.apps().join("child.pid");
    let pid = eventually("the child's pid", || {
        fs::read_to_string(&file).ok()?.parse().ok()
    });
    fs::remove_file(file).unwrap();
    pid
}

#[test]
fn without_treekill_the_child_is_left_and_with_it_it_is_not() {
    let home = Home::new();
    let app = home.app("parent.js", PARENT);
    home.run(&["start", &app, "--no-treekill"]).ok();
    let left = child_of(&home);
    home.run(&["stop", "parent"]).ok();
    assert_eq!(home.status("parent"), "stopped");
    assert!(lives(left), "it was killed with its tree");
    home.run(&["delete", "parent"]).ok();
    assert!(lives(left), "it was killed with its tree");
    kill(left, 9);
    home.run(&["start", &app]).ok();
    let ended = child_of(&home);
    home.run(&["stop", "parent"]).ok();
    assert!(!lives(ended), "stopped, and one still lives");
}

#[test]
fn a_message_stops_an_app_that_takes_messages_and_its_tree_goes_too() {
    let home = Home::new();
    let app = home.app("parent.js", PARENT);
    home.run(&["start", &app, "--shutdown-with-message"]).ok();
    let child = child_of(&home);
    home.run(&["stop", "parent"]).ok();
    assert_eq!(env(&home, "parent")["exit_code"], 7);
    home.until_file_has("logs/parent-out.log", "told shutdown");
    assert!(!home.read("logs/parent-out.log").contains("signalled"));
    assert!(!lives(child), "stopped, and one still lives");
}

#[test]
fn pm2_dev_watches_what_it_runs() {
    let home = Home::new();
    let app = home.app("web.sh", LOOP);
    let mut dev = home.spawn(&home.link("pm2-dev"), &["run", &app]);
    eventually("the app's first line", || {
        dev.output().contains("up").then_some(())
    });
    let ups = |dev: &support::home::Running| dev.output().matches("up").count();
    eventually("a restart by a saved file", || {
        fs::write(
            home.apps().join("saved"),
            format!("{:?}", std::time::Instant::now()),
        )
        .unwrap();
        (ups(&dev) > 1).then_some(())
    });
    kill(dev.child.id(), 2);
    let code = dev.code();
    assert_eq!(code, Some(0));
}
