//! Crashes without end, and want of everything: the daemon answers, nothing piles up, and all is well again by itself.

#![allow(clippy::unwrap_used)]

mod support;

use fornax::pm2::client::Client;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use support::home::lives;
use support::{Home, eventually};

/// Fails until there is a file `healed` in its folder.
const CRASHES: &str =
    "#!/bin/sh\n[ -e healed ] || { echo 'about to fail' >&2; exit 1; }\nexec sleep 1000\n";

fn client(home: &Home) -> Client {
    Client::connect(&home.root().join("rpc.sock")).unwrap()
}

fn list(client: &mut Client) -> Vec<Value> {
    client
        .call("getMonitorData", &[json!({"env": false})])
        .unwrap()
}

fn restarts(list: &[Value]) -> u64 {
    let of = |item: &Value| item["pm2_env"]["restart_time"].as_u64().unwrap();
    list.iter().map(of).sum()
}

fn fds(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// Resident memory, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn zombies_of(pid: u32) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            let mut fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&pid.to_string())
        })
        .count()
}

fn ecosystem(home: &Home, count: usize, keys: &Value) -> String {
    let script = home.app("crash.sh", CRASHES);
    let apps: Vec<Value> = (0..count)
        .map(|n| {
            let mut app = json!({"name": format!("app-{n}"), "script": script, "cwd": home.apps()});
            app.as_object_mut()
                .unwrap()
                .extend(keys.as_object().unwrap().clone());
            app
        })
        .collect();
    home.app("ecosystem.json", &json!({ "apps": apps }).to_string())
}

#[test]
fn two_hundred_apps_that_crash_for_ever_harm_nobody_and_are_all_back_once_they_can() {
    let home = Home::new();
    let file = ecosystem(&home, 200, &json!({"max_restarts": 1_000_000}));
    home.run(&["start", &file, "-s"]).ok();
    let daemon = home.daemon_pid().unwrap();
    let mut rpc = client(&home);
    let begun = restarts(&list(&mut rpc));
    let mut answered = 0;
    eventually("500 restarts", || {
        let all = list(&mut rpc);
        answered += 1;
        assert_eq!(all.len(), 200);
        (restarts(&all) > begun + 500).then_some(())
    });
    // A person is served meanwhile.
    home.run(&["stop", "app-7"]).ok();
    assert_eq!(home.status("app-7"), "stopped");
    std::fs::write(home.apps().join("healed"), "").unwrap();
    let pids: BTreeSet<u32> = eventually("all are online", || {
        let all = list(&mut rpc);
        let up = all
            .iter()
            .filter(|item| item["pm2_env"]["status"] == "online");
        let pids: BTreeSet<u32> = up
            .map(|item| u32::try_from(item["pid"].as_u64().unwrap()).unwrap())
            .collect();
        (pids.len() == 199 && pids.iter().all(|pid| lives(*pid))).then_some(pids)
    });
    assert_eq!(pids.len(), 199);
    eventually("no zombie is left", || {
        (zombies_of(daemon) == 0).then_some(())
    });
    println!(
        "{answered} lists answered, {} restarts, {} KiB resident",
        restarts(&list(&mut rpc)),
        resident(daemon)
    );
    home.run(&["delete", "all", "-s"]).ok();
    eventually("no descriptor is left", || (fds(daemon) < 50).then_some(()));
}

#[test]
fn descriptors_are_flat_over_hundreds_of_restarts() {
    let home = Home::new();
    let file = ecosystem(
        &home,
        4,
        &json!({"max_restarts": 1_000_000, "restart_delay": 5}),
    );
    home.run(&["start", &file, "-s"]).ok();
    let daemon = home.daemon_pid().unwrap();
    let mut rpc = client(&home);
    let mut after = |count: u64| {
        eventually(&format!("{count} restarts"), || {
            (restarts(&list(&mut rpc)) > count).then_some(())
        });
        home.run(&["stop", "all", "-s"]).ok();
    };
    after(100);
    // What has just ended may hold some for a moment.
    let mut least = fds(daemon);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(10));
        least = least.min(fds(daemon));
    }
    home.run(&["start", "all", "-s"]).ok();
    after(500);
    eventually("no descriptor is left of 400 restarts", || {
        (fds(daemon) <= least + 3).then_some(())
    });
}

#[test]
fn a_budget_ends_a_storm_that_pm2s_count_would_not() {
    let home = Home::new();
    let keys = json!({"max_restarts": 1_000_000, "fornax": {"restart_budget": {"max": 5, "window": "10m"}}});
    let file = ecosystem(&home, 40, &keys);
    home.run(&["start", &file, "-s"]).ok();
    let mut rpc = client(&home);
    let all = eventually("all are given up", || {
        let all = list(&mut rpc);
        all.iter()
            .all(|item| item["pm2_env"]["status"] == "errored")
            .then_some(all)
    });
    assert_eq!(restarts(&all), 40 * 5);
}

#[test]
fn the_daemons_own_log_is_rotated() {
    let home = Home::new();
    std::fs::create_dir_all(home.root()).unwrap();
    let filler = format!("{}\n", "x".repeat(1023)).repeat(10 << 10);
    std::fs::write(home.root().join("pm2.log"), &filler).unwrap();
    home.run(&["ping"]).ok();
    eventually("the full one is put away", || {
        let old = std::fs::metadata(home.root().join("pm2.log.1")).ok()?;
        (old.len() >= filler.len() as u64).then_some(())
    });
    let app = home.app("app.sh", "#!/bin/sh\nexec sleep 1000\n");
    home.run(&["start", &app]).ok();
    let text = home.until_file_has("pm2.log", "App [app:0] online");
    assert!(text.len() < 100_000, "{}", text.len());
    // What the daemon's libraries say on standard output or error is there, too.
    let daemon = home.daemon_pid().unwrap();
    for fd in [1, 2] {
        let file = std::fs::read_link(format!("/proc/{daemon}/fd/{fd}")).unwrap();
        assert_eq!(file, home.root().join("pm2.log").canonicalize().unwrap());
    }
    assert!(Path::new(&app).exists());
}
