//! `pm2-runtime` and `pm2-dev`, the real programs: what they print, how they end, and what they do as process 1.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::process::Command;
use support::home::{kill, lives};
use support::{Home, Ran, eventually};

/// Says a line on each stream and ends.
const ONCE: &str = "#!/bin/bash\necho to out\necho to err >&2\nexit 3\n";
/// Stays, and has last words.
const STAYS: &str = "#!/bin/bash\ntrap 'echo last words; exit 0' INT\necho up $1\nwhile true; do sleep 0.05; done\n";

fn once(options: &[&str]) -> Ran {
    let home = Home::new();
    let app = home.app("once.sh", ONCE);
    let program = home.link("pm2-runtime");
    let mut words = vec!["start", &app, "--no-autorestart"];
    words.extend(options);
    home.run_as(&program, &words)
}

#[test]
fn each_form_of_output_is_pm2s_and_the_end_of_all_apps_ends_it_with_2() {
    let forms: [&[&str]; 4] = [&[], &["--json"], &["--format"], &["--formatted"]];
    let [raw, json, format, formatted] = forms
        .map(|options| std::thread::spawn(|| once(options)))
        .map(|run| run.join().unwrap());
    for ran in [&raw, &json, &format, &formatted] {
        assert_eq!(ran.code, 2, "{ran:#?}");
        for left in 0..4 {
            assert!(
                ran.err
                    .contains(&format!("0 application online, retry = {left}")),
                "{ran:#?}"
            );
        }
    }
    assert!(raw.out.lines().any(|line| line == "to out"), "{raw:#?}");
    assert!(raw.err.lines().any(|line| line == "to err"), "{raw:#?}");
    assert!(
        raw.out
            .contains(": PM2 log: App [once:0] exited with code [3]"),
        "{raw:#?}"
    );
    // With JSON asked for, standard output holds nothing else.
    let told: Vec<Value> = json
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let has = |kind: &str, message: &str| {
        told.iter().any(|line| {
            line["type"] == kind
                && line["message"] == message
                && line["app_name"] == "once"
                && line["process_id"] == 0
        })
    };
    assert!(has("out", "to out") && has("err", "to err"), "{told:#?}");
    let statuses: Vec<&Value> = told
        .iter()
        .filter(|line| line["type"] == "process_event")
        .map(|line| &line["status"])
        .collect();
    assert!(statuses.contains(&&Value::from("exit")), "{statuses:?}");
    for (kind, text) in [("out", "to out"), ("error", "to err")] {
        let end = format!("app=once id=0 type={kind} message={text}");
        assert!(
            format
                .out
                .lines()
                .any(|line| line.starts_with("timestamp=") && line.ends_with(&end)),
            "{format:#?}"
        );
    }
    assert!(formatted.out.contains("0|once  | to out"), "{formatted:#?}");
}

#[test]
fn a_scripts_output_goes_to_no_file_unless_one_is_named_and_last_words_are_shown() {
    let home = Home::new();
    let app = home.app("stays.sh", STAYS);
    let named = home.apps().join("named.log");
    let program = home.link("pm2-docker");
    for output in [None, Some(named.to_str().unwrap())] {
        let mut words = vec![app.as_str(), "--unknown", "--no-auto-exit"];
        words.extend(output.iter().flat_map(|path| ["--output", path]));
        words.extend(["--", "there"]);
        let mut running = home.spawn(&program, &words);
        eventually("the app prints through it", || {
            running.output().contains("up there").then_some(())
        });
        assert!(running.output().contains("does not know `--unknown`"));
        kill(running.child.id(), 15);
        assert_eq!(running.code(), Some(0), "{}", running.output());
        assert!(
            running.output().contains("last words"),
            "{}",
            running.output()
        );
    }
    assert!(
        std::fs::read_to_string(&named)
            .unwrap()
            .contains("last words")
    );
    assert!(!home.root().join("logs/stays-out.log").exists());
}

#[test]
fn another_shell_sees_its_apps_and_may_end_it() {
    let home = Home::new();
    let app = home.app("stays.sh", STAYS);
    let program = home.link("pm2-runtime");
    let mut running = home.spawn(&program, &[&app, "-n", "web", "--no-pmx"]);
    eventually("the app is up", || {
        running.output().contains("up").then_some(())
    });
    assert_eq!(home.status("web"), "online");
    home.run_as(&program, &[&app])
        .fails("a daemon runs already");
    home.run(&["kill"]).ok();
    assert_eq!(running.code(), Some(0), "{}", running.output());
}

