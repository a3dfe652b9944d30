//! Figures of jobs, as a table: what placement adds, throughput against direct clients, and ten thousand jobs while everything
//! is killed. `cargo bench --bench jobs -- [latency] [throughput] [chaos] [--jobs N] [--kills SECONDS]`.
//!
//! `FORNAX_BIN` names another build of ours, a release build for figures. With simulated ComfyUIs; with real ones on the processor where `FORNAX_COMFYUI` (its folder) and `FORNAX_COMFYUI_PYTHON` are
//! set.

#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use fornax::comfyui::client::{Client, Event, Submission};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::home::{kill, lives};
use support::jobs::{Machine, graph};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing takes longer than this.
const PATIENCE: Duration = Duration::from_secs(3600);

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let number = |name: &str, usual: f64| {
        let at = words.iter().position(|word| word == name);
        at.and_then(|at| words.get(at + 1)?.parse().ok())
            .unwrap_or(usual)
    };
    let wants = |name: &str| {
        let named = ["latency", "throughput", "chaos"];
        words.iter().any(|word| word == name)
            || !words.iter().any(|word| named.contains(&word.as_str()))
    };
    let real = std::env::var_os("FORNAX_COMFYUI").is_some();
    let driver = runtime();
    println!(
        "| what | {} |\n|---|---|",
        if real {
            "real ComfyUI on the processor"
        } else {
            "simulated ComfyUI"
        }
    );
    if wants("latency") {
        let machine = machine(real, 1, "--seconds 0.02 --steps 1", &[]);
        driver.block_on(latency(&machine, number("--samples", 200.0) as usize));
    }
    if wants("throughput") {
        let machine = machine(real, 2, "--seconds 0.01 --steps 1", &[]);
        driver.block_on(throughput(
            &machine,
            number("--jobs", if real { 200.0 } else { 1000.0 }) as usize,
        ));
    }
    if wants("chaos") {
        let mut machine = machine(
            real,
            2,
            "--seconds 0.01 --steps 1",
            &[("FORNAX_JOBS_QUEUE", "200")],
        );
        let (jobs, every) = (
            number("--jobs", if real { 500.0 } else { 10_000.0 }) as usize,
            number("--kills", if real { 45.0 } else { 3.0 }),
        );
        chaos(&mut machine, jobs, Duration::from_secs_f64(every));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn machine(real: bool, count: usize, flags: &str, env: &[(&str, &str)]) -> Machine {
    if real {
        Machine::real(count, env)
    } else {
        Machine::new(&vec![flags; count], env)
    }
}

fn row(what: &str, figure: impl std::fmt::Display) {
    println!("| {what} | {figure} |");
}

/// A kept connection to the daemon.
struct Posting {
    stream: TcpStream,
    token: String,
}

impl Posting {
    async fn open(machine: &Machine) -> Self {
        let stream = TcpStream::connect(&machine.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            token: machine.home.read("http.token").trim().to_owned(),
        }
    }

    async fn send(&mut self, body: &str) -> std::io::Result<()> {
        let text = format!(
            "POST /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(text.as_bytes()).await
    }

    async fn answer(&mut self) -> std::io::Result<(u16, Value)> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
        loop {
            let length = self.stream.read(&mut piece).await?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let wanted: usize = head
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.trim().parse().ok())
                .unwrap_or(0);
            if body.len() >= wanted {
                let status = head
                    .split(' ')
                    .nth(1)
                    .and_then(|word| word.parse().ok())
                    .unwrap_or(0);
                return Ok((status, serde_json::from_str(body).unwrap_or_default()));
            }
        }
    }
}

