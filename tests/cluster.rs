//! Node's cluster under the real daemon: real workers, real connections, no failed request.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::io::Read;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use support::home::{free_ports, kill, lives};
use support::http_load::{Load, get};
use support::{Home, eventually};

/// Answers with its pid.
const SERVER: &str =
    "require('http').createServer((request, response) => response.end(String(process.pid)))
  .listen(process.env.PORT, () => console.log('listens'));\n";

/// A test of Node's cluster is none without Node: said aloud, and not run.
fn no_node() -> bool {
    let absent = !support::pm2_client::node_is_here();
    if absent {
        eprintln!("NOT RUN: no node in PATH, so no cluster worker");
    }
    absent
}

/// A home with an app in cluster mode that answers with its pid, and the port.
fn serving(instances: u32, more: Value) -> (Home, u16) {
    let (home, port) = (Home::new(), free_ports(1));
    let script = home.app("web.js", SERVER);
    // However busy the machine is: nobody is signalled before it has finished.
    let mut app = json!({"name": "web", "script": script, "instances": instances, "exec_mode": "cluster", "kill_timeout": 30_000, "env": {"PORT": port.to_string()}});
    app.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    start(&home, &app);
    answered(port);
    (home, port)
}

fn start(home: &Home, app: &Value) {
    let file = home.app("eco.config.json", &json!({"apps": [app]}).to_string());
    home.run(&["start", &file]).ok();
}

fn answered(port: u16) -> String {
    eventually("a worker answers", || get(port).ok())
}

/// The pids of an app, by id.
fn pids(home: &Home, name: &str) -> Vec<u32> {
    let of = |item: &Value| (item["name"] == name).then(|| item["pid"].as_u64().unwrap() as u32);
    home.list().iter().filter_map(of).collect()
}

/// Waits until the log of each of these instances says so.
fn until_logged(home: &Home, name: &str, ids: &[u32], words: &str) {
    for id in ids {
        home.until_file_has(&format!("logs/{name}-out-{id}.log"), words);
    }
}

#[test]
fn a_busy_worker_is_scheduled_in_batches_until_it_is_calm() {
    if no_node() {
        return;
    }
    let (home, port) = (Home::new(), free_ports(1));
    // A path is how long it is to compute.
    let script = home.app(
        "busy.js",
        "require('http').createServer((request, response) => {
  const until = Date.now() + Number(request.url.slice(1));
  while (Date.now() < until);
  response.end(String(process.pid));
}).listen(process.env.PORT);\n",
    );
    start(
        &home,
        &json!({"name": "web", "script": script, "instances": 2, "exec_mode": "cluster", "env": {"PORT": port.to_string()}}),
    );
    answered(port);
    // policy (proc(5)): 0 as usual, 3 SCHED_BATCH.
    let policy = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after = stat.rsplit(')').next().unwrap();
        after.split_whitespace().nth(38).unwrap().to_owned()
    };
    assert!(pids(&home, "web").into_iter().all(|pid| policy(pid) == "0"));
    let busy = eventually("a worker is busy", || {
        let (_, body) = support::home::get(&format!("127.0.0.1:{port}"), "/3000");
        body.parse::<u32>().ok().filter(|pid| policy(*pid) == "3")
    });
    eventually("it is calm", || (policy(busy) == "0").then_some(()));
}

#[test]
fn a_worker_and_its_children_see_nothing_of_what_it_loads_first() {
    if no_node() {
        return;
    }
    let home = Home::new();
    let script = home.app(
        "seen.js",
        "const { Worker } = require('worker_threads');
const told = JSON.stringify(process.execArgv);
if (process.argv[2] === 'child') { console.log('child', told); process.exit(); }
console.log('worker', told);
new Worker(`console.log('thread', JSON.stringify(process.execArgv))`, { eval: true });
require('child_process').fork(__filename, ['child'], { env: {} });
setInterval(() => {}, 1000);\n",
    );
    start(
        &home,
        &json!({"name": "seen", "script": script, "instances": 1, "exec_mode": "cluster"}),
    );
    let log = "logs/seen-out-0.log";
    for who in ["worker", "thread", "child"] {
        home.until_file_has(log, &format!("{who} []"));
    }
}