#[test]
fn no_daemon_streams_the_logs_and_ends_everything_with_a_signal() {
    let home = Home::new();
    let app = home.app("stays.sh", STAYS);
    let pm2 = home.link("pm2");
    let mut running = home.spawn(&pm2, &["start", &app, "--no-daemon", "--", "there"]);
    eventually("the app's line is streamed", || {
        running
            .output()
            .contains("0|stays  | up there")
            .then_some(())
    });
    eventually("it says that it stays", || {
        let told = running.output();
        let stays = told.contains("[--no-daemon] Continue to stream logs");
        (stays && told.contains("launched in no-daemon mode")).then_some(())
    });
    assert_eq!(home.status("stays"), "online");
    // Another one finds a daemon, which is not its own to end.
    let mut second = home.spawn(&pm2, &["list", "--no-daemon"]);
    eventually("it follows", || {
        second
            .output()
            .contains("Exit on target PM2 exit")
            .then_some(())
    });
    kill(second.child.id(), 15);
    assert_eq!(second.code(), Some(143), "{}", second.output());
    assert_eq!(home.status("stays"), "online");
    kill(running.child.id(), 2);
    assert_eq!(running.code(), Some(130), "{}", running.output());
    assert!(
        running.output().contains("last words"),
        "{}",
        running.output()
    );
    eventually("nothing is left", || {
        home.processes().is_empty().then_some(())
    });
    // What cannot start ends it.
    home.run(&["start", "gone.js", "--no-daemon"])
        .fails("gone.js");
    // And so does the daemon's end.
    let mut running = home.spawn(&pm2, &["start", &app, "--no-daemon"]);
    eventually("the app is up", || {
        running.output().contains("up").then_some(())
    });
    home.run(&["kill"]).ok();
    assert_eq!(running.code(), Some(0), "{}", running.output());
}

#[test]
fn a_program_that_is_killed_takes_its_daemon_and_its_apps_with_it() {
    let home = Home::new();
    let app = home.app("stays.sh", STAYS);
    let (runtime, pm2) = (home.link("pm2-runtime"), home.link("pm2"));
    for (program, words) in [
        (&runtime, vec![&*app]),
        (&pm2, vec!["start", &app, "--no-daemon"]),
    ] {
        let mut running = home.spawn(program, &words);
        eventually("the app is up", || {
            running.output().contains("up").then_some(())
        });
        // A daemon that was killed has left this to its successor.
        let first = home.daemon_pid().unwrap();
        kill(first, 9);
        eventually("another daemon", || {
            home.daemon_pid().filter(|pid| *pid != first)
        });
        assert_eq!(home.status("stays"), "online");
        kill(running.child.id(), 9);
        running.code();
        eventually("nothing is left", || {
            home.processes().is_empty().then_some(())
        });
    }
    // And the home is free for the next one.
    let mut running = home.spawn(&runtime, &[&app]);
    eventually("the app is up again", || {
        running.output().contains("up").then_some(())
    });
    kill(running.child.id(), 15);
    assert_eq!(running.code(), Some(0), "{}", running.output());
}

#[test]
fn what_cannot_start_is_told_and_leaves_nothing() {
    let home = Home::new();
    let program = home.link("pm2-runtime");
    home.run_as(&program, &["gone.js"]).fails("gone.js");
    home.run_as(&program, &["gone.json"]).fails("gone.json");
    home.run_as(&program, &["x.js", "--delay", "soon"])
        .fails("--delay");
    let app = home.app("bad.sh", STAYS);
    home.run_as(&program, &[&app, "--web", "many"])
        .fails("--web");
    eventually("nothing is left", || {
        home.processes().is_empty().then_some(())
    });
    assert_eq!(home.run_as(&program, &["-V"]).ok().out, "7.0.4\n");
    home.run_as(&program, &[]).fails("Usage");
}

