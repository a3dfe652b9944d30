//! PM2's protocol on the sockets of the real daemon: every method, odd bytes, and PM2's own client.

#![allow(clippy::unwrap_used)]

mod support;

use fornax::cli::render::ProcRow;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;
use support::raw_rpc::Raw;
use support::{Home, eventually};

const LOOP: &str = "#!/bin/bash\nwhile read -r line; do echo \"got $line\"; done\nwhile true; do sleep 0.05; done\n";

/// What a table shows of an instance is in its brief form as in the whole, and what it does not show is not there.
fn assert_brief(brief: &Value, whole: &Value) {
    let row = |item: &Value| {
        let json = serde_json::to_vec(&json!([item])).unwrap();
        let mut row = ProcRow::list_from_json(&json).unwrap().remove(0);
        for path in [
            &mut row.exec_path,
            &mut row.out_log_path,
            &mut row.err_log_path,
            &mut row.pid_path,
        ] {
            *path = None;
        }
        // Figures may have been taken anew in between.
        (row.cpu, row.memory) = (0.0, 0);
        row
    };
    assert_eq!(row(brief), row(whole));
    for absent in ["env", "pm_exec_path", "fornax_state", "PATH"] {
        assert_eq!(brief["pm2_env"].get(absent), None, "{absent}");
    }
}

fn conf(home: &Home, name: &str) -> Value {
    let app = home.app("app.sh", LOOP);
    let file = |ending: &str| home.apps().join(format!("{name}{ending}"));
    json!({
        "name": name, "pm_exec_path": app, "pm_cwd": home.apps(), "exec_mode": "fork_mode", "exec_interpreter": "bash",
        "env": {"PATH": std::env::var("PATH").unwrap(), "PM2_HOME": home.root()}, "pm_out_log_path": file("-out.log"),
        "pm_err_log_path": file("-error.log"), "pm_pid_path": file(".pid"), "instances": 1, "merge_logs": true,
    })
}