/// From a POST to the moment in which the instance tells everybody that its queue has grown.
async fn latency(machine: &Machine, samples: usize) {
    let address = SocketAddr::from(([127, 0, 0, 1], machine.base));
    let client = Client::new(address);
    let mut observer = client.events("observer").await.unwrap();
    // The first change that is asked for makes the token.
    let _ = machine.ask("POST", "/jobs", "", b"");
    machine.until(&machine.submit(&json!({"workflow": graph(0)})), &["done"]);
    let mut posting = Posting::open(machine).await;
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for sample in 0..samples {
        for ours in [false, true] {
            while client.remaining().await.unwrap() > 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            while let Ok(Ok(_)) =
                tokio::time::timeout(Duration::from_millis(1), observer.next()).await
            {}
            let colored = graph(u32::try_from(sample * 2 + usize::from(ours) + 1).unwrap());
            let began = Instant::now();
            let seen = async {
                loop {
                    if let Event::Status { remaining: 1.. } = observer.next().await.unwrap() {
                        return began.elapsed();
                    }
                }
            };
            if ours {
                posting
                    .send(&json!({"workflow": colored}).to_string())
                    .await
                    .unwrap();
                through.push(seen.await);
                assert_eq!(posting.answer().await.unwrap().0, 202);
            } else {
                let prompt = RawValue::from_string(colored.to_string()).unwrap();
                let id = uuid::Uuid::new_v4().to_string();
                let submission = Submission {
                    prompt: &prompt,
                    prompt_id: &id,
                    client_id: "direct",
                    front: false,
                    extra_data: None,
                };
                let (submitted, took) = tokio::join!(client.submit(&submission), seen);
                submitted.unwrap();
                direct.push(took);
            }
        }
    }
    let (direct, through) = (percentiles(direct), percentiles(through));
    row(
        "POST /prompt to the instance's queue, p50 / p90",
        format!("{:.2} / {:.2} ms", direct.0, direct.1),
    );
    row(
        "POST /jobs to the instance's queue, p50 / p90",
        format!("{:.2} / {:.2} ms", through.0, through.1),
    );
    row(
        "placement adds, p50 (≤ 2 ms)",
        format!("{:.2} ms", through.0 - direct.0),
    );
}

fn percentiles(mut all: Vec<Duration>) -> (f64, f64) {
    all.sort();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    (at(0.5), at(0.9))
}

/// Two clients that post to one instance each, follow by websocket, and fetch what was made; against the same through us.
async fn throughput(machine: &Machine, jobs: usize) {
    machine.until(&machine.submit(&json!({"workflow": graph(0)})), &["done"]);
    let spent = || {
        let instances = (0..2).map(|at| cpu_ms(machine.home.pid(&format!("gpu{at}"))));
        (
            cpu_ms(machine.home.daemon_pid().unwrap()),
            instances.sum::<f64>(),
        )
    };
    let (_, at_first) = spent();
    let began = Instant::now();
    let clients =
        (0..2_u16).map(|at| straight(machine.base + at, u32::from(at) * 1_000_000 + 1, jobs / 2));
    futures_util::future::join_all(clients).await;
    let direct = jobs as f64 / began.elapsed().as_secs_f64();
    let (daemon, instances) = spent();
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let posters = (0..4).map(|_| {
        let next = Arc::clone(&next);
        async move {
            let mut posting = Posting::open(machine).await;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= jobs {
                    return;
                }
                let color = u32::try_from(5_000_000 + at).unwrap();
                posting
                    .send(&json!({"workflow": graph(color)}).to_string())
                    .await
                    .unwrap();
                assert_eq!(posting.answer().await.unwrap().0, 202);
            }
        }
    });
    futures_util::future::join_all(posters).await;
    let accepted = began.elapsed();
    while machine
        .ask(
            "GET",
            "/jobs?state=queued,placed,running,fetching&limit=1",
            "",
            b"",
        )
        .json()["count"]
        != 0
    {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ours = jobs as f64 / began.elapsed().as_secs_f64();
    let (daemon_now, instances_now) = spent();
    let each = |ms: f64| ms / jobs as f64;
    row(
        "CPU for each job: daemon; instances, direct and through us",
        format!(
            "{:.2}; {:.2} and {:.2} ms",
            each(daemon_now - daemon),
            each(instances - at_first),
            each(instances_now - instances)
        ),
    );
    row(
        "load of the machine",
        std::fs::read_to_string("/proc/loadavg").unwrap().trim(),
    );
    row("two direct clients", format!("{direct:.1} jobs/s"));
    row(
        "through us",
        format!(
            "{ours:.1} jobs/s (all {jobs} accepted after {:.1} s)",
            accepted.as_secs_f64()
        ),
    );
    row("share (≥ 0.95)", format!("{:.2}", ours / direct));
}

