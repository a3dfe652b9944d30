//! Node apps under the real daemon: what our agent tells of them, and all that it must leave as it is.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::PathBuf;
use support::raw_rpc::{Bus, Raw};
use support::{Home, eventually};

fn no_node() -> bool {
    let absent = !support::pm2_client::node_is_here();
    if absent {
        eprintln!("NOT RUN: no node in PATH, so no Node app");
    }
    absent
}

/// Waits until an app's metrics hold this one; all of them.
fn metric(home: &Home, name: &str, metric: &str) -> Value {
    eventually(&format!("{name} tells `{metric}`"), || {
        let metrics = home.item(name)["pm2_env"]["axm_monitor"].clone();
        metrics.get(metric).is_some().then_some(metrics)
    })
}

const WEB: &str = "const http = require('http');
http.createServer((q, r) => setTimeout(() => r.end('x'), 3)).listen(0, '127.0.0.1', function () {
  const { port } = this.address();
  setInterval(() => http.get({ port, host: '127.0.0.1' }, (r) => r.resume()), 50);
});\n";

#[test]
fn an_app_tells_pm2s_metrics_without_knowing() {
    if no_node() {
        return;
    }
    let home = Home::new();
    let web = home.app("web.js", WEB);
    home.run(&["start", &web]).ok();
    home.run(&["start", &web, "--name", "plain", "--no-pmx"])
        .ok();
    home.run(&["start", &web, "--name", "workers", "-i", "1"])
        .ok();
    for name in ["web", "workers"] {
        let metrics = metric(&home, name, "HTTP Mean Latency");
        for (key, unit) in [
            ("Heap Size", json!("MiB")),
            ("Heap Usage", json!("%")),
            ("Used Heap Size", json!("MiB")),
            ("Active requests", Value::Null),
            ("Active handles", Value::Null),
            ("Event Loop Latency", json!("ms")),
            ("Event Loop Latency p95", json!("ms")),
            ("HTTP", json!("req/min")),
            ("HTTP Mean Latency", json!("ms")),
            ("HTTP P95 Latency", json!("ms")),
        ] {
            assert_eq!(metrics[key]["unit"], unit, "{name}: {key}");
            assert_eq!(metrics[key]["historic"], true, "{name}: {key}");
        }
        assert!(metrics["HTTP"]["value"].as_f64().unwrap() > 0.0);
        assert!(metrics["HTTP Mean Latency"]["value"].as_f64().unwrap() > 1.0);
    }
    let plain = home.item("plain")["pm2_env"].clone();
    assert_eq!(plain["axm_monitor"], json!({}));
    home.run(&["describe", "web"])
        .ok()
        .says("Code metrics value")
        .says("Event Loop Latency");
}

#[test]
fn an_exception_is_told_and_ends_the_app_as_node_ends_it() {
    if no_node() {
        return;
    }
    let home = Home::new();
    home.run(&["ping"]).ok();
    let mut bus = Bus::connect(&home.root());
    for (name, text, code) in [
        (
            "thrown",
            "setTimeout(() => { throw new TypeError('boom'); }, 100);",
            1,
        ),
        (
            "rejected",
            "setTimeout(() => Promise.reject(new TypeError('boom')), 100);",
            1,
        ),
        (
            "handled",
            "process.on('uncaughtException', () => process.exit(7)); setTimeout(() => { throw new TypeError('boom'); }, 100);",
            7,
        ),
    ] {
        let app = home.app(&format!("{name}.js"), &format!("{text}\n"));
        home.run(&["start", &app, "--no-autorestart"]).ok();
        let told = loop {
            let (topic, payload) = bus.next();
            if topic == "process:exception" {
                break payload;
            }
        };
        assert_eq!(told["process"]["name"], name);
        assert_eq!(told["data"]["message"], "boom");
        assert_eq!(told["data"]["name"], "TypeError");
        assert!(
            told["data"]["stack"]
                .as_str()
                .unwrap()
                .contains(&format!("{name}.js"))
        );
        let ended = home.until_status(name, "stopped");
        assert_eq!(ended["pm2_env"]["exit_code"], code, "{name}");
    }
}

