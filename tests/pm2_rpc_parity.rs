//! The same calls to PM2's daemon and to ours: results, errors and events must be the same. What PM2 7.0.4 gives is recorded in
//! `fixtures/pm2-rpc`, so that ours is held to it where PM2 is not installed; where it is, the record is held to it.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::Home;
use support::raw_rpc::{Bus, Raw};

/// What is called, in this order. Instance 0 stays to the end: its events mark where those of a call end.
fn scenario(apps: &Path, logs: &Path) -> Vec<(&'static str, Value)> {
    let sleeper = apps.join("sleeper.sh");
    std::fs::write(&sleeper, "exec sleep 1000\n").unwrap();
    let crasher = apps.join("crasher.sh");
    std::fs::write(&crasher, "sleep 0.5; exit 3\n").unwrap();
    let conf = |name: &str, script: &Path, more: Value| {
        let file = |ending: &str| logs.join(format!("{name}{ending}"));
        let mut conf = json!({
            "name": name, "pm_exec_path": script, "pm_cwd": apps, "exec_mode": "fork_mode", "exec_interpreter": "bash",
            "env": {"PATH": std::env::var("PATH").unwrap()}, "pm_out_log_path": file("-out.log"),
            "pm_err_log_path": file("-error.log"), "pm_pid_path": file(".pid"), "instances": 1, "merge_logs": true,
            "autostart": true, "autorestart": true, "namespace": "default", "watch": false, "vizion": false,
        });
        conf.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!([conf])
    };
    let mut calls = vec![
        ("prepare", conf("fence", &sleeper, json!({}))),
        ("prepare", conf("one", &sleeper, json!({}))),
    ];
    // Every value that an id might be, to every method that takes one.
    for odd in [
        json!("a"),
        json!("99"),
        json!(99),
        json!({}),
        json!({"id": 99}),
        json!(-1),
        json!(1.5),
        json!(true),
        json!([]),
    ] {
        for method in [
            "startProcessId",
            "stopProcessId",
            "restartProcessId",
            "reloadProcessId",
            "softReloadProcessId",
            "deleteProcessId",
            "duplicateProcessId",
            "resetMetaProcessId",
            "monitor",
            "unmonitor",
        ] {
            calls.push((method, json!([odd])));
        }
    }
    calls.extend([
        ("startProcessId", json!([{"id": 1}])),
        ("startProcessId", json!([1])),
        ("stopProcessId", json!([1])),
        ("stopProcessId", json!([1])),
        ("stopProcessId", json!([{"id": 1}])),
        ("sendLineToStdin", json!([{"pm_id": 1, "line": "x"}])),
        ("sendDataToProcessId", json!([{"id": 1, "data": 1, "topic": "x"}])),
        ("msgProcess", json!([{"id": 1, "msg": "x"}])),
        ("notifyByProcessId", json!([{"id": 1, "action_name": "stop", "manually": true}])),
        ("startProcessId", json!(["1"])),
        ("stopProcessId", json!([{"id": "1"}])),
        ("restartProcessId", json!([{"id": 1, "env": {"A": "1"}}])),
        ("restartProcessId", json!([{"id": 1, "env": {"A": "2", "current_conf": {"x_key": "v"}}}])),
        ("reloadProcessId", json!([{"id": 1, "env": {}}])),
        ("softReloadProcessId", json!([{"id": 1}])),
        ("sendLineToStdin", json!([{}])),
        ("sendLineToStdin", json!([{"pm_id": 1}])),
        ("sendLineToStdin", json!([{"line": "x"}])),
        ("sendLineToStdin", json!([{"pm_id": 99, "line": "x"}])),
        ("sendLineToStdin", json!([{"pm_id": 1, "line": "hi\n"}])),
        ("sendLineToStdin", json!([{"pm_id": "1", "line": "hi\n"}])),
        ("sendDataToProcessId", json!([{}])),
        ("sendDataToProcessId", json!([{"id": 1}])),
        ("sendDataToProcessId", json!([{"id": 1, "data": {}}])),
        ("sendDataToProcessId", json!([{"id": 1, "topic": "x"}])),
        ("sendDataToProcessId", json!([{"id": 99, "data": 1, "topic": "x"}])),
        ("sendDataToProcessId", json!([{"id": 1, "data": {"a": 1}, "topic": "x"}])),
        ("sendDataToProcessId", json!([{"id": 1, "data": 0, "topic": "x"}])),
        ("sendDataToProcessId", json!([{"id": "1", "data": "", "topic": true, "type": "process:msg"}])),
        ("msgProcess", json!([{}])),
        ("msgProcess", json!([{"msg": "x"}])),
        ("msgProcess", json!([{"id": 1}])),
        ("msgProcess", json!([{"id": 1, "msg": "x"}])),
        ("msgProcess", json!([{"id": 99, "msg": "x"}])),
        ("msgProcess", json!([{"name": "one", "msg": "x"}])),
        ("msgProcess", json!([{"name": "nobody", "msg": "x"}])),
        ("msgProcess", json!([{"name": "all", "msg": "x"}])),
        ("sendSignalToProcessId", json!([{"process_id": 1, "signal": "SIGCONT"}])),
        ("sendSignalToProcessId", json!([{"process_id": 1, "signal": 18}])),
        ("sendSignalToProcessId", json!([{"process_id": 1, "signal": "NOPE"}])),
        ("sendSignalToProcessId", json!([{"process_id": 99, "signal": "SIGCONT"}])),
        ("sendSignalToProcessName", json!([{"process_name": "one", "signal": "SIGCONT"}])),
        ("sendSignalToProcessName", json!([{"process_name": "one", "signal": 18}])),
        ("sendSignalToProcessName", json!([{"process_name": "one", "signal": "NOPE"}])),
        ("sendSignalToProcessName", json!([{"process_name": "nobody", "signal": "SIGCONT"}])),
        ("sendSignalToProcessName", json!([{"process_name": "all", "signal": "SIGCONT"}])),
        ("stopWatch", json!(["stopProcessId", 1])),
        ("stopWatch", json!(["stopProcessId", {"id": 1}])),
        ("stopWatch", json!(["deleteAll", {}])),
        ("stopWatch", json!(["stopProcessId", 99])),
        ("startWatch", json!(["restartProcessId", {"id": 1}])),
        ("startWatch", json!(["restartProcessId", {"id": 99}])),
        ("toggleWatch", json!(["restartProcessId", {"id": 1}])),
        ("notifyByProcessId", json!([{}])),
        ("notifyByProcessId", json!([{"id": 99, "action_name": "x"}])),
        ("notifyByProcessId", json!([{"id": 1, "action_name": "x", "manually": true}])),
        ("notifyByProcessId", json!([{"id": 1, "action_name": "x"}])),
        ("monitor", json!([1])),
        ("unmonitor", json!(["1"])),
        ("reloadLogs", json!([{}])),
        ("ping", json!([{}])),
        ("getVersion", json!([{}])),
        ("prepare", conf("two", &sleeper, json!({"instances": 2, "increment_var": "PORT", "env": {"PORT": 3000, "PATH": std::env::var("PATH").unwrap()}}))),
        ("prepare", conf("later", &sleeper, json!({"autostart": false}))),
        ("prepare", conf("ready", &sleeper, json!({"wait_ready": true, "listen_timeout": 300}))),
        ("prepare", conf("crash", &crasher, json!({"max_restarts": 2}))),
        ("until", json!("restart overlimit")),
        ("duplicateProcessId", json!([1])),
        ("resetMetaProcessId", json!([1])),
        ("deleteProcessId", json!([1])),
        ("deleteProcessId", json!([1])),
        ("getMonitorData", json!([{}])),
    ]);
    calls
}