/// Processor time of a process so far, in milliseconds.
fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let ticks = |at: usize| {
        after
            .split_whitespace()
            .nth(at)
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    (ticks(11) + ticks(12)) * 10.0
}

async fn straight(port: u16, color: u32, jobs: usize) {
    let client = Arc::new(Client::new(SocketAddr::from(([127, 0, 0, 1], port))));
    let name = format!("direct{port}");
    let mut events = client.events(&name).await.unwrap();
    let submit = async |at: usize| {
        let prompt =
            RawValue::from_string(graph(color + u32::try_from(at).unwrap()).to_string()).unwrap();
        let id = uuid::Uuid::new_v4().to_string();
        let submission = Submission {
            prompt: &prompt,
            prompt_id: &id,
            client_id: &name,
            front: false,
            extra_data: None,
        };
        client.submit(&submission).await.unwrap();
    };
    let (mut sent, mut ended) = (0, 0);
    while sent < jobs.min(2) {
        submit(sent).await;
        sent += 1;
    }
    let mut fetches = Vec::new();
    while ended < jobs {
        if let Event::Ended {
            prompt_id: Some(id),
        } = events.next().await.unwrap()
        {
            ended += 1;
            let client = Arc::clone(&client);
            fetches.push(tokio::spawn(async move {
                let entry = client.history(&id).await.unwrap().expect("its history");
                for (_, file) in entry.files() {
                    let mut download = client
                        .view(&file, 1 << 30)
                        .await
                        .unwrap()
                        .expect("its file");
                    let mut bytes = 0;
                    while let Some(piece) = download.next().await.unwrap() {
                        bytes += piece.len();
                    }
                    assert!(bytes > 0);
                }
            }));
            if sent < jobs {
                submit(sent).await;
                sent += 1;
            }
        }
    }
    for fetch in fetches {
        fetch.await.unwrap();
    }
}