/// A script with nothing to do ends; what an app starts of Node is none of ours; modules, workers and threads run.
#[test]
fn nothing_of_an_app_is_changed() {
    if no_node() {
        return;
    }
    let home = Home::new();
    home.app(
        "child.js",
        "process.send({ mine: process.execArgv.filter((arg) => /require|fornax/.test(arg)) }); setTimeout(() => process.disconnect(), 1200);\n",
    );
    let app = home.app(
        "all.mjs",
        "import { Worker } from 'worker_threads';
import { fork, execFileSync } from 'child_process';
const own = (argv) => argv.filter((arg) => /require|fornax/.test(arg));
const told = { argv: own(process.execArgv), options: process.env.NODE_OPTIONS ?? null, second: process.argv[1].endsWith('all.mjs') };
told.spawned = execFileSync(process.execPath, ['-e', 'console.log(process.execArgv.length)']).toString().trim();
const thread = new Worker(`require('worker_threads').parentPort.postMessage([process.execArgv.filter((arg) => /require/.test(arg)), !!process.connected])`, { eval: true });
thread.on('message', (message) => { told.thread = message; });
told.heard = [];
const child = fork(new URL('./child.js', import.meta.url));
child.on('message', (message) => told.heard.push(message));
process.on('exit', () => console.log(JSON.stringify(told)));\n",
    );
    home.run(&["start", &app, "--no-autorestart"]).ok();
    let ended = home.until_status("all", "stopped");
    assert_eq!(ended["pm2_env"]["exit_code"], 0);
    let told: Value = serde_json::from_str(home.read("logs/all-out.log").trim()).unwrap();
    assert_eq!(
        told,
        json!({"argv": [], "options": null, "second": true, "spawned": "2", "thread": [[], false], "heard": [{"mine": []}]})
    );
}

#[test]
fn a_stack_is_that_of_the_source_unless_it_is_not_wanted() {
    if no_node() {
        return;
    }
    let home = Home::new();
    home.app("src.ts", "\n\n\n\nthrow new Error('mapped');\n");
    home.app(
        "out.js.map",
        r#"{"version":3,"file":"out.js","sources":["src.ts"],"names":[],"mappings":"AAIA"}"#,
    );
    let app = home.app(
        "out.js",
        "throw new Error('mapped');\n//# sourceMappingURL=out.js.map\n",
    );
    home.run(&["start", &app, "--no-autorestart"]).ok();
    home.run(&[
        "start",
        &app,
        "--no-autorestart",
        "--name",
        "raw",
        "--disable-source-map-support",
    ])
    .ok();
    for (name, place) in [("out", "src.ts:5"), ("raw", "out.js:1")] {
        home.until_status(name, "stopped");
        home.until_file_has(&format!("logs/{name}-error.log"), place);
    }
}

#[test]
fn wait_ready_actions_and_messages_work_both_ways() {
    if no_node() {
        return;
    }
    let home = Home::new();
    let app = home.app(
        "talk.js",
        "process.send({ type: 'axm:action', data: { action_name: 'sum', action_type: 'custom', arity: 2 } });
process.on('message', (m) => {
  if (m === 'shutdown') return console.log('bye'), process.exit(0);
  if (m.msg === 'sum') process.send({ type: 'axm:reply', data: { action_name: 'sum', return: JSON.parse(m.opts).a + 1 } });
  if (m.topic === 'order') process.send({ type: 'served', data: m.data });
});
setTimeout(() => process.send('ready'), 150);\n",
    );
    home.run(&[
        "start",
        &app,
        "--wait-ready",
        "--listen-timeout",
        "30000",
        "--shutdown-with-message",
    ])
    .ok();
    assert_eq!(home.status("talk"), "online");
    let (mut bus, mut rpc) = (Bus::connect(&home.root()), Raw::connect(&home.root()));
    let mut heard = |topic: &str| loop {
        let (told, payload) = bus.next();
        if told == topic {
            return payload["data"].clone();
        }
    };
    rpc.result(
        "sendDataToProcessId",
        json!([{"id": 0, "type": "process:msg", "topic": "order", "data": {"n": 7}}]),
    );
    assert_eq!(heard("served"), json!({"n": 7}));
    rpc.result(
        "msgProcess",
        json!([{"name": "talk", "msg": "sum", "opts": "{\"a\":41}"}]),
    );
    assert_eq!(
        heard("axm:reply"),
        json!({"action_name": "sum", "return": 42})
    );
    home.run(&["stop", "talk"]).ok();
    home.until_file_has("logs/talk-out.log", "bye");
}