#[test]
fn as_process_1_it_reaps_orphans_outlives_its_keeper_and_passes_signals_on() {
    let home = Home::new();
    let works = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "nsenter", "--version"])
        .output();
    if !works.is_ok_and(|ran| ran.status.success()) {
        println!("NOT TESTED: process 1 wants root, unshare and nsenter");
        return;
    }
    let app = home.app("stays.sh", STAYS);
    let program = home.link("pm2-runtime");
    let mut running = home.spawn(
        "unshare".as_ref(),
        &[
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            program.to_str().unwrap(),
            &app,
        ],
    );
    eventually("the app is up", || {
        running.output().contains("up").then_some(())
    });
    let children = |pid: u32| -> Vec<u32> {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let list = list.unwrap_or_default();
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    };
    let first = children(running.child.id())[0];
    let app_pid = children(children(first)[0])
        .into_iter()
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|words| words.ends_with(b"stays.sh\0"))
        })
        .unwrap();
    // An orphan that enters as `docker exec` does.
    let orphan = "sh -c 'sleep 0.3 & echo $!' ";
    Command::new("nsenter")
        .args(["-t", &first.to_string(), "-p", "-m", "sh", "-c", orphan])
        .status()
        .unwrap();
    eventually("the orphan is reaped", || {
        (children(first).len() == 1).then_some(())
    });
    let keeper = children(first)[0];
    kill(keeper, 9);
    eventually("another keeper has taken over", || {
        let now = children(first);
        // The app, which it was the parent of, is ours now.
        (now.contains(&app_pid) && now.len() == 2 && !now.contains(&keeper)).then_some(())
    });
    assert!(lives(app_pid));
    eventually("it is heard again", || {
        home.root().join("pm2.pid").exists().then_some(())
    });
    kill(first, 15);
    assert_eq!(running.code(), Some(0), "{}", running.output());
    assert!(!lives(app_pid));
}

/// Processes of a development session's home.
fn dev_processes(home: &Home) -> usize {
    let marker = format!(
        "PM2_HOME={}/user/.pm2-dev",
        home.root().parent().unwrap().display()
    );
    let found = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environ
                .split(|byte| *byte == 0)
                .any(|variable| variable == marker.as_bytes())
        });
    found.count()
}

#[test]
fn a_development_session_restarts_on_changes_runs_its_command_and_leaves_nothing() {
    let home = Home::new();
    let app = home.app("stays.sh", STAYS);
    std::fs::create_dir(home.apps().join("skipped")).unwrap();
    let program = home.link("pm2-dev");
    let mut running = home.spawn(
        &program,
        &[
            "run",
            &app,
            "--ignore",
            "skipped",
            "--post-exec",
            "echo after it",
        ],
    );
    eventually("the session is up", || {
        let output = running.output();
        (output.contains("=====") && output.contains("stays-0  | up")).then_some(())
    });
    let output = running.output();
    for line in [
        "--- PM2 development mode ---",
        "Apps started         : stays",
        "Ignored folder       : skipped,node_modules",
        "Post restart cmd     : echo after it",
    ] {
        assert!(output.contains(line), "{output}");
    }
    assert!(!output.contains("after it\n\n"), "{output}");
    std::fs::write(home.apps().join("skipped/x"), "1").unwrap();
    std::fs::write(home.apps().join("seen"), "1").unwrap();
    eventually("it is restarted, and the command has run", || {
        let output = running.output();
        (output.contains("[rundev] App stays restarted")
            && output.contains("\nafter it\n")
            && output.matches("stays-0  | up").count() >= 2)
            .then_some(())
    });
    kill(running.child.id(), 2);
    assert_eq!(running.code(), Some(0), "{}", running.output());
    assert!(
        running
            .output()
            .contains(">>>>> [PM2 DEV] Stopping current development session")
    );
    eventually("nothing is left", || {
        (dev_processes(&home) == 0).then_some(())
    });
}

#[test]
fn a_development_session_ends_with_1_when_nothing_runs_if_asked_to() {
    let home = Home::new();
    let app = home.app("once.sh", ONCE);
    let program = home.link("pm2-dev");
    let ran = home.run_as(
        &program,
        &[&app, "--auto-exit", "--no-autorestart", "--raw"],
    );
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert_eq!(ran.out.matches("0 application online, exiting").count(), 2);
    assert!(ran.err.contains("to err"), "{ran:#?}");
    eventually("nothing is left", || {
        (dev_processes(&home) == 0).then_some(())
    });
}