#[test]
fn connections_go_to_the_workers_in_turn() {
    if no_node() {
        return;
    }
    let (home, port) = serving(2, json!({}));
    until_logged(&home, "web", &[0, 1], "listens");
    // Both are free again once they have answered to the last connection.
    let answers: Vec<String> = (0..10).map(|_| get(port).unwrap()).collect();
    for pid in pids(&home, "web") {
        let count = answers
            .iter()
            .filter(|body| **body == pid.to_string())
            .count();
        assert!((3..=7).contains(&count), "{pid} in {answers:?}");
    }
    let indexes: Vec<Value> = home
        .list()
        .iter()
        .map(|item| item["pm2_env"]["NODE_APP_INSTANCE"].clone())
        .collect();
    assert_eq!(indexes, [0, 1]);
}

#[test]
fn five_reloads_under_load_fail_no_request() {
    if no_node() {
        return;
    }
    for sched in ["round-robin", "shared"] {
        let (home, port) = serving(2, json!({"fornax": {"sched": sched}}));
        let before = pids(&home, "web");
        let load = Load::start(port, 4, 2);
        for _ in 0..5 {
            home.run(&["reload", "web"]).ok();
        }
        let seen = load.finish();
        assert_eq!(
            seen.failed,
            Vec::<String>::new(),
            "{sched}, of {}",
            seen.answered
        );
        assert!(seen.answered > 100 && seen.bodies.len() > 2, "{seen:?}");
        assert!(before.iter().all(|pid| !lives(*pid)), "{before:?}");
        for item in home.list() {
            assert_eq!(item["pm2_env"]["restart_time"], 5, "{sched}");
        }
    }
}

#[test]
fn slow_answers_are_finished_before_a_worker_leaves() {
    if no_node() {
        return;
    }
    let (home, port) = (Home::new(), free_ports(1));
    let script = home.app(
        "web.js",
        "require('http').createServer((q, r) => setTimeout(() => r.end(String(process.pid)), 300)).listen(process.env.PORT);\n",
    );
    start(
        &home,
        &json!({"name": "web", "script": script, "exec_mode": "cluster", "kill_timeout": 30_000, "env": {"PORT": port.to_string()}}),
    );
    answered(port);
    let load = Load::start(port, 6, 0);
    for _ in 0..2 {
        home.run(&["reload", "web"]).ok();
    }
    let seen = load.finish();
    assert_eq!(seen.failed, Vec::<String>::new());
}

#[test]
fn workers_come_and_go_while_others_serve() {
    if no_node() {
        return;
    }
    let (home, port) = serving(2, json!({"listen_timeout": 30_000}));
    let load = Load::start(port, 3, 1);
    home.run(&["scale", "web", "4"]).ok();
    // The one that is left may not listen yet.
    for count in ["1", "3"] {
        home.run(&["scale", "web", count]).ok();
    }
    let seen = load.finish();
    assert_eq!(seen.failed, Vec::<String>::new());
    assert_eq!(pids(&home, "web").len(), 3);
}

/// Listens at once, but once there is a file `slow` in its folder only when there is a file `go`.
const LATE: &str = "console.log('begins');
const fs = require('fs'), server = require('http').createServer((q, r) => r.end(String(process.pid)));
const listen = () => server.listen(process.env.PORT, () => console.log('listens'));
if (!fs.existsSync('slow')) listen();
else { const timer = setInterval(() => { if (fs.existsSync('go')) { clearInterval(timer); listen(); } }, 20); }\n";

