//! Everything at once: whatever Fornax runs is at work while its daemon is killed ten times in a row, and then replaced.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::home::{free_ports, get, kill, lives};
use support::http_load::Load;
use support::successor::*;
use support::{Home, eventually};

const ROUNDS: usize = 10;

const WEB: &str =
    "require('http').createServer((request, response) => response.end(String(process.pid)))
  .listen(process.env.PORT, () => console.log('listens'));\n";

/// Ends with code 7 when it is asked to.
const CODE: &str =
    "#!/bin/sh\ntrap 'echo last words >&2; exit 7' TERM\nwhile :; do sleep 0.02; done\n";

const CALM: &str = "#!/bin/sh\necho up\nwhile :; do sleep 0.05; done\n";

/// A picture that takes as long as the simulator is told.
fn job() -> Value {
    json!({"prompt": {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "scene"}},
    }})
}

fn post(address: &str, path: &str, body: &Value) -> Value {
    let (mut stream, body) = (TcpStream::connect(address).unwrap(), body.to_string());
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn json_of(address: &str, path: &str) -> Value {
    let (_, body) = get(address, path);
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// A browser's `EventSource`: follows an app's log, and comes back with the id of the last event it had.
struct Follower {
    ending: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<String>>>,
    thread: std::thread::JoinHandle<usize>,
}

impl Follower {
    fn start(address: &str, app: &str) -> Self {
        let (ending, lines) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let (address, app) = (address.to_owned(), app.to_owned());
        let thread = {
            let (ending, lines) = (Arc::clone(&ending), Arc::clone(&lines));
            std::thread::spawn(move || {
                let (mut last, mut connections) = (String::new(), 0);
                while !ending.load(Ordering::Relaxed) {
                    if let Ok(stream) = TcpStream::connect(&address) {
                        connections += 1;
                        // Whatever ends it: it comes back.
                        let _ = follow(stream, &app, &mut last, &lines, &ending);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                connections
            })
        };
        Self {
            ending,
            lines,
            thread,
        }
    }

    fn count(&self) -> usize {
        self.lines.lock().unwrap().len()
    }

    /// Its lines, and how often it connected.
    fn finish(self) -> (Vec<String>, usize) {
        self.ending.store(true, Ordering::Relaxed);
        let connections = self.thread.join().unwrap();
        (std::mem::take(&mut self.lines.lock().unwrap()), connections)
    }
}

fn follow(
    mut stream: TcpStream,
    app: &str,
    last: &mut String,
    lines: &Mutex<Vec<String>>,
    ending: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let resumes = match last.as_str() {
        "" => String::new(),
        id => format!("Last-Event-ID: {id}\r\n"),
    };
    write!(
        stream,
        "GET /services/{app}/logs?follow=true&limit=1&stream=out HTTP/1.0\r\nHost: localhost\r\n{resumes}\r\n"
    )?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut event, mut id, mut data) =
        (String::new(), String::new(), String::new(), Vec::new());
    loop {
        match reader.read_line(&mut line) {
            Ok(0) => return Ok(()),
            Ok(_) if !line.ends_with('\n') || ending.load(Ordering::Relaxed) => return Ok(()),
            Ok(_) => {}
            // What has come of the line stays in it.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                if ending.load(Ordering::Relaxed) {
                    return Ok(());
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        let text = line.trim_end().to_owned();
        line.clear();
        match text.split_once(": ") {
            _ if text.is_empty() => {
                assert_ne!(event, "missed", "{data:?}");
                if !id.is_empty() && event.is_empty() {
                    lines.lock().unwrap().append(&mut data);
                    *last = std::mem::take(&mut id);
                }
                event.clear();
                data.clear();
            }
            Some(("id", value)) => value.clone_into(&mut id),
            Some(("event", value)) => value.clone_into(&mut event),
            Some(("data", value)) => data.push(value.to_owned()),
            _ => {}
        }
    }
}

struct Scene {
    home: Home,
    web: u16,
    comfy: String,
}

fn scene() -> Scene {
    let home = Home::with(&[("FORNAX_HTTP", "127.0.0.1:0")]);
    let port = free_ports(2);
    let watched = home.apps().join("watched");
    std::fs::create_dir(&watched).unwrap();
    let mut apps: Vec<Value> = (0..8)
        .map(|n| json!({"name": format!("w{n}"), "script": home.app("writer.sh", WRITER)}))
        .collect();
    apps.extend([
        json!({"name": "quiet", "script": home.app("quiet.py", PYTHON), "interpreter": "python3"}),
        json!({"name": "ipc", "script": home.app("ipc.js", NODE)}),
        json!({"name": "web", "script": home.app("web.js", WEB), "exec_mode": "cluster", "instances": 2, "env": {"PORT": port.to_string()}}),
        json!({"name": "comfy", "script": home.program(), "interpreter": "none",
               "args": ["simulate", "--port", (port + 1).to_string(), "--seconds", "5"],
               "fornax": {"type": "comfyui", "port": port + 1, "gpu": {"index": 0, "uuid": "SIM-SCENE"},
                          "probe": {"http": {"path": "/system_stats"}}}}),
        json!({"name": "watcher", "script": home.app("calm.sh", CALM), "watch": [watched], "watch_delay": 10}),
        json!({"name": "cron", "script": home.app("calm.sh", CALM), "cron_restart": "* * * * * *"}),
        json!({"name": "gone", "script": home.app("code.sh", CODE), "autorestart": false}),
    ]);
    let file = home.app("eco.config.json", &json!({"apps": apps}).to_string());
    home.run(&["start", &file, "-s"]).ok();
    let comfy = format!("127.0.0.1:{}", port + 1);
    Scene {
        home,
        web: port,
        comfy,
    }
}

/// What may not change, the cron app apart, which is restarted every second.
fn steady(home: &Home) -> BTreeMap<String, Identity> {
    let mut all = identities(home);
    all.retain(|name, _| !name.starts_with("cron"));
    all
}

fn restarts(home: &Home, name: &str) -> u64 {
    let item = home.item(name);
    item["pm2_env"]["restart_time"].as_u64().unwrap()
}

/// Each service's state and since when, the cron app apart.
fn health(home: &Home) -> Value {
    let services = json_of(&home.http(), "/services");
    let told = |service: &Value| {
        json!([
            service["name"],
            service["status"],
            service["since"],
            service["restarts"],
            service["pid"],
            service["gpu"]
        ])
    };
    let all = services["services"].as_array().unwrap().iter();
    all.filter(|service| service["name"] != "cron")
        .map(told)
        .collect()
}

/// Kills it while its keeper looks away, and an app with it: that one ends in the gap.
fn end_in_the_gap(home: &Home) {
    let (keeper, daemon, app) = (
        keeper_pid(home),
        home.daemon_pid().unwrap(),
        home.pid("gone"),
    );
    kill(keeper, 19);
    kill(daemon, 9);
    kill(app, 15);
    eventually("the app has ended", || (!lives(app)).then_some(()));
    kill(keeper, 18);
    until_another(home, daemon);
    let item = home.until_status("gone", "stopped");
    assert_eq!(item["pm2_env"]["exit_code"], 7);
    assert!(home.read("logs/gone-error.log").contains("last words"));
}

#[test]
fn whatever_it_runs_goes_on_while_the_daemon_is_killed_ten_times() {
    if !support::pm2_client::node_is_here() {
        println!("NOT TESTED: no node in PATH, and the scene needs one");
        return;
    }
    let Scene { home, web, comfy } = scene();
    eventually("the simulator is healthy", || {
        let (status, _) = home.get("/services/comfy/health");
        (status == 200).then_some(())
    });
    eventually("a worker answers", || {
        support::http_load::get(web).ok().map(drop)
    });
    for id in [10, 11] {
        home.until_file_has(&format!("logs/web-out-{id}.log"), "listens");
    }
    let (address, keeper) = (home.http(), keeper_pid(&home));
    let follower = Follower::start(&address, "w0");
    let program = home.program().to_owned();
    let mut person = home.spawn(&program, &["logs", "w1", "--raw", "--lines", "0"]);
    // Not with new connections: one that the daemon has in its hands when it is killed is lost with it.
    let load = Load::start(web, 3, 0);
    eventually("every client has a worker", || {
        (load.begun() == 3).then_some(())
    });
    let submitted = post(&comfy, "/prompt", &job());
    let prompt = submitted["prompt_id"]
        .as_str()
        .unwrap_or_else(|| panic!("{submitted}"))
        .to_owned();
    let (before, since, begun) = (steady(&home), health(&home), Instant::now());
    for round in 0..ROUNDS {
        let (seen, crons) = (follower.count(), restarts(&home, "cron"));
        let gap = kill_daemon(&home);
        println!("round {round}: another daemon after {gap:?}");
        assert_eq!(steady(&home), before, "round {round}");
        assert_eq!(home.http(), address);
        assert_eq!(health(&home), since, "round {round}");
        eventually("the follower has new lines", || {
            (follower.count() > seen).then_some(())
        });
        if round % 4 == 0 {
            eventually("cron restarts go on", || {
                (restarts(&home, "cron") > crons).then_some(())
            });
        }
    }
    // In the middle of all this a new program takes over.
    let seen = follower.count();
    home.run(&["update"]).ok().says("PM2 updated");
    assert_eq!(steady(&home), before, "after the update");
    eventually("the follower has new lines", || {
        (follower.count() > seen).then_some(())
    });
    assert_eq!(keeper_pid(&home), keeper);

    // The job has not been disturbed.
    let done = eventually("the job is done", || {
        let history = json_of(&comfy, &format!("/history/{prompt}"));
        history.get(&prompt).cloned()
    });
    assert_eq!(done["status"]["status_str"], "success", "{done}");
    // The GPU is still leased, by this daemon.
    let holder = home.daemon_pid().unwrap();
    let other = home.neighbour();
    let file = other.app(
        "eco.config.json",
        &json!({"apps": [{"name": "thief", "script": other.app("calm.sh", CALM), "fornax": {"gpu": {"index": 0, "uuid": "SIM-SCENE"}}}]}).to_string(),
    );
    other.run(&["start", &file]).fails(&holder.to_string());
    // Files are watched, once each.
    std::fs::write(home.apps().join("watched/touched"), "").unwrap();
    eventually("the watcher is restarted", || {
        (restarts(&home, "watcher") == 1).then_some(())
    });
    // Once a second and no more, however many daemons there were: a restart takes a moment and counts once.
    let crons = restarts(&home, "cron");
    let most = begun.elapsed().as_secs() + 5;
    assert!((3..=most).contains(&crons), "{crons} of at most {most}");
    end_in_the_gap(&home);

    let served = load.finish();
    assert_eq!(served.failed, Vec::<String>::new());
    assert!(served.bodies.len() == 2, "{served:?}");
    let (lines, connections) = follower.finish();
    assert!(connections > ROUNDS, "{connections}");
    let numbers: Vec<u64> = lines.iter().map(|line| number_of(line)).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "lost or doubled for a follower"
    );
    assert!(numbers.len() > 500, "{}", numbers.len());
    eventually("the person's logs go on", || {
        let text = person.output();
        (text.matches("another daemon has taken over").count() >= ROUNDS).then_some(())
    });
    assert!(person.child.try_wait().unwrap().is_none());
    drop(person);

    home.run(&["stop", "all", "-s"]).ok();
    // Given back, the GPU can be had.
    other.run(&["restart", "thief"]).ok();
    for log in (0..8)
        .map(|at| format!("w{at}"))
        .chain(["quiet".into(), "ipc".into()])
    {
        let lines = assert_whole(&home, &format!("logs/{log}-out.log"));
        assert!(lines > 100, "{log}: {lines}");
    }
}

/// The number in a line of a writer, as a follower is told it.
fn number_of(data: &str) -> u64 {
    let told: Value = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data));
    let text = told["line"]
        .as_str()
        .or(told["text"].as_str())
        .or(told.as_str());
    let number = text.and_then(|text| text.split("line ").nth(1)?.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("a torn line: {data}"))
}
