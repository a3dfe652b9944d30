//! The daemon and its keeper are killed and replaced for real, and no app notices.

#![allow(clippy::unwrap_used)]

mod support;

use fornax::pm2::client::Client;
use fornax::sys::procfs;
use serde_json::{Value, json};
use std::time::Instant;
use support::home::{Home, PATIENCE, eventually, kill, lives};
use support::successor::*;

fn busy_home() -> Home {
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
    for (name, text) in [
        ("writer.sh", WRITER),
        ("quiet.py", PYTHON),
        ("ipc.js", NODE),
    ] {
        home.app(name, text);
    }
    for at in 0..8 {
        home.run(&["start", "writer.sh", "--name", &format!("w{at}")])
            .ok();
    }
    home.run(&["start", "quiet.py", "--interpreter", "python3"])
        .ok();
    home.run(&["start", "ipc.js"]).ok();
    home
}

#[test]
fn ten_times_the_daemon_is_killed_under_a_flood_and_nothing_is_lost() {
    let home = busy_home();
    home.run(&["stop", "w7"]).ok();
    let (before, address, keeper) = (identities(&home), home.http(), keeper_pid(&home));
    for round in 0..10 {
        let marks: Vec<usize> = (0..7)
            .map(|at| home.read(&format!("logs/w{at}-out.log")).len())
            .collect();
        let gap = kill_daemon(&home);
        println!("round {round}: another daemon after {gap:?}");
        assert_eq!(identities(&home), before, "round {round}");
        assert_eq!(home.http(), address);
        for (at, mark) in marks.into_iter().enumerate() {
            eventually("the flood goes on", || {
                (home.read(&format!("logs/w{at}-out.log")).len() > mark).then_some(())
            });
        }
    }
    assert_eq!(keeper_pid(&home), keeper);
    let mut client = Client::connect(&home.root().join("rpc.sock")).unwrap();
    let id = before["ipc:9"].id;
    let _: Value = client
        .call(
            "sendDataToProcessId",
            &[json!({"id": id, "type": "process:msg", "topic": "echo", "data": {"word": "still"}})],
        )
        .unwrap();
    home.until_file_has("logs/ipc-out.log", "heard still");
    home.run(&["stop", "all"]).ok();
    for log in (0..7)
        .map(|at| format!("w{at}"))
        .chain(["quiet".into(), "ipc".into()])
    {
        let lines = assert_whole(&home, &format!("logs/{log}-out.log"));
        assert!(lines > 100, "{log}: {lines}");
    }
}

#[test]
fn http_that_was_switched_off_stays_off_and_one_that_was_moved_stays_where_it_is() {
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
    home.run(&["ping"]).ok();
    let rpc = home.root().join("rpc.sock");
    let listen = |address: &str| -> Value {
        let mut client = Client::connect(&rpc).unwrap();
        client
            .call("fornaxListen", &[json!({"address": address})])
            .unwrap()
    };
    let first = home.http();
    listen("off");
    for _ in 0..2 {
        kill_daemon(&home);
        let state = eventually("HTTP is decided on", || {
            let told = status(&home)["http"]["state"].clone();
            (told != "pending").then_some(told)
        });
        assert_eq!(state, "off");
        assert!(std::net::TcpStream::connect(&first).is_err());
    }
    listen("127.0.0.1:0");
    let second = home.http();
    kill_daemon(&home);
    assert_eq!(home.http(), second);
}

#[test]
fn a_killed_keeper_is_replaced_with_its_daemon_and_apps_live_on() {
    let home = busy_home();
    let before = identities(&home);
    for _ in 0..3 {
        let (keeper, daemon) = (keeper_pid(&home), home.daemon_pid().unwrap());
        kill(keeper, 9);
        until_another(&home, daemon);
        assert_eq!(identities(&home), before);
        assert_ne!(keeper_pid(&home), keeper);
        eventually("the old pair is gone", || {
            (!lives(daemon) && !lives(keeper)).then_some(())
        });
    }
    home.until_file_has("pm2.log", "the keeper was killed");
    // What is no child of the new keeper is still seen to end, and started again.
    kill(home.pid("w0"), 9);
    eventually("w0 is started again", || {
        (home.item("w0")["pm2_env"]["restart_time"] == 1).then_some(())
    });
    home.run(&["stop", "all"]).ok();
    for log in ["w1", "quiet", "ipc"] {
        assert_whole(&home, &format!("logs/{log}-out.log"));
    }
}

#[test]
fn what_ends_while_no_daemon_is_there_is_told_with_its_code() {
    let home = Home::new();
    home.app(
        "code.sh",
        "#!/bin/sh\ntrap 'echo last words >&2; exit 7' TERM\nwhile :; do sleep 0.02; done\n",
    );
    home.run(&["start", "code.sh", "--no-autorestart"]).ok();
    home.run(&[
        "start",
        "code.sh",
        "--name",
        "again",
        "--restart-delay",
        "50",
    ])
    .ok();
    let (keeper, daemon) = (keeper_pid(&home), home.daemon_pid().unwrap());
    let (once, again) = (home.pid("code"), home.pid("again"));
    kill(keeper, 19);
    kill(daemon, 9);
    kill(once, 15);
    kill(again, 15);
    eventually("both have ended", || {
        let dead = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(')')
                .next()
                .unwrap_or_default()
                .starts_with(" Z")
        };
        (dead(once) && dead(again)).then_some(())
    });
    kill(keeper, 18);
    until_another(&home, daemon);
    let item = home.until_status("code", "stopped");
    assert_eq!(item["pm2_env"]["exit_code"], 7);
    let item = home.until_status("again", "online");
    assert_eq!(item["pm2_env"]["restart_time"], 1);
    assert!(home.read("logs/code-error.log").contains("last words"));
    assert_eq!(
        home.read("pm2.log").matches("exited with code [7]").count(),
        2
    );
}

