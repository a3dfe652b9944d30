//! The commands of the real program, with PM2's words and exit codes (pm2 7.0.4).

#![recursion_limit = "256"] // for the record of PM2 in one json!
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use support::home::lives;
use support::{Home, eventually};

const LOOP: &str = "#!/bin/bash\necho up $1\nwhile true; do sleep 0.05; done\n";
const NODE: &str =
    "console.log('args ' + process.argv.slice(2).join('|')); setInterval(() => {}, 1000);\n";

fn names(home: &Home) -> Vec<String> {
    home.list()
        .iter()
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Every start draws a new one.
fn without_unique_id(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(map) = value.as_object_mut() {
        map.remove("unique_id");
    }
    value
}

fn statuses(home: &Home) -> Vec<String> {
    home.list()
        .iter()
        .map(|item| item["pm2_env"]["status"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn jlist_is_pure_json_in_every_state() {
    let home = Home::new();
    // No daemon runs: it is started, and nothing is said of it.
    assert_eq!(home.run(&["jlist"]).ok().out.trim(), "[]");
    let app = home.app("a.sh", LOOP);
    let bad = home.app("bad.sh", "#!/bin/bash\nexit 3\n");
    home.run(&["start", &app]).ok();
    home.run(&["start", &bad, "--max-restarts", "2"]).ok();
    home.until_status("bad", "errored");
    home.run(&["stop", "a"]).ok();
    assert_eq!(statuses(&home), ["stopped", "errored"]);
    let item = home.item("a");
    let keys: Vec<&String> = item.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["pid", "name", "pm2_env", "pm_id", "monit"]);
    for key in [
        "name",
        "namespace",
        "env",
        "autorestart",
        "autostart",
        "watch",
        "vizion",
        "merge_logs",
        "instance_var",
        "pmx",
        "automation",
        "treekill",
        "username",
        "windowsHide",
        "kill_retry_time",
        "node_args",
        "pm_exec_path",
        "pm_cwd",
        "exec_interpreter",
        "exec_mode",
        "instances",
        "pm_out_log_path",
        "pm_err_log_path",
        "pm_pid_path",
        "km_link",
        "vizion_running",
        "NODE_APP_INSTANCE",
        "unique_id",
        "status",
        "pm_uptime",
        "axm_actions",
        "axm_monitor",
        "axm_options",
        "axm_dynamic",
        "created_at",
        "pm_id",
        "restart_time",
        "unstable_restarts",
        "version",
        "filter_env",
        "PATH",
    ] {
        assert!(item["pm2_env"].get(key).is_some(), "{key} is missing");
    }
    assert_eq!(home.item("bad")["pm2_env"]["exit_code"], 3);
}

#[test]
fn apps_are_named_by_name_id_namespace_regex_all_and_file() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    for (name, space) in [("web-1", "front"), ("web-2", "front"), ("job", "back")] {
        home.run(&["start", &app, "--name", name, "--namespace", space])
            .ok();
    }
    home.run(&["stop", "web-1"]).ok();
    assert_eq!(statuses(&home), ["stopped", "online", "online"]);
    home.run(&["restart", "0"]).ok();
    assert_eq!(statuses(&home), ["online", "online", "online"]);
    home.run(&["stop", "front"]).ok();
    assert_eq!(statuses(&home), ["stopped", "stopped", "online"]);
    home.run(&["restart", "/^web/"]).ok();
    assert_eq!(statuses(&home), ["online", "online", "online"]);
    home.run(&["stop", "all"]).ok();
    assert_eq!(statuses(&home), ["stopped", "stopped", "stopped"]);
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "job", "script": app}, {"name": "new", "script": app}]})
            .to_string(),
    );
    home.run(&["start", &file]).ok();
    assert_eq!(names(&home), ["web-1", "web-2", "job", "new"]);
    assert_eq!(home.status("job"), "online");
    home.run(&["delete", &file]).ok();
    assert_eq!(names(&home), ["web-1", "web-2"]);
    home.run(&["delete", "all"]).ok();
    assert!(home.list().is_empty());
}