/// One worker of [`LATE`] that listens; whoever comes after it waits for `go`.
fn late() -> (Home, u16, u32) {
    let (home, port) = (Home::new(), free_ports(1));
    let script = home.app("late.js", LATE);
    start(
        &home,
        &json!({"name": "web", "script": script, "cwd": home.apps(), "exec_mode": "cluster", "instances": 1,
                "kill_timeout": 30_000, "listen_timeout": 60_000, "env": {"PORT": port.to_string()}}),
    );
    answered(port);
    std::fs::write(home.apps().join("slow"), "").unwrap();
    let pid = pids(&home, "web")[0];
    (home, port, pid)
}

fn restarts(home: &Home) -> u64 {
    home.item("web")["pm2_env"]["restart_time"]
        .as_u64()
        .unwrap()
}

#[test]
fn the_only_worker_that_listens_serves_until_another_does() {
    if no_node() {
        return;
    }
    let (home, port, first) = late();
    let load = Load::start(port, 1, 1);
    home.run(&["scale", "web", "2"]).ok();
    home.until_file_has("logs/web-out-1.log", "begins");
    std::thread::scope(|scope| {
        let scaled = scope.spawn(|| home.run(&["scale", "web", "1"]));
        eventually("the first is to leave", || {
            let text = home.read("pm2.log");
            text.contains("leaves once another").then_some(())
        });
        for _ in 0..20 {
            assert_eq!(answered(port), first.to_string());
        }
        std::fs::write(home.apps().join("go"), "").unwrap();
        scaled.join().unwrap().ok();
    });
    assert!(!lives(first));
    let seen = load.finish();
    assert_eq!(seen.failed, Vec::<String>::new());
    assert_eq!(pids(&home, "web"), [answered(port).parse::<u32>().unwrap()]);
}

#[test]
fn a_reload_goes_on_under_another_daemon() {
    if no_node() {
        return;
    }
    let (home, port, first) = late();
    let load = Load::start(port, 2, 0);
    eventually("every client has a worker", || {
        (load.begun() == 2).then_some(())
    });
    let daemon = home.daemon_pid().unwrap();
    std::thread::scope(|scope| {
        // Whoever asked loses its connection.
        scope.spawn(|| home.run(&["reload", "web"]));
        eventually("the successor begins", || {
            (home.read("logs/web-out-0.log").matches("begins").count() == 2).then_some(())
        });
        kill(daemon, 9);
        eventually("another daemon", || {
            home.daemon_pid().filter(|pid| *pid != daemon)
        });
    });
    assert!(lives(first));
    assert_eq!(answered(port), first.to_string(), "it serves on");
    let second = pids(&home, "web")[0];
    assert!(second != first && lives(second));
    std::fs::write(home.apps().join("go"), "").unwrap();
    eventually("the first has left", || (!lives(first)).then_some(()));
    assert_eq!(answered(port), second.to_string());
    let seen = load.finish();
    assert_eq!(seen.failed, Vec::<String>::new());
    assert_eq!((pids(&home, "web"), restarts(&home)), (vec![second], 1));
    // What is reloaded can be reloaded again, and the end of it is the end of all.
    home.run(&["reload", "web"]).ok();
    assert_eq!(restarts(&home), 2);
    home.run(&["delete", "web"]).ok();
    assert!(!lives(second));
}

#[test]
fn workers_of_another_user_leave_as_gracefully() {
    use std::os::unix::fs::PermissionsExt;
    if no_node() {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("NOT TESTED: workers of another user need root");
        return;
    }
    let (home, port, folder) = (Home::new(), free_ports(1), tempfile::tempdir().unwrap());
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let script = folder.path().join("web.js");
    std::fs::write(&script, SERVER).unwrap();
    start(
        &home,
        &json!({"name": "web", "script": script, "cwd": folder.path(), "uid": 65534, "gid": 65534, "exec_mode": "cluster", "instances": 2,
                "kill_timeout": 30_000, "env": {"PORT": port.to_string()}}),
    );
    answered(port);
    for pid in pids(&home, "web") {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(words.contains("fornax-drain.cjs"), "{words}");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t65534"), "{status}");
    }
    let load = Load::start(port, 4, 1);
    for _ in 0..3 {
        home.run(&["reload", "web"]).ok();
    }
    let seen = load.finish();
    assert_eq!(seen.failed, Vec::<String>::new());
    assert!(seen.bodies.len() > 2, "{seen:?}");
}