/// `@pm2/io` and `pmx` of npm, unmodified: `FORNAX_NODE_MODULES` names a folder that has them.
#[test]
fn apps_with_pm2_io_and_pmx_tell_their_own() {
    let modules = std::env::var_os("FORNAX_NODE_MODULES").map(PathBuf::from);
    let modules =
        modules.filter(|modules| modules.join("@pm2/io").is_dir() && modules.join("pmx").is_dir());
    let Some(modules) = modules.filter(|_| !no_node()) else {
        eprintln!("NOT RUN: no @pm2/io and pmx in FORNAX_NODE_MODULES");
        return;
    };
    let home = Home::new();
    std::os::unix::fs::symlink(&modules, home.apps().join("node_modules")).unwrap();
    let app = home.app(
        "io.js",
        "const io = require(process.env.MODULE);
const probes = io.metric ? io : (io.init(), io.probe());
probes.metric({ name: 'Users', value: () => 42 });
probes.counter({ name: 'Served' }).inc();
io.action('hello', (reply) => reply({ hi: 1 }));
io.action('fall', () => setTimeout(() => { throw new Error('fallen'); }));
setInterval(() => {}, 1000);\n",
    );
    for (name, module) in [("io", "@pm2/io"), ("old", "pmx")] {
        let words = ["start", &app, "--name", name, "--no-autorestart"];
        home.run_with(&words, &[("MODULE", module)]).ok();
        assert_eq!(metric(&home, name, "Users")["Users"]["value"], 42, "{name}");
        // Ours come beside them.
        metric(&home, name, "Heap Usage");
        let actions = home.item(name)["pm2_env"]["axm_actions"].clone();
        assert!(
            actions
                .as_array()
                .unwrap()
                .iter()
                .any(|action| action["action_name"] == "hello"),
            "{name}: {actions}"
        );
        let (mut bus, mut rpc) = (Bus::connect(&home.root()), Raw::connect(&home.root()));
        rpc.result("msgProcess", json!([{"name": name, "msg": "hello"}]));
        let reply = loop {
            let (topic, payload) = bus.next();
            if topic == "axm:reply" {
                break payload;
            }
        };
        assert_eq!(reply["data"]["return"], json!({"hi": 1}), "{name}");
        // What it tells of its end is told once, by it.
        rpc.result("msgProcess", json!([{"name": name, "msg": "fall"}]));
        let mut told = Vec::new();
        loop {
            let (topic, payload) = bus.next();
            if topic == "process:exception" {
                told.push(payload["data"]["message"].clone());
            } else if topic == "process:event" && payload["event"] == "exit" {
                break;
            }
        }
        assert_eq!(told, ["fallen"], "{name}");
    }
}

/// Every way in which a Python gets started: what it prints is there at once, though it goes on.
#[test]
fn what_python_prints_is_there_at_once_however_it_is_started() {
    let found = |program: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .any(|folder| folder.join(program).is_file())
    };
    if !found("python3") {
        eprintln!("NOT RUN: no python3 in PATH");
        return;
    }
    let home = Home::new();
    let script = home.app(
        "py.py",
        "#!/usr/bin/env python3\nimport time\nprint('printed')\ntime.sleep(1000)\n",
    );
    let launcher = home.app("launcher", "#!/bin/sh\npython3 py.py\n");
    let node = home.app(
        "node.js",
        "require('child_process').spawn('python3', ['py.py'], { stdio: 'inherit' });\n",
    );
    let mut ways: Vec<(&str, Vec<&str>)> = vec![
        ("file", vec![&script]),
        ("words", vec!["python3 py.py"]),
        ("interpreter", vec![&script, "--interpreter", "python3"]),
        ("itself", vec![&script, "--interpreter", "none"]),
        ("launcher", vec![&launcher]),
    ];
    if no_node() {
        eprintln!("NOT RUN: a Node app that starts a Python");
    } else {
        ways.push(("node", vec![&node]));
    }
    if found("uv") {
        ways.push(("uv", vec!["uv run --no-project python3 py.py"]));
    } else {
        eprintln!("NOT RUN: no uv in PATH");
    }
    for (name, words) in ways {
        let mut args = vec!["start"];
        args.extend(&words);
        args.extend(["--name", name]);
        home.run(&args).ok();
        home.until_file_has(&format!("logs/{name}-out.log"), "printed");
        home.run(&["delete", name]).ok();
    }
    // Whoever wants it otherwise is not overruled.
    home.run_with(
        &["start", "env", "--name", "own", "--no-autorestart"],
        &[("PYTHONUNBUFFERED", "")],
    )
    .ok();
    home.until_file_has("logs/own-out.log", "PYTHONUNBUFFERED=\n");
}