/// The same for apps that talk.
fn node_scenario(apps: &Path, logs: &Path) -> Vec<(&'static str, Value)> {
    let talker = apps.join("talker.js");
    std::fs::write(
        &talker,
        "process.on('message', (m) => {
  if (m === 'hello' || (m && m.msg === 'hello')) process.send({type: 'axm:reply', data: {return: m, action_name: 'hello'}});
  else process.send({type: 'heard', data: {m}});
});
process.send({type: 'axm:action', data: {action_name: 'hello', action_type: 'custom', arity: 0}});
process.send({type: 'axm:monitor', data: {Mine: {value: 1, historic: true}}});
process.send({type: 'axm:option:configuration', data: {foo: 1}});
for (const m of ['text', 42, {a: 1}, {type: 't:falsy', data: 0}, {type: 't:x', data: {y: 2}}, {type: 'process:exception', data: {message: 'boom'}}]) process.send(m);
setTimeout(() => process.send({type: 'last', data: 1}), 100);\n",
    )
    .unwrap();
    let web = apps.join("web.js");
    std::fs::write(
        &web,
        "require('http').createServer((q, r) => r.end('x')).listen(0, '127.0.0.1');\n",
    )
    .unwrap();
    let conf = |name: &str, script: &Path, more: Value| {
        let file = |ending: &str| logs.join(format!("{name}{ending}"));
        let mut conf = json!({
            "name": name, "pm_exec_path": script, "pm_cwd": apps, "exec_mode": "fork_mode", "exec_interpreter": "node",
            "env": {"PATH": std::env::var("PATH").unwrap()}, "pm_out_log_path": file("-out.log"), "kill_timeout": 20_000,
            "pm_err_log_path": file("-error.log"), "pm_pid_path": file(".pid"), "instances": 1, "merge_logs": true, "pmx": false,
            "autostart": true, "autorestart": true, "namespace": "default", "watch": false, "vizion": false, "listen_timeout": 20_000,
        });
        conf.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!([conf])
    };
    vec![
        ("prepare", conf("fence", &web, json!({}))),
        ("prepare", conf("talk", &talker, json!({}))),
        ("until", json!("last")),
        ("msgProcess", json!([{"id": 1, "msg": "hello"}])),
        ("until", json!("axm:reply")),
        (
            "msgProcess",
            json!([{"id": "1", "msg": "hello", "opts": {"p": 1}}]),
        ),
        ("until", json!("axm:reply")),
        ("msgProcess", json!([{"name": "talk", "msg": "hello"}])),
        ("until", json!("axm:reply")),
        ("msgProcess", json!([{"name": "all", "msg": "hello"}])),
        ("until", json!("axm:reply")),
        ("msgProcess", json!([{"id": 1, "msg": "nope"}])),
        ("msgProcess", json!([{"name": "talk", "msg": "nope"}])),
        (
            "sendDataToProcessId",
            json!([{"id": 1, "type": "process:msg", "data": {"q": 1}, "topic": true}]),
        ),
        ("until", json!("heard")),
        ("restartProcessId", json!([{"id": 1, "env": {}}])),
        ("until", json!("last")),
        ("stopProcessId", json!([1])),
        ("msgProcess", json!([{"id": 1, "msg": "hello"}])),
        (
            "prepare",
            conf(
                "web",
                &web,
                json!({"exec_mode": "cluster_mode", "instances": 2}),
            ),
        ),
        ("sendLineToStdin", json!([{"pm_id": 2, "line": "x"}])),
        (
            "sendDataToProcessId",
            json!([{"id": 2, "data": {"z": 1}, "topic": "x"}]),
        ),
        ("restartProcessId", json!([{"id": 3, "env": {}}])),
        ("stopProcessId", json!([3])),
        ("deleteProcessId", json!([3])),
    ]
}