#[test]
fn what_is_not_found_or_misused_ends_as_pm2_ends_it() {
    let home = Home::new();
    home.run(&["ping"]).ok().says("pong");
    for (args, words) in [
        (&["stop", "all"][..], "No process found"),
        (&["restart", "/x/"], "No process found"),
    ] {
        home.run(args).fails(words);
    }
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app]).ok();
    for (args, words) in [
        (&["stop", "nope"][..], "Process or Namespace nope not found"),
        (&["restart", "nope"], "Process or Namespace nope not found"),
        (&["reload", "nope"], "Process or Namespace nope not found"),
        (&["delete", "nope"], "Process or Namespace nope not found"),
        (&["stop", "99"], "99 : id unknown"),
        (&["delete", "99"], "99 : id unknown"),
        (&["restart", "99"], "God db process id unknown"),
        (&["reload", "99"], "PM2 ID unknown"),
        (&["start", "nofile.js"], "Script not found: "),
        (&["start", &app], "Script already launched"),
        (&["describe", "nope"], "nope doesn't exist"),
        (&["env", "99"], "Modules with id 99 not found"),
        (&["scale", "nope", "2"], "Application nope not found"),
        (&["reset", "nope"], "Unknown process name"),
        (&["sendSignal", "SIGUSR1", "nope"], "Unknown process name"),
        (&["sendSignal", "SIGUSR1", "99"], "99 id unknown"),
        (&["send", "99", "x"], "Process with ID <99> unknown."),
        (&["nonsense"], "Command not found"),
        (&["list", "--nonsense"], "unknown option `--nonsense'"),
        (&["scale", "a"], "missing required argument"),
        (&["get", "missing"], ""),
    ] {
        home.run(args).fails(words);
    }
    assert_eq!(home.run(&["id", "nope"]).ok().out.trim(), "[]");
    assert_eq!(home.run(&["pid", "nope"]).ok().out, "\n");
    home.run(&["flush", "nope"]).ok();
    home.run(&["unset", "missing"]).ok();
    home.run(&["resurrect"]).ok();
    assert_eq!(home.run(&[]).code, 1);
}

#[test]
fn every_command_of_the_table_has_run() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "f", "script": app}]}).to_string(),
    );
    let lines: &[&[&str]] = &[
        &["ping"],
        &["start", &app],
        &["startOrRestart", &file],
        &["startOrReload", &file],
        &["startOrGracefulReload", &file],
        &["list"],
        &["ls", "-m"],
        &["jlist"],
        &["prettylist"],
        &["describe", "a"],
        &["env", "0"],
        &["id", "a"],
        &["pid", "a"],
        &["logs", "--nostream"],
        &["reloadLogs"],
        &["flush"],
        &["sendSignal", "SIGCONT", "a"],
        &["send", "0", "hello"],
        &["set", "some:key", "value"],
        &["get", "some:key"],
        &["conf"],
        &["config", "some:key", "other"],
        &["multiset", "a:key 1 some:key 2"],
        &["unset", "some:key"],
        &["monitor", "a"],
        &["unmonitor", "a"],
        &["restart", "a"],
        &["reload", "a"],
        &["reset", "a"],
        &["scale", "a", "2"],
        &["stop", "a"],
        &["dump"],
        &["delete", "a"],
        &["resurrect"],
        &["cleardump"],
        &["report"],
        &["slist", "--tree"],
        &["inspect", "a"],
        &["ecosystem", "simple"],
        &["examples"],
        &["completion"],
        &["update"],
        &["deepUpdate"],
        &["kill"],
    ];
    let refused: &[&[&str]] = &[
        &["link", "secret", "public"],
        &["unlink"],
        &["plus"],
        &["login"],
        &["logout"],
        &["open"],
        &["install-otel"],
        &["uninstall-otel"],
    ];
    let mut missing: Vec<&str> = fornax::cli::cmd::table::commands()
        .map(|entry| entry.name)
        .collect();
    for line in refused {
        home.run(line).fails("PM2's own cloud service");
        missing.retain(|name| *name != line[0]);
    }
    let others: &[(&[&str], &str)] = &[
        (&["create"], "not supported"),
        (&["autoinstall"], "not supported"),
        (&["profile:cpu"], "native program"),
        (&["profile:mem"], "native program"),
        (&["attach", "nope"], "must be a process number"),
        (&["trigger", "nope", "x"], "Not any process"),
        (&["pull", "nope"], "No processes with this name"),
        (&["forward", "nope"], "No processes with this name"),
        (&["backward", "nope"], "No processes with this name"),
    ];
    for (line, words) in others {
        home.run(line).fails(words);
        missing.retain(|name| *name != line[0]);
    }
    // It writes outside of any home when root runs it; that one talks to a registry.
    missing.retain(|name| !["logrotate", "publish"].contains(name));
    // Programs of their own have tests of their own, which run them by these words.
    let elsewhere = [
        include_str!("monit.rs"),
        include_str!("serve.rs"),
        include_str!("deploy.rs"),
        include_str!("startup.rs"),
        include_str!("modules.rs"),
    ];
    missing.retain(|name| {
        !elsewhere
            .iter()
            .any(|text| text.contains(&format!("\"{name}\"")))
    });
    for line in lines {
        home.run(line).ok();
        missing.retain(|name| fornax::cli::cmd::table::find(line[0]).unwrap().name != *name);
    }
    assert!(missing.is_empty(), "never run: {missing:?}");
    assert!(home.processes().is_empty());
    // Nothing running is as good.
    home.run(&["kill"]).ok();
}