#[test]
fn every_method_answers_in_pm2s_shape() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let mut rpc = Raw::connect(&home.root());
    assert_eq!(rpc.result("ping", json!([{}])), json!({"msg": "pong"}));
    assert_eq!(rpc.result("getVersion", json!([{}])), "7.0.4");
    let report = rpc.result("getReport", json!([{}]));
    for key in [
        "pm2_version",
        "node_version",
        "node_path",
        "argv0",
        "argv",
        "user",
        "uid",
        "gid",
        "env",
        "managed_apps",
        "started_at",
    ] {
        assert!(report.get(key).is_some(), "{key}");
    }
    assert_eq!(rpc.result("getMonitorData", json!([{}])), json!([]));
    assert!(rpc.result("getSystemData", json!([{}])).is_object());

    let made = rpc.result("prepare", json!([conf(&home, "one")]));
    let record = &made[0];
    assert_eq!(
        (&record["pm2_env"]["pm_id"], &record["pm2_env"]["status"]),
        (&json!(0), &json!("online"))
    );
    assert_eq!(record["process"]["pid"], record["pid"]);
    let list = rpc.result("getMonitorData", json!([{}]));
    assert!(list[0]["monit"]["cpu"].is_number());
    let brief = rpc.result("getMonitorData", json!([{"brief": true}]));
    assert_brief(&brief[0], &list[0]);

    assert_eq!(
        rpc.result("sendLineToStdin", json!([{"pm_id": 0, "line": "hi\n"}])),
        json!({"pm_id": 0, "line": "hi\n"})
    );
    eventually("the line has arrived", || {
        let text = std::fs::read_to_string(home.apps().join("one-out.log")).ok()?;
        text.contains("got hi").then_some(())
    });
    let packet = json!({"id": 0, "topic": "t", "data": {"a": 1}});
    assert_eq!(
        rpc.result("sendDataToProcessId", json!([packet])),
        json!({"success": true, "data": packet})
    );
    for (method, key) in [
        ("sendSignalToProcessId", "process_id"),
        ("sendSignalToProcessName", "process_name"),
    ] {
        let whom = if key == "process_id" {
            json!(0)
        } else {
            json!("one")
        };
        let all = rpc.result(method, json!([{key: whom, "signal": "SIGCONT"}]));
        assert_eq!(all[0]["pm_id"], 0, "{method}");
    }
    for (method, args) in [
        ("stopWatch", json!(["stopProcessId", 0])),
        ("startWatch", json!(["restartProcessId", {"id": 0}])),
        ("toggleWatch", json!(["restartProcessId", {"id": 0}])),
    ] {
        assert_eq!(rpc.result(method, args)["success"], true, "{method}");
    }
    let told = rpc.call(
        "notifyByProcessId",
        json!([{"id": 0, "action_name": "hello", "manually": true}]),
    );
    assert_eq!(told, json!({"args": []}));
    for method in ["monitor", "unmonitor"] {
        assert_eq!(
            rpc.result(method, json!([0])),
            json!({"success": true, "pm_id": 0})
        );
    }
    assert_eq!(rpc.result("reloadLogs", json!([{}])), json!({}));
    assert_eq!(
        rpc.result("duplicateProcessId", json!([0]))["pm2_env"]["pm_id"],
        1
    );
    for method in ["restartProcessId", "reloadProcessId", "softReloadProcessId"] {
        assert_eq!(
            rpc.result(method, json!([{"id": 0}]))["pm2_env"]["status"],
            "online",
            "{method}"
        );
    }
    assert_eq!(
        rpc.error("startProcessId", json!([0])),
        "process already online"
    );
    assert_eq!(
        rpc.result("stopProcessId", json!([0]))["pm2_env"]["status"],
        "stopped"
    );
    for method in ["profileCPU", "profileMEM"] {
        let file = home.root().join("x.profile");
        let words = rpc.error(method, json!([{"pwd": file, "timeout": 10}]));
        assert!(words.contains("no Node process"), "{words}");
    }
    assert_eq!(
        rpc.error("sendLineToStdin", json!([{"pm_id": 0, "line": "x"}])),
        "Process with ID <0> offline."
    );
    assert_eq!(
        rpc.result("startProcessId", json!([0]))["pm2_env"]["status"],
        "online"
    );
    assert_eq!(
        rpc.result("resetMetaProcessId", json!([0]))[0]["pm2_env"]["restart_time"],
        0
    );
    for id in [0, 1] {
        assert_eq!(
            rpc.result("deleteProcessId", json!([id]))["pm2_env"]["status"],
            "stopped"
        );
    }
    // These two never reply: the daemon refuses further starts, and then goes.
    rpc.send(&[
        br#"j:{"type":"call","method":"notifyKillPM2","args":[{}]}"#,
        b"s:1:1",
    ]);
    rpc.send(&[
        br#"j:{"type":"call","method":"killMe","args":[{}]}"#,
        b"s:1:2",
    ]);
    let mut rest = Vec::new();
    rpc.0.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn what_is_no_call_is_refused_in_axons_words() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let mut rpc = Raw::connect(&home.root());
    assert_eq!(
        rpc.error("nope", json!([])),
        "method \"nope\" does not exist"
    );
    assert_eq!(
        rpc.ask(&json!({"type": "call"}))["error"],
        ".method required"
    );
    assert_eq!(
        rpc.ask(&json!({"type": "call", "method": "ping"}))["error"],
        ".args required"
    );
    let methods = rpc.ask(&json!({"type": "methods"}));
    assert_eq!(
        methods["methods"]["ping"],
        json!({"name": "ping", "params": ["env", "cb"]})
    );
    // What kills PM2's daemon is an error here.
    assert_eq!(
        rpc.call("ping", json!([])),
        json!({"args": [{"msg": "pong"}]})
    );
    assert!(rpc.error("prepare", json!([{"name": "x"}])).contains("env"));
    rpc.send(&[b"j:{not json", b"raw-id"]);
    let (body, id) = rpc.receive();
    assert!(body["error"].is_string());
    assert_eq!(id, b"raw-id");
}

#[test]
fn garbage_half_frames_and_giants_cost_their_own_connection_only() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let mut steady = Raw::connect(&home.root());
    let mut half = Raw::connect(&home.root());
    half.0.write_all(&[0x12, 0, 0, 0, 50, b'j']).unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0xff; 4096],
        &[0x12, 0xff, 0xff, 0xff, 0xff],
        &[0; 100],
    ] {
        let mut odd = Raw::connect(&home.root());
        // It may be closed before all is written.
        let _ = odd.0.write_all(bytes);
        let _ = odd.0.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = odd.0.read_to_end(&mut rest);
        assert_eq!(steady.result("ping", json!([{}]))["msg"], "pong");
    }
    drop(half);
    let pid = home.daemon_pid();
    // Many calls in flight on one connection, each answered with its own id.
    for number in 0..200 {
        steady.send(&[
            br#"j:{"type":"call","method":"getVersion","args":[{}]}"#,
            format!("s:7:{number}").as_bytes(),
        ]);
    }
    let mut ids: Vec<Vec<u8>> = (0..200).map(|_| steady.receive().1).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), home.daemon_pid()), (200, pid));
}