#[test]
fn a_crash_costs_only_the_connections_of_its_own_worker() {
    if no_node() {
        return;
    }
    let (home, port) = serving(2, json!({}));
    until_logged(&home, "web", &[0, 1], "listens");
    let [victim, other] = pids(&home, "web")[..] else {
        panic!("two workers");
    };
    kill(victim, 9);
    eventually("it has gone", || (!lives(victim)).then_some(()));
    for _ in 0..10 {
        let body = get(port).unwrap();
        assert_ne!(body, victim.to_string());
    }
    let back = eventually("a new worker serves", || {
        let body = get(port).unwrap();
        (body != other.to_string()).then_some(body)
    });
    assert!(pids(&home, "web").contains(&back.parse().unwrap()));
}

#[test]
fn a_reload_to_a_broken_script_keeps_the_old_workers() {
    if no_node() {
        return;
    }
    let (home, port) = serving(2, json!({}));
    // Both have read the script that works.
    until_logged(&home, "web", &[0, 1], "listens");
    let before = pids(&home, "web");
    home.app(
        "web.js",
        "setTimeout(() => { throw new Error('broken') }, 50);\n",
    );
    home.run(&["reload", "web"]).fails("serves on");
    assert_eq!(pids(&home, "web"), before);
    assert!(before.contains(&get(port).unwrap().parse().unwrap()));
    home.app("web.js", SERVER);
    home.run(&["reload", "web"]).ok();
    assert!(pids(&home, "web").iter().all(|pid| !before.contains(pid)));
}

#[test]
fn every_kind_of_address_is_listened_on() {
    if no_node() {
        return;
    }
    let (home, port) = (Home::new(), free_ports(1));
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().port();
    let script = home.app(
        "many.js",
        &format!(
            "const net = require('net'), who = (c) => c.end(String(process.pid));
const told = {{}}, put = (key, value) => {{ told[key] = value; if (Object.keys(told).length === 5) console.log(JSON.stringify(told)); }};
const tell = (key) => function () {{ put(key, this.address()); }};
net.createServer(who).listen(0, '127.0.0.1', tell('zero'));
net.createServer(who).listen('a.sock', tell('path'));
const udp = require('dgram').createSocket('udp4').on('message', (m, from) => udp.send(m + '!', from.port, from.address)).bind({port}, tell('udp'));
net.createServer(who).listen({taken}, '127.0.0.1').on('error', (e) => put('error', e.code + ' ' + e.syscall));
net.createServer(who).listen({{ port: 0, exclusive: true }}, tell('own'));\n"
        ),
    );
    start(
        &home,
        &json!({"name": "many", "script": script, "instances": 2, "exec_mode": "cluster"}),
    );
    let told: Vec<Value> = [0, 1]
        .map(|id| {
            let text = home.until_file_has(&format!("logs/many-out-{id}.log"), "\n");
            serde_json::from_str(text.trim()).unwrap()
        })
        .to_vec();
    assert_eq!(
        told[0]["zero"], told[1]["zero"],
        "one port of the kernel's choice for both"
    );
    assert_ne!(
        told[0]["own"]["port"], told[1]["own"]["port"],
        "exclusive is not shared"
    );
    assert_eq!(told[0]["udp"]["port"], port);
    assert_eq!(told[0]["error"], "EADDRINUSE bind");
    let workers = pids(&home, "many");
    let answered = |mut stream: Box<dyn Read>| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(workers.contains(&text.parse().unwrap()), "{text}");
        text
    };
    let zero = told[0]["zero"]["port"].as_u64().unwrap() as u16;
    let by_port = || answered(Box::new(TcpStream::connect(("127.0.0.1", zero)).unwrap()));
    let path = home.apps().join("a.sock");
    let by_path = || answered(Box::new(UnixStream::connect(&path).unwrap()));
    assert_ne!(by_port(), by_port());
    assert_ne!(by_path(), by_path());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.send_to(b"hi", ("127.0.0.1", port)).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 3);
    home.run(&["delete", "many"]).ok();
    assert!(!path.exists(), "the last worker's path is removed");
    drop(holder);
}