/// Jobs while instances are killed at random and the daemon twice.
fn chaos(machine: &mut Machine, jobs: usize, every: Duration) {
    machine.until(&machine.submit(&json!({"workflow": graph(0)})), &["done"]);
    let before = executed(machine);
    let token = machine.home.read("http.token").trim().to_owned();
    let next = Arc::new(AtomicUsize::new(0));
    let address = Arc::new(std::sync::Mutex::new(machine.address.clone()));
    let began = Instant::now();
    let mut posters = Vec::new();
    for _ in 0..4 {
        let (next, address, token) = (Arc::clone(&next), Arc::clone(&address), token.clone());
        posters.push(std::thread::spawn(move || runtime().block_on(async move {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= jobs {
                    return;
                }
                let mut body = json!({"workflow": graph(u32::try_from(at + 1).unwrap()), "idempotency_key": format!("job {at}")});
                // Every second one does not allow that it is run again.
                if at % 2 == 1 {
                    body["limits"] = json!({"attempts": 1});
                }
                let body = body.to_string();
                // Asked again until it is accepted: the key makes that one job.
                loop {
                    let to = address.lock().unwrap().clone();
                    let asked = async {
                        let stream = TcpStream::connect(&to).await?;
                        let mut posting = Posting { stream, token: token.clone() };
                        posting.send(&body).await?;
                        posting.answer().await
                    };
                    match tokio::time::timeout(Duration::from_secs(20), asked).await {
                        Ok(Ok((200 | 202, _))) => break,
                        _ => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            }
        })));
    }
    let mut saved = HashSet::new();
    let (mut kills, mut daemons, mut dice) = (0, 0, 0x2545_f491_4f6c_dd1d_u64);
    let mut killed_at = Instant::now();
    let settled = |machine: &Machine| {
        jobs_by_state(machine)
            .iter()
            .filter(|(state, _)| ["done", "failed", "dead", "cancelled"].contains(&state.as_str()))
            .map(|(_, count)| count)
            .sum::<usize>()
    };
    loop {
        let done = settled(machine);
        if done > jobs || began.elapsed() > PATIENCE {
            break;
        }
        if daemons < 2 && done > jobs * (daemons + 1) / 3 {
            machine.shoot_daemon();
            address.lock().unwrap().clone_from(&machine.address);
            daemons += 1;
        }
        if killed_at.elapsed() > every {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            saved.extend(shoot(machine, &format!("gpu{}", dice % 2)));
            (kills, killed_at) = (kills + 1, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let took = began.elapsed().as_secs_f64();
    for poster in posters {
        poster.join().unwrap();
    }
    let all = all_jobs(machine);
    let mut keys: HashMap<String, usize> = HashMap::new();
    let (mut without, mut ends, mut states) = (
        0,
        BTreeMap::<String, usize>::new(),
        BTreeMap::<String, usize>::new(),
    );
    let (mut completed, mut twice, mut forbidden, mut told) = (0, 0, 0, Vec::new());
    for job in &all {
        let state = job["state"].as_str().unwrap().to_owned();
        if let Some(key) = job["idempotency_key"].as_str() {
            *keys.entry(key.to_owned()).or_default() += 1;
        }
        let attempts = job["attempts"].as_array().unwrap();
        let kind = |attempt: &Value| {
            attempt["outcome"]["kind"]
                .as_str()
                .unwrap_or("-")
                .to_owned()
        };
        // An attempt has run to its end if it is told so, or if its picture was whole when its instance was killed.
        let ran: Vec<&Value> = attempts
            .iter()
            .filter(|attempt| {
                let id = attempt["prompt_id"].as_str().unwrap();
                kind(attempt) == "success" || saved.contains(id)
            })
            .collect();
        completed += ran.len();
        let successes = ran
            .iter()
            .filter(|attempt| kind(attempt) == "success")
            .count();
        assert!(successes <= 1, "told as done twice: {job:#}");
        let number = job["idempotency_key"]
            .as_str()
            .and_then(|key| key.strip_prefix("job ")?.parse::<usize>().ok());
        let allows = number.is_none_or(|number| number % 2 == 0);
        if !allows {
            forbidden += usize::from(attempts.len() > 1);
        } else if ran.len() > 1 {
            twice += 1;
            let ends: Vec<String> = attempts.iter().map(&kind).collect();
            told.push(format!(
                "{} ({})",
                job["id"].as_str().unwrap(),
                ends.join(", ")
            ));
        }
        for attempt in attempts {
            *ends.entry(kind(attempt)).or_default() += 1;
        }
        if state == "done" {
            let path = |output: &Value| {
                machine
                    .home
                    .root()
                    .join("jobs/outputs")
                    .join(job["id"].as_str().unwrap())
                    .join(output["name"].as_str().unwrap())
            };
            let outputs = job["outputs"].as_array().unwrap();
            let whole = !outputs.is_empty()
                && outputs.iter().all(|output| {
                    std::fs::metadata(path(output)).is_ok_and(|data| {
                        Some(data.len()) == output["bytes"].as_u64() && data.len() > 0
                    })
                });
            without += usize::from(!whole);
        }
        *states.entry(state).or_default() += 1;
    }
    row(
        "jobs, instances killed, daemon killed",
        format!("{jobs}, {kills}, {daemons}"),
    );
    row(
        "time",
        format!("{took:.0} s ({:.1} jobs/s)", jobs as f64 / took),
    );
    row("states", format!("{states:?}"));
    row(
        "lost (0)",
        jobs - keys.len()
            + all
                .iter()
                .filter(|job| {
                    !["done", "failed", "dead", "cancelled"]
                        .contains(&job["state"].as_str().unwrap())
                })
                .count(),
    );
    row(
        "one key, several jobs (0)",
        keys.values().filter(|count| **count > 1).count(),
    );
    row("done without output (0)", without);
    row("attempts, by how they ended", format!("{ends:?}"));
    row(
        "executions to the end (one for each job done)",
        format!(
            "{completed}, of {} jobs done",
            states.get("done").unwrap_or(&0)
        ),
    );
    row("begun twice, of those that do not allow it (0)", forbidden);
    row(
        "of those that allow it: executed to the end, and its instance killed before it had said so: run again",
        format!(
            "{twice}{}{}",
            if told.is_empty() { "" } else { ": " },
            told.join("; ")
        ),
    );
    // What was executed before is taken off; a line is lost if its instance was killed before it was written.
    let printed = executed(machine) - before;
    row(
        "executions that instances printed, less those above (0 or less)",
        printed as i64 - (completed as i64 - 1),
    );
}

/// Kills an instance, and tells which attempts had saved a whole picture by then: nothing happens between the look and the kill.
fn shoot(machine: &Machine, name: &str) -> HashSet<String> {
    let pid = machine.home.pid(name);
    kill(pid, 19);
    let stopped = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "))
    };
    while lives(pid) && !stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut saved = HashSet::new();
    let folders = std::fs::read_dir(machine.home.apps().join(name).join("output"));
    for folder in folders.into_iter().flatten().flatten() {
        let id = folder.file_name().to_string_lossy().into_owned();
        let files = std::fs::read_dir(folder.path())
            .into_iter()
            .flatten()
            .flatten();
        let whole = |path: std::path::PathBuf| {
            std::fs::read(path).is_ok_and(|bytes| bytes.ends_with(b"IEND\xae\x42\x60\x82"))
        };
        if let Some(id) = id.strip_prefix("fornax-")
            && files.map(|file| file.path()).any(whole)
        {
            saved.insert(id.to_owned());
        }
    }
    kill(pid, 9);
    saved
}

fn jobs_by_state(machine: &Machine) -> BTreeMap<String, usize> {
    let database = machine.home.root().join("jobs/jobs.sqlite");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let Ok(connection) = rusqlite::Connection::open_with_flags(database, flags) else {
        return BTreeMap::new();
    };
    let mut statement = connection
        .prepare("SELECT state, count(*) FROM jobs GROUP BY state")
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as usize)))
        .unwrap();
    rows.flatten().collect()
}

fn all_jobs(machine: &Machine) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut before = u64::MAX;
    loop {
        let told = machine
            .ask("GET", &format!("/jobs?limit=1000&before={before}"), "", b"")
            .json();
        let jobs = told["jobs"].as_array().unwrap().clone();
        let Some(last) = jobs.last() else {
            return all;
        };
        // Several may have come in one millisecond: the last moment is read again.
        let oldest: jiff::Timestamp = last["created_at"].as_str().unwrap().parse().unwrap();
        let next = oldest.as_millisecond() as u64 + 1;
        let known: std::collections::HashSet<String> = all
            .iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect();
        let fresh: Vec<Value> = jobs
            .into_iter()
            .filter(|job| !known.contains(job["id"].as_str().unwrap()))
            .collect();
        if fresh.is_empty() {
            return all;
        }
        all.extend(fresh);
        before = next.min(before.saturating_sub(1));
    }
}

/// How many prompts the instances say that they have executed to the end.
fn executed(machine: &Machine) -> usize {
    let logs = machine.home.root().join("logs");
    let files = std::fs::read_dir(logs).unwrap().flatten();
    let count = |path: std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes)
            .matches("Prompt executed in")
            .count()
    };
    files.map(|file| count(file.path())).sum()
}