#[test]
fn node_python_and_shell_apps_run_and_their_lines_are_kept() {
    let home = Home::new();
    let node = home.app("n.js", NODE);
    let python = home.app(
        "p.py",
        "import time\nprint('python without flush')\nwhile True: time.sleep(1)\n",
    );
    let shell = home.app("s.sh", LOOP);
    home.run(&["start", &node, "--", "one", "--two", "a b"])
        .ok();
    home.run(&["start", &python]).ok();
    home.run(&["start", &shell, "--", "first"]).ok();
    home.run(&[
        "start",
        "while true; do echo looped; sleep 0.1; done",
        "--name",
        "cmd",
    ])
    .ok();
    home.until_file_has("logs/n-out.log", "args one|--two|a b");
    home.until_file_has("logs/p-out.log", "python without flush");
    home.until_file_has("logs/s-out.log", "up first");
    home.until_file_has("logs/cmd-out.log", "looped\nlooped\n");
    assert_eq!(statuses(&home), ["online"; 4]);
    home.run(&["logs", "n", "--nostream"])
        .ok()
        .says("args one|--two|a b");
    home.run(&["flush", "n"]).ok();
    eventually("the log is empty", || {
        home.read("logs/n-out.log").is_empty().then_some(())
    });
}

#[test]
fn the_shells_variables_reach_an_app_at_its_start_and_with_update_env_only() {
    let home = Home::new();
    let app = home.app("v.sh", "#!/bin/bash\necho \"v=$COLOUR\"\nsleep 1000\n");
    home.run_with(&["start", &app], &[("COLOUR", "red")]).ok();
    home.until_file_has("logs/v-out.log", "v=red");
    home.run_with(&["restart", "v"], &[("COLOUR", "green")])
        .ok()
        .says("--update-env");
    home.until_file_has("logs/v-out.log", "v=red\nv=red\n");
    home.run_with(&["restart", "v", "--update-env"], &[("COLOUR", "blue")])
        .ok();
    home.until_file_has("logs/v-out.log", "v=blue");
    home.run(&["env", "0"]).ok().says("COLOUR: blue");
}

#[test]
fn scale_goes_up_down_and_by_steps() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app, "-i", "1"]).ok();
    let count = || home.list().len();
    home.run(&["scale", "a", "3"]).ok();
    assert_eq!(count(), 3);
    home.run(&["scale", "a", "+1"]).ok();
    assert_eq!(count(), 4);
    home.run(&["scale", "a", "4"]).fails("Nothing to do");
    home.run(&["scale", "a", "1"]).ok();
    assert_eq!(count(), 1);
    assert_eq!(home.list()[0]["pm_id"], 3);
}