#[test]
fn the_bus_tells_events_and_lines_as_they_come() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let mut bus = fornax::pm2::client::BusClient::connect(&home.root().join("pub.sock")).unwrap();
    bus.set_timeout(Some(Duration::from_secs(30))).unwrap();
    let app = home.app("talk.sh", "#!/bin/bash\nsleep 0.2\necho hello\nsleep 100\n");
    home.run(&["start", &app]).ok();
    let (mut online, mut line) = (false, false);
    while !(online && line) {
        let (topic, payload) = bus.next_event().unwrap();
        let payload: Value = serde_json::from_str(&payload).unwrap();
        online |= topic == "process:event"
            && payload["event"] == "online"
            && payload["process"]["name"] == "talk"
            && payload["process"].get("env").is_none();
        line |=
            topic == "log:out" && payload["data"] == "hello\n" && payload["process"]["pm_id"] == 0;
    }
}

/// PM2's own client, if one is there: `FORNAX_PM2_MODULE`, or beside what `FORNAX_PM2` or `FORNAX_NODE_MODULES` names.
fn pm2_module() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FORNAX_PM2_MODULE") {
        return Some(path.into());
    }
    let program = support::pm2_client::find()?;
    Some(program.parent()?.parent()?.to_owned())
}

#[test]
fn the_client_of_pm2_lists_starts_and_stops() {
    let Some(module) = pm2_module().filter(|_| support::pm2_client::node_is_here()) else {
        eprintln!("NOT RUN: no node, or no pm2 module in FORNAX_PM2_MODULE");
        return;
    };
    let home = Home::new();
    home.run(&["ping"]).ok();
    let app = home.app("a.js", "setInterval(() => {}, 1000);\n");
    let script = home.app(
        "client.js",
        r"
const pm2 = require(process.argv[2]);
const call = (name, ...args) => new Promise((done, fail) => pm2[name](...args, (error, value) => error ? fail(error) : done(value)));
(async () => {
  await call('connect');
  const out = {};
  out.empty = (await call('list')).length;
  await call('start', {script: process.argv[3], name: 'js'});
  out.listed = (await call('list')).map(item => [item.name, item.pm2_env.status]);
  await call('restart', 'js');
  out.restarts = (await call('describe', 'js'))[0].pm2_env.restart_time;
  await call('stop', 'js');
  out.stopped = (await call('list'))[0].pm2_env.status;
  await call('delete', 'js');
  out.left = (await call('list')).length;
  console.log('RESULT ' + JSON.stringify(out));
  pm2.disconnect();
  process.exit(0);
})().catch(error => { console.error(error); process.exit(1); });
",
    );
    let daemon = home.daemon_pid();
    let args = [script.as_str(), module.to_str().unwrap(), &app];
    let ran = home.run_as("node".as_ref(), &args).ok();
    let result = ran.out.split("RESULT ").nth(1).unwrap();
    let result: Value = serde_json::from_str(result.lines().next().unwrap()).unwrap();
    let want = json!({"empty": 0, "listed": [["js", "online"]], "restarts": 1, "stopped": "stopped", "left": 0});
    assert_eq!(result, want);
    assert_eq!(home.daemon_pid(), daemon, "it talked to another daemon");
}

/// A daemon that is stopped by a signal still accepts connections, by its kernel's queue.
#[test]
fn no_command_waits_for_ever_for_a_daemon_that_is_stopped() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let daemon = home.daemon_pid().unwrap();
    support::home::kill(daemon, 19);
    let listed = home.run(&["ls"]);
    let killed = home.run(&["kill"]);
    support::home::kill(daemon, 18);
    for ran in [listed, killed] {
        ran.fails(&format!("kill -CONT {daemon}"));
    }
    home.run(&["ls"]).ok();
}