/// What matters of an answer or an event: no times, no pids, no environments; a process by how it stands.
fn plain(value: &Value, root: &str) -> Value {
    match value {
        Value::Object(object) if object.contains_key("pm2_env") => {
            let env = &object["pm2_env"];
            let pid = object
                .get("pid")
                .or_else(|| object.get("process")?.get("pid"));
            json!({"is": env["status"], "id": env["pm_id"], "restarts": env["restart_time"], "runs": pid.and_then(Value::as_u64).is_some_and(|pid| pid > 0)})
        }
        Value::Object(object) => object
            .iter()
            .filter(|(key, _)| !["at", "stack"].contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), plain(value, root)))
            .collect(),
        Value::Array(items) => items.iter().map(|item| plain(item, root)).collect(),
        Value::String(text) => Value::from(text.replace(root, "<ROOT>")),
        other => other.clone(),
    }
}

/// Carries a scenario out on the daemon of this home.
fn transcript(home: &Path, calls: Vec<(&'static str, Value)>) -> Vec<Value> {
    let root = home.parent().unwrap().to_str().unwrap().to_owned();
    let mut bus = Bus::connect(home);
    let mut rpc = Raw::connect(home);
    let mut lines = Vec::new();
    let mut calls = calls.into_iter().enumerate().peekable();
    while let Some((number, (method, args))) = calls.next() {
        let marker = format!("mark {number}");
        // What is awaited may come before the mark or after it.
        let mut awaited = calls
            .next_if(|(_, (method, _))| *method == "until")
            .map(|(_, (_, what))| what);
        let mut reply = rpc.call(method, args.clone());
        // The words of the two daemons' stacks are their own business.
        reply.as_object_mut().unwrap().remove("stack");
        let mark = json!([{"id": 0, "action_name": marker, "manually": false}]);
        rpc.call("notifyByProcessId", mark);
        let args = if method == "prepare" {
            args[0]["name"].clone()
        } else {
            args
        };
        let (mut events, mut marked) = (Vec::new(), false);
        while !marked || awaited.is_some() {
            let (topic, payload) = bus.next();
            let mut what = Value::from(topic.as_str());
            if topic == "process:event" {
                what = payload["event"].clone();
                if what == marker.as_str() {
                    marked = true;
                    continue;
                }
                let of = &payload["process"];
                events.push(json!([
                    what,
                    payload["manually"],
                    of["pm_id"],
                    of["status"]
                ]));
            } else if !topic.starts_with("log:") {
                events.push(json!([topic, plain(&payload, &root)]));
            }
            if awaited.as_ref() == Some(&what) {
                awaited = None;
            }
        }
        lines.push(
            json!({"call": method, "args": args, "reply": plain(&reply, &root), "events": events}),
        );
    }
    lines
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/pm2-rpc")
        .join(name)
}

fn text(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

type Scenario = fn(&Path, &Path) -> Vec<(&'static str, Value)>;

fn compare(name: &str, ours: &[Value]) {
    let recorded = std::fs::read_to_string(fixture(name)).unwrap();
    let recorded: Vec<Value> = recorded
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (ours, pm2) in ours.iter().zip(&recorded) {
        assert_eq!(
            serde_json::to_string_pretty(&sorted(ours)).unwrap(),
            serde_json::to_string_pretty(&sorted(pm2)).unwrap()
        );
    }
    assert_eq!(ours.len(), recorded.len());
}

/// Instances are started side by side, where PM2 starts one after the other: the order of each one's events is compared. Messages
/// of an app that came together are sent by PM2 in two turns, raw ones first; their order says nothing.
fn sorted(line: &Value) -> Value {
    let mut line = line.clone();
    let events = line["events"].as_array_mut().unwrap();
    let (mut messages, mut rest): (Vec<Value>, Vec<Value>) = events
        .drain(..)
        .partition(|event| event.as_array().unwrap().len() == 2);
    rest.sort_by_key(|event| event[2].to_string());
    messages.sort_by_key(Value::to_string);
    rest.append(&mut messages);
    line["events"] = rest.into();
    line
}

fn ours(name: &str, scenario: Scenario) {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let logs = home.root().join("logs");
    compare(
        name,
        &transcript(&home.root(), scenario(&home.apps(), &logs)),
    );
}

#[test]
fn every_call_is_answered_and_told_as_pm2_does_it() {
    ours("calls.jsonl", scenario);
}

#[test]
fn apps_that_talk_are_heard_as_pm2_hears_them() {
    if !support::pm2_client::node_is_here() {
        eprintln!("NOT RUN: no node in PATH, so no app that talks");
        return;
    }
    ours("node.jsonl", node_scenario);
}

/// Every method of PM2 7.0.4 is called somewhere here or in `protocol.rs`, and `methods` tells them as PM2 does.
#[test]
fn no_method_of_pm2_is_missing() {
    let home = Home::new();
    home.run(&["ping"]).ok();
    let told = Raw::connect(&home.root()).ask(&json!({"type": "methods"}));
    let recorded: Value =
        serde_json::from_str(&std::fs::read_to_string(fixture("methods.json")).unwrap()).unwrap();
    let recorded = recorded["methods"].as_object().unwrap();
    assert_eq!(recorded.len(), 30);
    for (name, params) in recorded {
        assert_eq!(&told["methods"][name], params, "{name}");
    }
    let more: Vec<&String> = told["methods"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| !recorded.contains_key(*name))
        .collect();
    assert!(
        more.iter().all(|name| name.starts_with("fornax")),
        "{more:?}"
    );
    let tests = [
        include_str!("pm2_rpc_parity.rs"),
        include_str!("protocol.rs"),
    ]
    .concat();
    for name in recorded.keys() {
        assert!(
            tests.contains(&format!("\"{name}\"")),
            "{name} is called by no test"
        );
    }
}

/// PM2's own daemon in a home of its own, and its end.
struct RealPm2 {
    pm2: PathBuf,
    dir: tempfile::TempDir,
}

impl RealPm2 {
    fn start(pm2: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("pm").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("apps")).unwrap();
        let real = Self { pm2, dir };
        real.run("ping");
        real
    }

    fn run(&self, word: &str) {
        let done = std::process::Command::new(&self.pm2)
            .arg(word)
            .current_dir(self.dir.path())
            .env("PM2_HOME", self.home())
            .env("PM2_DISABLE_VERSION_CHECK", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(done.unwrap().success(), "pm2 {word}");
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("pm2")
    }
}

impl Drop for RealPm2 {
    fn drop(&mut self) {
        self.run("kill");
    }
}

/// `FORNAX_RECORD=1` writes what PM2 does into the fixtures.
#[test]
fn what_is_recorded_is_what_pm2_does() {
    let Some(pm2) = support::pm2_client::find().filter(|_| support::pm2_client::node_is_here())
    else {
        eprintln!(
            "NOT RUN: no node, or no pm2 7.0.4 in FORNAX_PM2; the record of it is not compared with it"
        );
        return;
    };
    let scenarios: [(&str, Scenario); 2] =
        [("calls.jsonl", scenario), ("node.jsonl", node_scenario)];
    for (name, scenario) in scenarios {
        let real = RealPm2::start(pm2.clone());
        let logs = real.home().join("logs");
        let lines = transcript(&real.home(), scenario(&real.dir.path().join("apps"), &logs));
        if std::env::var_os("FORNAX_RECORD").is_some() {
            std::fs::write(fixture(name), text(&lines)).unwrap();
            let methods = Raw::connect(&real.home()).ask(&json!({"type": "methods"}));
            std::fs::write(fixture("methods.json"), format!("{methods}\n")).unwrap();
        }
        compare(name, &lines);
    }
}