#[test]
fn a_saved_list_comes_back_as_it_was() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app, "--name", "one", "--", "x"]).ok();
    home.run(&["start", &app, "--name", "two", "-i", "2"]).ok();
    home.run(&["stop", "two"]).ok();
    home.run(&["save"]).ok().says("Successfully saved in");
    let before: Value = serde_json::from_str(&home.read("dump.pm2")).unwrap();
    assert_eq!(before.as_array().unwrap().len(), 3);
    home.run(&["kill"]).ok();
    assert!(home.processes().is_empty());
    home.run(&["resurrect"]).ok().says("Resurrecting");
    assert_eq!(names(&home), ["one", "two", "two"]);
    assert_eq!(statuses(&home), ["online", "stopped", "stopped"]);
    home.run(&["save"]).ok();
    let after: Value = serde_json::from_str(&home.read("dump.pm2")).unwrap();
    for (was, is) in before
        .as_array()
        .unwrap()
        .iter()
        .zip(after.as_array().unwrap())
    {
        for key in [
            "name",
            "pm_exec_path",
            "args",
            "status",
            "NODE_APP_INSTANCE",
            "env",
        ] {
            assert_eq!(
                without_unique_id(&was[key]),
                without_unique_id(&is[key]),
                "{key}"
            );
        }
    }
    assert_eq!(
        std::fs::metadata(home.root().join("dump.pm2"))
            .unwrap()
            .permissions()
            .mode()
            & 0o077,
        0
    );
}

/// In the shape that pm2 7.0.4 leaves behind; only the paths are this test's.
#[test]
fn a_dump_of_pm2_itself_is_resurrected() {
    let home = Home::new();
    let app = home.app("old.js", NODE);
    let dir = home.apps();
    let logs = home.root().join("logs");
    let entry = |name: &str, status: &str, id: u32| {
        json!({
            "name": name, "filter_env": [], "namespace": "default",
            "env": {"PATH": std::env::var("PATH").unwrap(), "PM2_HOME": home.root(), "PM2_USAGE": "CLI", name: {}, "unique_id": "7fc4cf80-0000-4000-8000-000000000000"},
            "merge_logs": true, "vizion": true, "autostart": true, "autorestart": true, "watch": false,
            "instance_var": "NODE_APP_INSTANCE", "pmx": true, "automation": true, "treekill": true, "username": "root",
            "windowsHide": true, "kill_retry_time": 100, "node_args": [], "pm_exec_path": app, "pm_cwd": dir,
            "exec_interpreter": "node", "exec_mode": "fork_mode", "args": ["from", "dump"],
            "pm_out_log_path": logs.join(format!("{name}-out.log")), "pm_err_log_path": logs.join(format!("{name}-error.log")),
            "pm_pid_path": home.root().join(format!("pids/{name}-{id}.pid")), "km_link": false, "vizion_running": false,
            "NODE_APP_INSTANCE": 0, "PM2_HOME": home.root(), "PM2_USAGE": "CLI", "unique_id": "7fc4cf80-0000-4000-8000-000000000000",
            "status": status, "pm_uptime": 1_795_419_954_844_u64, "axm_actions": [], "axm_monitor": {}, "axm_options": {"error": true},
            "axm_dynamic": {}, "created_at": 1_795_419_954_844_u64, "restart_time": 3, "unstable_restarts": 0,
            "version": "N/A", "node_version": "20.20.2",
        })
    };
    std::fs::create_dir_all(home.root()).unwrap();
    let dump = json!([entry("live", "online", 0), entry("down", "stopped", 1)]);
    std::fs::write(
        home.root().join("dump.pm2"),
        serde_json::to_string_pretty(&dump).unwrap(),
    )
    .unwrap();
    home.run(&["resurrect"]).ok();
    assert_eq!(statuses(&home), ["online", "stopped"]);
    home.until_file_has("logs/live-out.log", "args from|dump");
    let live = home.item("live");
    assert_eq!(live["pm2_env"]["created_at"], 1_795_419_954_844_u64);
    assert_eq!(live["pm2_env"]["restart_time"], 0);
}