#[test]
fn a_reload_is_told_as_pm2_tells_it() {
    if no_node() {
        return;
    }
    let (home, _port) = serving(1, json!({"wait_ready": false}));
    let mut bus = fornax::pm2::client::BusClient::connect(&home.root().join("pub.sock")).unwrap();
    bus.set_timeout(Some(Duration::from_secs(30))).unwrap();
    home.run(&["reload", "web"]).ok();
    let mut told = Vec::new();
    while told.len() < 4 {
        let (topic, payload) = bus.next_event().unwrap();
        if topic == "process:event" {
            let payload: Value = serde_json::from_str(&payload).unwrap();
            let of = &payload["process"];
            told.push(json!([
                payload["event"],
                of["pm_id"],
                of["status"],
                of["restart_time"]
            ]));
        }
    }
    assert_eq!(
        told,
        [
            json!(["online", 0, "launching", 1]),
            json!(["exit", "_old_0", "stopping", 0]),
            json!(["exit", "_old_0", "stopped", 0]),
            json!(["reload", 0, "online", 1]),
        ]
    );
}

#[test]
fn wait_ready_and_the_shutdown_message_reach_workers() {
    if no_node() {
        return;
    }
    let (home, port) = (Home::new(), free_ports(1));
    let script = home.app(
        "web.js",
        "const server = require('http').createServer((q, r) => r.end(String(process.pid)));
server.listen(process.env.PORT, () => setTimeout(() => process.send('ready'), 200));
process.on('message', (m) => { if (m === 'shutdown') { console.log('bye'); process.exit(0); } });\n",
    );
    start(
        &home,
        &json!({"name": "web", "script": script, "exec_mode": "cluster", "instances": 1, "wait_ready": true, "shutdown_with_message": true, "listen_timeout": 20_000, "env": {"PORT": port.to_string()}}),
    );
    assert_eq!(home.status("web"), "online");
    assert!(home.read("pm2.log").contains("App [web:0] online"));
    home.run(&["stop", "web"]).ok();
    home.until_file_has("logs/web-out-0.log", "bye");
}

/// The daemon is killed; another serves the workers on, and their listeners with them.
#[test]
fn workers_and_their_listeners_outlive_the_daemon() {
    if no_node() {
        return;
    }
    for sched in ["round-robin", "shared"] {
        let (home, port) = serving(2, json!({"fornax": {"sched": sched}}));
        until_logged(&home, "web", &[0, 1], "listens");
        let (workers, daemon) = (pids(&home, "web"), home.daemon_pid().unwrap());
        // Not with new connections: one that the daemon has in its hands when it is killed is lost with it.
        let load = Load::start(port, 4, 0);
        eventually("every client has a worker", || {
            (load.begun() == 4).then_some(())
        });
        kill(daemon, 9);
        eventually("another daemon", || {
            home.daemon_pid().filter(|pid| *pid != daemon)
        });
        let seen: Vec<u32> = (0..10).map(|_| answered(port).parse().unwrap()).collect();
        assert_eq!(pids(&home, "web"), workers, "{sched}");
        assert!(seen.iter().all(|pid| workers.contains(pid)), "{seen:?}");
        // It is their primary in all: what it is asked, it does.
        home.run(&["scale", "web", "3"]).ok();
        home.run(&["reload", "web"]).ok();
        let seen = load.finish();
        assert_eq!(seen.failed, Vec::<String>::new(), "{sched}");
        assert!(workers.iter().all(|pid| !lives(*pid)));
        assert_eq!(pids(&home, "web").len(), 3);
    }
}