/// Its children that lead a session: roots of runs, and what is about to be one.
fn born(keeper: u32) -> Vec<u32> {
    let told = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
    let pids = told.unwrap_or_default();
    let pids = pids.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.filter(|pid| procfs::stat(*pid).is_some_and(|stat| stat.session == *pid))
        .collect()
}

#[test]
fn a_run_that_is_born_as_its_daemon_is_killed_stays_the_only_one() {
    let home = Home::new();
    let script = home.app(
        "calm.sh",
        "#!/bin/bash\ntrap 'exit 0' INT\nwhile true; do sleep 0.05; done\n",
    );
    home.run(&["start", &script]).ok();
    let keeper = keeper_pid(&home);
    for round in 0..10 {
        let (daemon, before) = (home.daemon_pid().unwrap(), born(keeper));
        let mut restart = home.spawn(home.program(), &["restart", "calm"]);
        let deadline = Instant::now() + PATIENCE;
        // No pause between looks: the daemon is to have no time to hear of it.
        while born(keeper).iter().all(|pid| before.contains(pid)) {
            assert!(Instant::now() < deadline, "round {round}: nothing is born");
        }
        kill(daemon, 9);
        restart.child.wait().unwrap();
        until_another(&home, daemon);
        home.until_status("calm", "online");
        let runs = || {
            let is_one = |pid: &u32| {
                let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
                words.is_ok_and(|words| words.contains("bash") && words.contains("calm.sh"))
            };
            home.processes()
                .into_iter()
                .filter(is_one)
                .collect::<Vec<u32>>()
        };
        eventually(
            &format!("round {round}: it runs once, as it is listed"),
            || (runs() == [home.pid("calm")]).then_some(()),
        );
    }
}

#[test]
fn an_update_restarts_nothing_and_loses_nothing() {
    let home = busy_home();
    let before = identities(&home);
    let daemon = home.daemon_pid().unwrap();
    home.run(&["update"]).ok().says(">>>>>>>>>> PM2 updated");
    assert_ne!(home.daemon_pid().unwrap(), daemon);
    assert_eq!(identities(&home), before);
    home.run(&["stop", "all"]).ok();
    for log in (0..8)
        .map(|at| format!("w{at}"))
        .chain(["quiet".into(), "ipc".into()])
    {
        assert_whole(&home, &format!("logs/{log}-out.log"));
    }
}

#[test]
fn a_program_that_cannot_go_on_never_gets_the_job() {
    let home = Home::new();
    home.app("calm.sh", "#!/bin/sh\nwhile :; do sleep 0.05; done\n");
    home.run(&["start", "calm.sh"]).ok();
    let (before, daemon) = (identities(&home), home.daemon_pid().unwrap());
    let mut client = Client::connect(&home.root().join("rpc.sock")).unwrap();
    let mut ask = |program: &str| {
        client
            .call::<Value>("fornaxHandOver", &[json!({"program": program})])
            .unwrap_err()
            .to_string()
    };
    let useless = home.app(
        "useless",
        "#!/bin/sh\necho 'schema 2 is too new for me' >&2\nexit 1\n",
    );
    assert!(ask(&useless).contains("schema 2 is too new for me"));
    assert!(ask("/no/such/program").contains("/no/such/program"));
    let silent = home.app("silent", "#!/bin/sh\nexit 0\n");
    assert!(ask(&silent).contains("cannot go on"));
    assert_eq!(home.daemon_pid(), Some(daemon), "it was never left");
    assert_eq!(identities(&home), before);
}

#[test]
fn a_program_that_dies_at_once_does_not_keep_the_job() {
    let home = Home::new();
    home.app("calm.sh", "#!/bin/sh\nwhile :; do sleep 0.05; done\n");
    home.run(&["start", "calm.sh"]).ok();
    let (before, daemon) = (identities(&home), home.daemon_pid().unwrap());
    let brittle = home.app(
        "brittle",
        "#!/bin/sh\n[ \"$2\" = check ] && { echo 'fornax can go on: says who'; exit 0; }\nexit 3\n",
    );
    let mut client = Client::connect(&home.root().join("rpc.sock")).unwrap();
    // The answer may be lost with the connection.
    let _ = client.call::<Value>("fornaxHandOver", &[json!({"program": brittle})]);
    until_another(&home, daemon);
    let why = status(&home)["predecessor"].as_str().unwrap().to_owned();
    assert!(why.contains("brittle did not stay (exit code 3)"), "{why}");
    assert_eq!(identities(&home), before);
    home.until_file_has("pm2.log", "the one before it goes on");
}