#[test]
fn it_is_what_it_is_called() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    let pm2 = home.link("pm2");
    assert_eq!(home.run_as(&pm2, &["--version"]).ok().out.trim(), "7.0.4");
    home.run_as(&pm2, &["start", &app]).ok();
    assert_eq!(home.status("a"), "online");
    home.run_as(&pm2, &["kill"]).ok();
    for name in ["pm2-runtime", "pm2-docker"] {
        let program = home.link(name);
        let mut running = home.spawn(&program, &["start", &app]);
        eventually("the app prints through it", || {
            running.output().contains("up").then_some(())
        });
        support::home::kill(running.child.id(), 15);
        assert_eq!(running.code(), Some(0), "{}", running.output());
        eventually("nothing is left", || {
            home.processes().is_empty().then_some(())
        });
    }
}

#[test]
fn log_files_are_there_from_the_start_on() {
    let home = Home::new();
    home.run(&["start", "sleep", "--name", "quiet", "--", "1000"])
        .ok();
    for log in ["quiet-out.log", "quiet-error.log"] {
        eventually(log, || {
            home.root().join("logs").join(log).is_file().then_some(())
        });
    }
    home.run(&["logs", "quiet", "--nostream", "--json"])
        .ok()
        .says("quiet-error.log last 15 lines");
}

#[test]
fn a_program_in_the_background_of_a_script_ends_on_sigint() {
    let home = Home::new();
    let app = home.app(
        "talk.sh",
        "#!/bin/bash\nwhile echo talk; do sleep 0.05; done\n",
    );
    home.run(&["start", &app]).ok();
    let line = format!("trap '' INT; exec {} logs --raw", home.program().display());
    let mut logs = home.spawn(std::path::Path::new("/bin/bash"), &["-c", &line]);
    eventually("lines come", || {
        logs.output().contains("talk").then_some(())
    });
    support::home::kill(logs.child.id(), 2);
    eventually("it has ended", || logs.child.try_wait().unwrap());
}

#[test]
fn an_app_runs_as_the_user_that_start_and_restart_name() {
    if !nix::unistd::geteuid().is_root() {
        println!("NOT TESTED: only root may start an app as another user");
        return;
    }
    let home = Home::new();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid;
    let runs_as_nobody = |name: &str| {
        eventually("it is nobody's", || {
            use std::os::unix::fs::MetadataExt;
            let proc = std::fs::metadata(format!("/proc/{}", home.pid(name))).ok()?;
            (proc.uid() == nobody.as_raw()).then_some(())
        });
        assert_eq!(home.item(name)["pm2_env"]["uid"], nobody.as_raw());
        let list = home.run(&["list"]).ok().out;
        let row = list.lines().find(|line| line.contains(name)).unwrap();
        assert!(row.contains("│ nobody"), "{row}");
    };
    let start = |name, user: &[&str]| {
        let words = ["start", "sleep", "--name", name, "--cwd", "/"];
        home.run(&[&words[..], user, &["--", "1000"]].concat())
    };
    start("at-start", &["--user", "nobody"]).ok();
    runs_as_nobody("at-start");
    start("later", &[]).ok();
    home.run(&["restart", "later", "--user", "nobody"]).ok();
    runs_as_nobody("later");
    start("never", &["-u", "nosuch"]).fails("User nosuch cannot be found");
    home.run(&["restart", "later", "--user", "nosuch"])
        .fails("User nosuch cannot be found");
}

#[test]
fn a_file_acts_on_its_apps_by_their_names_from_any_folder() {
    let home = Home::new();
    std::fs::create_dir(home.apps().join("sp ace")).unwrap();
    home.app("sp ace/a.sh", LOOP);
    let apps = json!([{"name": "one", "script": "./a.sh"}, {"name": "two", "script": "./a.sh"}]);
    let file = home.app("sp ace/ecosystem.config.json", &apps.to_string());
    let within = home.apps().join("sp ace");
    // A path with a space in it is a file's, if there is one; without a path the folder's own is meant.
    let start = |words: &[&str]| {
        let mut command = home.command(home.program(), words);
        command.current_dir(&within).output().unwrap().status.code()
    };
    assert_eq!(start(&["start", &file, "--only", "one"]), Some(0));
    assert_eq!(names(&home), ["one"]);
    assert_eq!(start(&["start"]), Some(0));
    assert_eq!(names(&home), ["one", "two"]);
    // Relative scripts don't resolve here, and need not.
    for command in [
        "restart",
        "reload",
        "start",
        "startOrRestart",
        "startOrReload",
    ] {
        let before = home.pid("two");
        home.run(&[command, &file]).ok();
        assert_ne!(home.pid("two"), before, "{command}");
    }
    // What does not run needs no end.
    home.run(&["delete", "one"]).ok();
    home.run(&["stop", &file]).ok();
    assert_eq!(home.status("two"), "stopped");
    home.run(&["delete", &file]).ok();
    home.run(&["delete", &file]).ok();
    assert_eq!(names(&home), [""; 0]);
    home.run(&["start", &file]).fails("script not found");
}

#[test]
fn a_reset_sets_the_counter_to_zero_and_restarts_count() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    home.run(&["start", &app]).ok();
    let first = home.pid("a");
    home.run(&["restart", "a"]).ok();
    assert!(!lives(first));
    assert_eq!(home.item("a")["pm2_env"]["restart_time"], 1);
    home.run(&["reset", "a"]).ok();
    assert_eq!(home.item("a")["pm2_env"]["restart_time"], 0);
    home.run(&["describe", "a"]).ok().says("fork_mode");
    assert_eq!(
        home.run(&["pid", "a"]).ok().out.trim(),
        home.pid("a").to_string()
    );
}

#[test]
fn a_file_with_a_bad_app_starts_the_others_and_says_what_is_wrong() {
    let home = Home::new();
    let app = home.app("a.sh", LOOP);
    let file = home.app(
        "eco.json",
        &json!({"apps": [{"name": "bad", "script": "./gone.js"}, {"name": "good", "script": app}]})
            .to_string(),
    );
    home.run(&["start", &file]).fails("gone.js");
    let typo = home.app(
        "typo.json",
        "{\n  \"apps\": [\n    {\n      \"script\": \"a.sh\",\n      \"max_restarts\": \"many\"\n    }\n  ]\n}\n",
    );
    let ran = home.run(&["check", &typo]).fails("max_restarts");
    assert!(ran.err.contains("typo.json:5"), "{ran:?}");
}

#[test]
fn a_mistake_in_a_file_starts_nothing_and_what_is_not_there_only_itself() {
    let home = Home::new();
    home.app("a.sh", LOOP);
    let wrong = [
        (r#""max_restarts": "many""#, "max_restarts"),
        (r#""cron_restart": "never""#, "cron_restart"),
        (r#""fornax": {"ports": 1}"#, "ports"),
    ];
    let file = |more: &str| {
        let text = format!(
            "{{\"apps\": [{{\"name\": \"a\", \"script\": \"a.sh\"}},\n{{\"name\": \"b\", {more}}}]}}"
        );
        home.app("apps.json", &text)
    };
    for (key, told) in wrong {
        let path = file(&format!(r#""script": "a.sh", {key}"#));
        home.run(&["start", &path]).fails(told).says("apps.json:2:");
        assert_eq!(names(&home), [""; 0], "{key}");
    }
    // As in pm2, which starts the others then.
    for more in [
        r#""script": "gone.js""#,
        r#""script": "a.sh", "interpreter": "nosuchprogram""#,
    ] {
        home.run(&["start", &file(more)]).fails("apps.json:2:");
        assert_eq!(names(&home), ["a"], "{more}");
        home.run(&["delete", "all"]).ok();
    }
}

#[test]
fn monitor_marks_an_app_in_the_list() {
    let home = Home::new();
    let app = home.app("looped.sh", LOOP);
    home.run(&["start", &app]).ok();
    home.run(&["monitor", "looped"]).ok().says("[M] loop…");
    home.run(&["unmonitor", "looped"]).ok();
    let list = home.run(&["list"]).ok().out;
    assert!(list.contains("looped") && !list.contains("[M]"), "{list}");
}
