//! Port 9090 over real sockets: a real loop and a real log plane, with runs that are two pipes.

#![allow(clippy::unwrap_used)] // the rig around the tests fails a test by panicking, too

use fornax::adapters::event::{RunEvent, RunEventKind};
use fornax::adapters::facts::RunFacts;
use fornax::adapters::logs::{LogOptions, LogPlane, RunLogs};
use fornax::adapters::plan::RunPlan;
use fornax::adapters::probes::ProbePlan;
use fornax::adapters::sampler::Usage;
use fornax::core::exit::ExitCause;
use fornax::core::ids::{Generation, PmId};
use fornax::core::probe::Verdict;
use fornax::core::signal::Signal;
use fornax::core::watch::WatchSpec;
use fornax::daemon::bus::Bus;
use fornax::daemon::command::Command;
use fornax::daemon::handle::{DaemonInfo, Handle, HttpState};
use fornax::daemon::run::{Daemon, Inputs};
use fornax::daemon::settings::Settings;
use fornax::daemon::snapshot::{Snapshot, Usages};
use fornax::daemon::world::{Needs, World, missing};
use fornax::http::{HttpOptions, serve_with};
use fornax::jobs::{JobSettings, Jobs};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "s3cr3t-of-the-environment";

/// A run of the fake world: the writing ends of its output.
struct FakeRun {
    generation: Generation,
    out: File,
    err: File,
}

type FakeRuns = Arc<Mutex<HashMap<PmId, FakeRun>>>;

/// Runs that are two pipes: they are online at once and end when they are signalled.
struct FakeWorld {
    events: mpsc::Sender<RunEvent>,
    plane: LogPlane,
    runs: FakeRuns,
    probes: Arc<Mutex<usize>>,
}

impl FakeWorld {
    fn tell(&self, id: PmId, generation: Generation, kind: RunEventKind) {
        let event = RunEvent {
            id,
            generation,
            kind,
        };
        self.events.try_send(event).unwrap();
    }
}

impl World for FakeWorld {
    fn spawn(&mut self, plan: RunPlan, needs: Needs) {
        if let Some(reason) = missing(&needs.install, &needs.cwd) {
            let kind = RunEventKind::SpawnFailed {
                reason,
                not_installed: true,
            };
            return self.tell(plan.id, plan.generation, kind);
        }
        let (out, out_end) = pipe();
        let (err, err_end) = pipe();
        let logs = RunLogs {
            instance: plan.id,
            generation: plan.generation,
            name: plan.name.to_string(),
            namespace: plan.namespace.to_string(),
            out,
            err,
            config: Arc::clone(&plan.logs),
        };
        self.plane.attach(logs).unwrap();
        let run = FakeRun {
            generation: plan.generation,
            out: out_end.into(),
            err: err_end.into(),
        };
        self.runs.lock().unwrap().insert(plan.id, run);
        let pid = 4_000_000 + plan.id.0;
        self.tell(
            plan.id,
            plan.generation,
            RunEventKind::Spawned {
                pid,
                facts: RunFacts::default(),
            },
        );
    }

    fn signal(&mut self, id: PmId, generation: Generation, signal: Signal) {
        let mut runs = self.runs.lock().unwrap();
        if runs
            .get(&id)
            .is_some_and(|run| run.generation == generation)
        {
            runs.remove(&id);
            self.tell(id, generation, exited(ExitCause::Signal(signal)));
        }
    }

    fn disconnect(&mut self, _: PmId, _: Generation) {}

    fn signal_root(&mut self, id: PmId, generation: Generation, signal: Signal) {
        self.signal(id, generation, signal);
    }

    fn ask_to_stop(&mut self, id: PmId, generation: Generation, otherwise: Signal) {
        self.signal(id, generation, otherwise);
    }

    fn watch(&mut self, _: PmId, _: Option<Arc<WatchSpec>>) {}

    fn probe(&mut self, _: ProbePlan) {
        *self.probes.lock().unwrap() += 1;
    }

    fn stop_probe(&mut self, _: PmId) {}

    fn release(&mut self, _: PmId) {}
}

fn exited(cause: ExitCause) -> RunEventKind {
    RunEventKind::Exited {
        cause,
        leftovers: false,
        stderr_tail: vec!["Traceback: it broke".to_owned()],
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = std::io::pipe().unwrap();
    (read.into(), write.into())
}

/// A daemon with HTTP on a port of its own.
struct Rig {
    handle: Handle,
    events: mpsc::Sender<RunEvent>,
    runs: FakeRuns,
    probes: Arc<Mutex<usize>>,
    usages: watch::Sender<Arc<Usages>>,
    home: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

/// How a rig differs from the usual one.
struct Setup {
    listen: &'static str,
    options: HttpOptions,
    logs: LogOptions,
    life: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0",
            options: HttpOptions::default(),
            logs: LogOptions::default(),
            life: 1_760_085_000_000,
        }
    }
}

impl Rig {
    async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        Self::at(setup, tempfile::tempdir().unwrap()).await
    }

    async fn at(setup: Setup, home: tempfile::TempDir) -> Self {
        let plane = LogPlane::start(setup.logs, None).unwrap();
        let (events, event_inputs) = mpsc::channel(64);
        let (commands, command_inputs) = mpsc::channel(64);
        let (snapshots, snapshots_seen) = watch::channel(Arc::new(Snapshot::default()));
        let (usages, usages_seen) = watch::channel(Arc::new(Usages::new()));
        let (settings, settings_seen) = watch::channel(Settings::default());
        let (http, http_seen) = watch::channel(HttpState::Pending);
        let (http_requests, http_inputs) = mpsc::channel(4);
        let (runs, probes, bus) = (FakeRuns::default(), Arc::default(), Bus::default());
        let world = FakeWorld {
            events: events.clone(),
            plane: plane.clone(),
            runs: Arc::clone(&runs),
            probes: Arc::clone(&probes),
        };
        let inputs = Inputs {
            commands: command_inputs,
            events: event_inputs,
        };
        tokio::spawn(Daemon::new(world, bus.clone(), snapshots, settings_seen).run(inputs));
        let handle = Handle {
            commands,
            snapshots: snapshots_seen,
            usages: usages_seen,
            host: watch::Sender::new(Arc::default()).subscribe(),
            sample: Arc::default(),
            bus,
            plane,
            roots: Arc::default(),
            runs: Arc::default(),
            settings,
            http: http_seen,
            http_requests,
            mourner: Arc::default(),
            succession: Arc::default(),
            info: Arc::new(DaemonInfo {
                pid: std::process::id(),
                started_at_ms: setup.life,
                life: setup.life,
                home: home.path().to_owned(),
                user: "someone".to_owned(),
            }),
            shutdown: CancellationToken::new(),
        };
        let serving = tokio::spawn(serve_with(
            handle.clone(),
            fornax::fleet::open().0,
            Jobs::new(JobSettings::from_env(home.path(), |_| None)).0,
            setup.listen.to_owned(),
            http_inputs,
            http,
            setup.options,
        ));
        let mut state = handle.http.clone();
        within(state.wait_for(|state| *state != HttpState::Pending))
            .await
            .unwrap();
        Self {
            handle,
            events,
            runs,
            probes,
            usages,
            home,
            serving,
        }
    }

    fn address(&self) -> SocketAddr {
        let state = self.handle.http.borrow().clone();
        match state {
            HttpState::Listening(address) => SocketAddr::new([127, 0, 0, 1].into(), address.port()),
            other => panic!("not listening: {other:?}"),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Registers an app and starts it.
    async fn app(&self, name: &str, extra: Value) -> PmId {
        let mut conf = json!({
            "name": name,
            "pm_exec_path": "/srv/app.sh",
            "pm_cwd": self.home.path(),
            "exec_interpreter": "none",
            "pm_out_log_path": self.file(&format!("{name}-out.log")),
            "pm_err_log_path": self.file(&format!("{name}-error.log")),
            "env": {"API_KEY": SECRET},
        });
        let map = conf.as_object_mut().unwrap();
        map.extend(extra.as_object().unwrap().clone());
        let command = Command::Prepare {
            conf: map.clone(),
            version: "N/A".to_owned(),
        };
        match within(self.handle.call(command)).await {
            Ok(views) => views[0].id,
            // It could not be started, and is there all the same.
            Err(_) => self.handle.snapshot().instances.last().unwrap().id,
        }
    }

    fn generation(&self, id: PmId) -> Generation {
        self.handle.snapshot().get(id).unwrap().generation
    }

    async fn tell(&self, id: PmId, kind: RunEventKind) {
        let generation = self.generation(id);
        let event = RunEvent {
            id,
            generation,
            kind,
        };
        let mut snapshots = self.handle.snapshots.clone();
        snapshots.mark_unchanged();
        self.events.send(event).await.unwrap();
        within(snapshots.changed()).await.unwrap();
    }

    async fn verdict(&self, id: PmId, verdict: Verdict, detail: &str) {
        let detail = detail.to_owned();
        self.tell(id, RunEventKind::Probe { verdict, detail }).await;
    }

    /// Writes to an app's streams and waits until the plane has it.
    async fn write(&self, id: PmId, out: &str, err: &str) {
        let lines = || async { self.handle.plane.stats().await.unwrap().total.lines };
        let until = lines().await + (out.lines().count() + err.lines().count()) as u64;
        {
            let mut runs = self.runs.lock().unwrap();
            let run = runs.get_mut(&id).unwrap();
            run.out.write_all(out.as_bytes()).unwrap();
            run.err.write_all(err.as_bytes()).unwrap();
        }
        within(async {
            while lines().await < until {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    async fn ask(&self, request: &str) -> Reply {
        ask(self.address(), request).await
    }

    async fn follow(&self, path: &str, headers: &str) -> Events {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // In HTTP/1.0 the body is not cut into chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = Events {
            reader: BufReader::new(stream),
        };
        let status = events.line().await.unwrap();
        assert!(status.contains("200"), "{status}");
        while !events.line().await.unwrap().is_empty() {}
        assert_eq!(events.next().await.unwrap().retry, "2000");
        events
    }

    async fn end(self) {
        self.handle.shutdown.cancel();
        within(self.serving).await.unwrap();
        let plane = self.handle.plane.clone();
        tokio::task::spawn_blocking(move || plane.shutdown())
            .await
            .unwrap();
    }
}

async fn ask(address: SocketAddr, request: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    within(stream.read_to_end(&mut bytes)).await.unwrap();
    Reply::parse(&String::from_utf8(bytes).unwrap())
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("it comes within thirty seconds")
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn error(&self) -> String {
        let body = self.json();
        assert!(body["timestamp"].as_str().unwrap().ends_with('Z'), "{body}");
        body["error"].as_str().unwrap().to_owned()
    }
}

#[derive(Debug, Default)]
struct Event {
    id: String,
    event: String,
    data: String,
    retry: String,
    comment: String,
}

impl Event {
    fn line(&self) -> String {
        let data: Value = serde_json::from_str(&self.data).unwrap();
        data["line"].as_str().unwrap().to_owned()
    }
}

/// Server-sent events.
struct Events {
    reader: BufReader<TcpStream>,
}

impl Events {
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = within(self.reader.read_line(&mut line)).await.unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    async fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                None => return Some(event),
                Some(("", comment)) => event.comment = comment.trim().to_owned(),
                Some((field, value)) => {
                    let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                    match field {
                        "id" => event.id = value,
                        "event" => event.event = value,
                        "data" => event.data = value,
                        "retry" => event.retry = value,
                        other => panic!("field {other}"),
                    }
                }
            }
        }
    }

    /// So many lines, and the id of the last one.
    async fn lines(&mut self, count: usize) -> (Vec<String>, String) {
        let (mut lines, mut id) = (Vec::new(), String::new());
        for _ in 0..count {
            let event = self.next().await.expect("the stream goes on");
            assert_eq!(event.event, "", "{event:?} after {lines:?}");
            lines.push(event.line());
            id = event.id;
        }
        (lines, id)
    }
}

fn probed() -> Value {
    json!({"fornax": {"type": "comfyui", "port": 9999, "gpu": {"index": 0, "uuid": "SIM-0", "name": "Sim"}, "probe": {"http": {"path": "/system_stats"}}}})
}

// The routes.

#[tokio::test]
async fn an_empty_machine_is_healthy_and_says_that_it_is_empty() {
    let rig = Rig::new().await;
    let health = rig.get("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["healthy"], true);
    assert_eq!(
        health.json()["message"],
        "no service is enabled on this machine"
    );
    assert_eq!(rig.get("/ready").await.json()["ready"], true);
    assert_eq!(rig.get("/services").await.json()["count"], 0);
    // Gap 10: /status threw without a `services` part in the configuration.
    let status = rig.get("/status").await;
    assert_eq!(
        (status.status, &status.json()["services"]),
        (200, &json!({}))
    );
    rig.end().await;
}

#[tokio::test]
async fn every_route_has_the_fields_of_the_source() {
    let setup = Setup {
        options: HttpOptions {
            machine_id: Some("box-7".to_owned()),
            ..HttpOptions::default()
        },
        ..Setup::default()
    };
    let rig = Rig::with(setup).await;
    let id = rig.app("comfyui-gpu0", probed()).await;
    rig.verdict(id, Verdict::Healthy, "answered 200").await;
    rig.usages.send_replace(Arc::new(HashMap::from([(
        id,
        (
            rig.generation(id),
            Usage {
                memory: 4096,
                cpu: 12.5,
                processes: 2,
            },
        ),
    )])));
    let has = |value: &Value, keys: &[&str]| {
        for key in keys {
            assert!(value.get(key).is_some(), "{key} in {value}");
        }
    };
    let health = rig.get("/health").await.json();
    has(
        &health,
        &["healthy", "timestamp", "machine_version", "services"],
    );
    assert_eq!(
        health["services"],
        json!([{"service": "comfyui-gpu0", "healthy": true, "status": "healthy", "enabled": true}])
    );
    has(
        &rig.get("/ready").await.json(),
        &["ready", "timestamp", "waiting_for"],
    );
    has(
        &rig.get("/version").await.json(),
        &[
            "machine_version",
            "build_date",
            "node_version",
            "platform",
            "arch",
            "container",
            "environment",
            "is_development",
            "is_release",
            "uptime_seconds",
            "timestamp",
        ],
    );
    let status = rig.get("/status").await.json();
    has(&status, &["timestamp", "uptime_ms", "services", "logs"]);
    assert_eq!(status["machine_id"], "box-7");
    assert_eq!(status["logs"]["dropped_lines"], 0);
    let services = rig.get("/services").await.json();
    assert_eq!(services["count"], 1);
    let told = &services["services"][0];
    assert_eq!(&status["services"]["comfyui-gpu0"]["pid"], &told["pid"]);
    for (key, want) in [
        ("name", json!("comfyui-gpu0")),
        ("type", json!("comfyui")),
        ("status", json!("healthy")),
        ("health", json!("healthy")),
        ("message", json!("answered 200")),
        ("enabled", json!(true)),
        ("installed", json!(true)),
        ("completed", json!(false)),
        ("gpu", json!({"index": 0, "uuid": "SIM-0", "name": "Sim"})),
        // Gap 9: ports were computed from the GPU's number, whatever the configuration said.
        ("port", json!(9999)),
        ("endpoint", json!("http://127.0.0.1:9999")),
        ("dependencies", json!([])),
        ("pm_id", json!(0)),
        ("pid", json!(4_000_000)),
        ("restarts", json!(0)),
        ("memory", json!(4096)),
        ("cpu", json!(12.5)),
        ("last_exit", json!(null)),
    ] {
        assert_eq!(told[key], want, "{key}");
    }
    has(told, &["since", "uptime_ms", "started_at", "generation"]);
    for name in ["comfyui-gpu0", "0"] {
        let one = rig.get(&format!("/services/{name}/health")).await;
        assert_eq!(one.status, 200);
        has(
            &one.json(),
            &["service", "healthy", "status", "timestamp", "message"],
        );
        assert_eq!(one.json()["service"], "comfyui-gpu0");
    }
    rig.end().await;
}

#[tokio::test]
async fn metrics_are_openmetrics_with_base_units() {
    let rig = Rig::new().await;
    let id = rig.app("comfyui-gpu0", probed()).await;
    let usage = Usage {
        memory: 4096,
        cpu: 12.5,
        processes: 2,
    };
    let measured = Usages::from([(id, (rig.generation(id), usage))]);
    rig.usages.send_replace(Arc::new(measured));
    rig.verdict(id, Verdict::Healthy, "answered 200").await;
    rig.write(id, "one\ntwo\n", "").await;
    let reply = rig.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        reply.head
    );
    let of_it = r#"service="comfyui-gpu0",app="comfyui-gpu0""#;
    for line in [
        format!(
            r#"fornax_build_info{{version="{}"}} 1.0"#,
            env!("CARGO_PKG_VERSION")
        ),
        format!(r#"fornax_service_status{{{of_it},status="healthy"}} 1.0"#),
        format!(r#"fornax_service_status{{{of_it},status="unhealthy"}} 0.0"#),
        format!("fornax_service_restarts_total{{{of_it}}} 0.0"),
        format!("fornax_service_memory_bytes{{{of_it}}} 4096.0"),
        format!("fornax_service_cpu_ratio{{{of_it}}} 0.125"),
        "fornax_log_lines_total 2.0".to_owned(),
        "# TYPE fornax_log_lines counter".to_owned(),
    ] {
        assert!(
            reply.body.lines().any(|told| told == line),
            "{line} in {}",
            reply.body
        );
    }
    assert!(reply.body.ends_with("# EOF\n"), "{}", reply.body);
    rig.end().await;
}

#[tokio::test]
async fn an_app_of_several_instances_is_told_one_by_one_and_as_its_worst() {
    let rig = Rig::new().await;
    rig.app("worker", json!({"instances": 2})).await;
    rig.app("solo", json!({})).await;
    let names = |reply: Reply| -> Vec<String> {
        let services = reply.json()["services"].as_array().unwrap().clone();
        services
            .iter()
            .map(|service| service["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(rig.get("/services").await),
        ["worker:0", "worker:1", "solo"]
    );
    assert_eq!(rig.get("/services/worker/health").await.status, 200);
    within(rig.handle.call(Command::Stop(PmId(1))))
        .await
        .unwrap();
    let whole = rig.get("/services/worker/health").await;
    assert_eq!(
        (whole.status, &whole.json()["status"]),
        (503, &json!("stopped"))
    );
    assert_eq!(whole.json()["instances"].as_array().unwrap().len(), 2);
    assert!(
        whole.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("worker:1: ")
    );
    assert_eq!(rig.get("/services/worker:0/health").await.status, 200);
    assert_eq!(rig.get("/services/worker%3A1/health").await.status, 503);
    assert_eq!(
        rig.get("/services/1/health").await.json()["service"],
        "worker:1"
    );
    rig.end().await;
}

#[tokio::test]
async fn a_wrong_name_is_told_the_right_ones() {
    let rig = Rig::new().await;
    assert!(
        rig.get("/services/x/health")
            .await
            .error()
            .contains("there are none yet")
    );
    rig.app("comfyui-gpu0", json!({})).await;
    for route in ["health", "logs"] {
        let reply = rig.get(&format!("/services/comfyui-gpu1/{route}")).await;
        assert_eq!(reply.status, 404);
        assert!(reply.error().contains("did you mean `comfyui-gpu0`?"));
        assert_eq!(reply.json()["services"], json!(["comfyui-gpu0"]));
    }
    assert!(
        rig.get("/services/redis/health")
            .await
            .error()
            .contains("there are comfyui-gpu0")
    );
    assert_eq!(rig.get("/services/7/health").await.status, 404);
    let nowhere = rig.get("/healthz").await;
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.error().contains("/services/{name}/health"));
    let bad = rig.get("/services/%FF/health").await;
    assert_eq!(bad.status, 400);
    bad.error();
    rig.end().await;
}

#[tokio::test]
async fn a_head_request_gets_the_head_only() {
    let rig = Rig::new().await;
    let reply = rig
        .ask("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    let follow = "HEAD /logs?follow=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(rig.ask(follow).await.status, 200);
    rig.end().await;
}

// The gaps of the source's health server (comfyui-facts 2.5).

#[tokio::test]
async fn gap_1_online_is_not_healthy_until_its_probe_passes() {
    let rig = Rig::new().await;
    let id = rig.app("comfyui-gpu0", probed()).await;
    assert_eq!(*rig.probes.lock().unwrap(), 1);
    let starting = rig.get("/health").await;
    assert_eq!(starting.status, 503);
    assert_eq!(starting.json()["services"][0]["status"], "starting");
    rig.verdict(id, Verdict::Healthy, "answered 200").await;
    assert_eq!(rig.get("/health").await.status, 200);
    rig.verdict(id, Verdict::Unhealthy, "connection refused")
        .await;
    let unhealthy = rig.get("/health").await;
    assert_eq!(unhealthy.status, 503);
    assert_eq!(
        unhealthy.json()["services"][0]["error"],
        "connection refused"
    );
    assert_eq!(rig.get("/services/comfyui-gpu0/health").await.status, 503);
    assert_eq!(*rig.probes.lock().unwrap(), 1, "no request causes a probe");
    rig.end().await;
}

#[tokio::test]
async fn gap_2_a_process_that_has_died_is_told_at_once_with_its_last_words() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({"restart_delay": 600_000})).await;
    assert_eq!(rig.get("/health").await.status, 200);
    rig.tell(id, exited(ExitCause::Code(1))).await;
    let health = rig.get("/health").await;
    assert_eq!(health.status, 503);
    assert!(
        health.json()["services"][0]["error"]
            .as_str()
            .unwrap()
            .contains("exit code 1")
    );
    let told = rig.get("/services/web/health").await.json();
    assert_eq!(
        (&told["pid"], &told["pm2_status"]),
        (&json!(null), &json!("waiting restart"))
    );
    assert_eq!(told["last_exit"]["cause"], "exit code 1");
    assert_eq!(
        told["last_exit"]["stderr_tail"],
        json!(["Traceback: it broke"])
    );
    assert!(told["last_exit"]["at"].as_str().unwrap().ends_with('Z'));
    rig.end().await;
}

#[tokio::test]
async fn gap_3_memory_is_that_of_the_run_that_was_measured() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({})).await;
    let usage = Usage {
        memory: 1 << 30,
        cpu: 1.0,
        processes: 3,
    };
    let measured = Usages::from([(id, (rig.generation(id), usage))]);
    rig.usages.send_replace(Arc::new(measured));
    assert_eq!(
        rig.get("/services/web/health").await.json()["memory"],
        1 << 30
    );
    let restart = Command::Restart {
        id,
        env: serde_json::Map::new(),
    };
    within(rig.handle.call(restart)).await.unwrap();
    let after = rig.get("/services/web/health").await.json();
    assert_eq!(
        (&after["memory"], &after["restarts"]),
        (&json!(0), &json!(1))
    );
    rig.end().await;
}

#[tokio::test]
async fn gap_4_a_one_shot_that_has_completed_is_healthy() {
    let rig = Rig::new().await;
    let id = rig
        .app("installer", json!({"fornax": {"type": "one-shot"}}))
        .await;
    rig.tell(id, exited(ExitCause::Code(0))).await;
    assert_eq!(rig.get("/health").await.status, 200);
    let told = rig.get("/services/installer/health").await;
    assert_eq!(told.status, 200);
    for (key, want) in [
        ("completed", json!(true)),
        ("pid", json!(null)),
        ("type", json!("one-shot")),
    ] {
        assert_eq!(told.json()[key], want, "{key}");
    }
    rig.end().await;
}

#[tokio::test]
async fn gaps_5_and_6_what_is_not_installed_is_listed_with_the_path_that_is_missing() {
    let rig = Rig::new().await;
    let install = json!({"fornax": {"install": [{"path": "ComfyUI/main.py", "hint": "run `fornax comfyui install`"}]}});
    rig.app("comfyui-gpu0", install).await;
    rig.app("later", json!({"autostart": false})).await;
    let told = rig.get("/services/comfyui-gpu0/health").await;
    assert_eq!(told.status, 503);
    assert_eq!(
        (&told.json()["status"], &told.json()["installed"]),
        (&json!("not_installed"), &json!(false))
    );
    let message = told.json()["message"].as_str().unwrap().to_owned();
    let path = rig.file("ComfyUI/main.py");
    assert!(
        message.contains(path.to_str().unwrap()) && message.contains("run `fornax"),
        "{message}"
    );
    let later = rig.get("/services/later/health").await.json();
    assert_eq!(
        (&later["status"], &later["installed"]),
        (&json!("stopped"), &json!(true))
    );
    rig.end().await;
}

#[tokio::test]
async fn gap_7_ready_waits_for_every_enabled_service_and_says_for_which() {
    let rig = Rig::new().await;
    let id = rig.app("comfyui-gpu0", probed()).await;
    let waiting = json!({"fornax": {"depends_on": {"comfyui-gpu0": "healthy"}}});
    rig.app("worker", waiting).await;
    let ready = rig.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["ready"], false);
    let told = ready.json()["waiting_for"].clone();
    assert_eq!(
        (&told[0]["service"], &told[0]["status"]),
        (&json!("comfyui-gpu0"), &json!("starting"))
    );
    assert!(
        told[1]["message"]
            .as_str()
            .unwrap()
            .contains("waiting for comfyui-gpu0 to be healthy")
    );
    assert_eq!(
        rig.get("/services/worker/health").await.json()["dependencies"],
        json!([{"name": "comfyui-gpu0", "condition": "healthy", "status": "starting", "met": false}])
    );
    rig.verdict(id, Verdict::Healthy, "answered 200").await;
    let mut snapshots = rig.handle.snapshots.clone();
    let up = |snapshot: &Arc<Snapshot>| snapshot.instances.iter().all(|view| view.pid.is_some());
    within(snapshots.wait_for(up)).await.unwrap();
    let ready = rig.get("/ready").await;
    assert_eq!(
        (ready.status, &ready.json()["waiting_for"]),
        (200, &json!([]))
    );
    rig.end().await;
}

#[tokio::test]
async fn gap_8_logs_are_read_where_the_app_writes_them() {
    let rig = Rig::new().await;
    let path = rig.file("elsewhere.log");
    std::fs::write(rig.file("elsewhere-0.log"), "from before\n").unwrap();
    let id = rig.app("web", json!({"pm_out_log_path": path})).await;
    rig.write(id, "hello\n", "").await;
    let told = rig.get("/services/web/logs").await.json();
    assert_eq!(told["count"], 2);
    assert_eq!(
        (&told["logs"][0]["line"], &told["logs"][0]["seq"]),
        (&json!("from before"), &json!(null))
    );
    assert_eq!(
        (&told["logs"][1]["line"], &told["logs"][1]["seq"]),
        (&json!("hello"), &json!(1))
    );
    rig.end().await;
}

#[tokio::test]
async fn gap_11_nothing_is_changed_without_the_token_and_no_foreign_page_is_let_in() {
    let rig = Rig::new().await;
    let request = |method: &str, path: &str, headers: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
        )
    };
    let file = rig.home.path().join("http.token");
    assert!(!file.exists(), "a token was made before it was needed");
    for (method, path) in [
        ("POST", "/restart/machine"),
        ("POST", "/health"),
        ("DELETE", "/services/x/health"),
    ] {
        let reply = rig.ask(&request(method, path, "")).await;
        assert_eq!(reply.status, 401, "{method} {path}");
        assert!(
            reply.head.contains("www-authenticate: bearer"),
            "{}",
            reply.head
        );
        assert!(reply.error().contains("http.token"));
        let wrong = "Authorization: Bearer 0123456789abcdef\r\n";
        let reply = rig.ask(&request(method, path, wrong)).await;
        assert_eq!(reply.status, 401, "{method} {path}");
    }
    // The first change that was asked for has made it.
    let token = std::fs::read_to_string(&file).unwrap();
    let right = format!("Authorization: Bearer {}\r\n", token.trim());
    for (method, path, status, allow) in [
        ("POST", "/health", 405, "allow: get,head"),
        ("POST", "/nowhere", 404, ""),
        ("OPTIONS", "/health", 405, "allow: get, head, post"),
    ] {
        let reply = rig.ask(&request(method, path, &right)).await;
        assert_eq!(reply.status, status, "{method} {path}");
        assert!(reply.head.contains(allow), "{}", reply.head);
        reply.error();
    }
    let foreign = format!("{right}Origin: https://example.org\r\n");
    let reply = rig.ask(&request("POST", "/health", &foreign)).await;
    assert_eq!(reply.status, 403);
    let large = format!(
        "POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n{right}\r\n"
    );
    let reply = rig.ask(&large).await;
    assert_eq!(reply.status, 413);
    assert!(reply.error().contains("65536 bytes"));
    for path in ["/health", "/services", "/nowhere", "/logs"] {
        let reply = rig.get(path).await;
        assert!(!reply.head.contains("access-control"), "{}", reply.head);
        assert!(
            reply.head.contains("cache-control: no-store"),
            "{}",
            reply.head
        );
    }
    for (headers, status) in [
        ("Host: evil.example.org", 403),
        ("Host: evil.example.org:9090", 403),
        ("Host: localhost:9090", 200),
        ("Host: [::1]:9090", 200),
        ("Host: localhost\r\nOrigin: https://evil.example.org", 403),
        ("Host: localhost\r\nOrigin: null", 403),
        ("Host: localhost:9090\r\nOrigin: http://localhost:9090", 200),
        ("Accept: */*", 400),
    ] {
        let request = format!("GET /health HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        let reply = rig.ask(&request).await;
        assert_eq!(reply.status, status, "{headers}");
        if status != 200 {
            reply.error();
        }
    }
    rig.end().await;
}

// How 2.2 is read.

#[tokio::test]
async fn a_service_that_a_person_has_stopped_makes_the_machine_unhealthy() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({})).await;
    within(rig.handle.call(Command::Stop(id))).await.unwrap();
    let health = rig.get("/health").await;
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["services"][0]["error"], "ended on request");
    assert_eq!(rig.get("/ready").await.status, 503);
    rig.end().await;
}

#[tokio::test]
async fn what_is_switched_off_does_not_count() {
    let rig = Rig::new().await;
    rig.app("web", json!({})).await;
    rig.app("spare", json!({"fornax": {"enabled": false}}))
        .await;
    let health = rig.get("/health").await;
    assert_eq!(health.status, 200);
    let spare = &health.json()["services"][1];
    assert_eq!(
        (&spare["status"], &spare["enabled"]),
        (&json!("not_configured"), &json!(false))
    );
    let told = rig.get("/services/spare/health").await;
    assert_eq!(
        (told.status, &told.json()["health"]),
        (503, &json!("not_applicable"))
    );
    rig.end().await;
}

// Logs.

#[tokio::test]
async fn logs_are_limited_filtered_and_told_as_json_or_text() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({})).await;
    rig.write(id, "one\ntwo [a]\nthree\n", "").await;
    rig.write(id, "", "oops\n").await;
    let lines = |reply: &Reply| -> Vec<String> {
        let logs = reply.json()["logs"].as_array().unwrap().clone();
        logs.iter()
            .map(|line| line["line"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = rig.get("/services/web/logs").await;
    let mut sorted = lines(&all);
    sorted.sort();
    assert_eq!(sorted, ["one", "oops", "three", "two [a]"]);
    let told = all.json();
    assert_eq!(
        (&told["service"], &told["limit"], &told["complete"]),
        (&json!("web"), &json!(100), &json!(true))
    );
    assert!(
        told["timestamp"].is_string() && told["logs"][0]["at"].as_str().unwrap().ends_with('Z')
    );
    assert_eq!(
        lines(&rig.get("/services/web/logs?stream=out&limit=2").await),
        ["two [a]", "three"]
    );
    assert_eq!(
        lines(&rig.get("/services/web/logs?stream=err").await),
        ["oops"]
    );
    assert_eq!(
        lines(&rig.get("/services/0/logs?grep=%5C%5Ba%5C%5D").await),
        ["two [a]"]
    );
    assert_eq!(
        lines(&rig.get("/services/web/logs?since=1h&stream=out").await).len(),
        3
    );
    assert_eq!(
        lines(
            &rig.get("/services/web/logs?since=2099-01-01T00:00:00Z")
                .await
        )
        .len(),
        0
    );
    assert_eq!(lines(&rig.get("/logs?stream=err").await), ["oops"]);
    let text = rig.get("/services/web/logs?format=text&stream=out").await;
    assert_eq!(text.body, "one\ntwo [a]\nthree\n");
    let accept = "GET /services/web/logs?stream=err HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n";
    let accepted = rig.ask(accept).await;
    assert_eq!(accepted.body, "oops\n");
    assert!(accepted.head.contains("content-type: text/plain"));
    rig.end().await;
}

#[tokio::test]
async fn a_bad_parameter_is_an_error_that_says_what_is_right() {
    let rig = Rig::new().await;
    rig.app("web", json!({})).await;
    for (query, word) in [
        ("limit=0", "1 to 10000"),
        ("stream=both", "out, err"),
        ("since=then", "how long ago"),
        ("grep=%28", "regular expression"),
        ("limt=1", "did you mean `limit`?"),
    ] {
        for path in ["/services/web/logs", "/logs"] {
            let reply = rig.get(&format!("{path}?{query}")).await;
            assert_eq!(reply.status, 400, "{query}");
            assert!(reply.error().contains(word), "{query}: {}", reply.error());
        }
    }
    let bad_id = "GET /logs?follow=true HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: nonsense\r\nConnection: close\r\n\r\n";
    let reply = rig.ask(bad_id).await;
    assert_eq!(reply.status, 400);
    assert!(reply.error().contains("begin anew"));
    rig.end().await;
}

#[tokio::test]
async fn a_follower_gets_the_last_lines_first_and_then_each_new_one_once() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({})).await;
    rig.write(id, "one\ntwo\nthree\n", "").await;
    let mut events = rig
        .follow("/services/web/logs?follow=true&limit=2", "")
        .await;
    assert_eq!(events.lines(2).await.0, ["two", "three"]);
    rig.write(id, "four\n", "").await;
    rig.write(id, "", "five\n").await;
    let event = events.next().await.unwrap();
    let data: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(
        (
            &data["line"],
            &data["stream"],
            &data["seq"],
            &data["service"],
            &data["pm_id"]
        ),
        (
            &json!("four"),
            &json!("out"),
            &json!(4),
            &json!("web"),
            &json!(0)
        )
    );
    let (lines, id) = events.lines(1).await;
    assert_eq!(
        (lines[0].as_str(), id.as_str()),
        ("five", "1760085000000.0o4.0e1")
    );
    rig.handle.shutdown.cancel();
    assert!(events.next().await.is_none(), "it ends with the daemon");
    rig.end().await;
}

#[tokio::test]
async fn a_follower_resumes_without_gap_or_repeat_across_rotations() {
    let rig = Rig::new().await;
    let rotation = json!({"fornax": {"logs": {"max_size": 64, "retain": 30}}});
    let id = rig.app("web", rotation).await;
    let line = |n: usize| format!("line number {n:04} of the log");
    let (mut written, mut seen, mut last) = (0, Vec::new(), String::new());
    for round in 0..5 {
        let headers = if last.is_empty() {
            String::new()
        } else {
            format!("Last-Event-ID: {last}\r\n")
        };
        let mut events = rig
            .follow(
                "/services/web/logs?follow=true&limit=100&stream=out",
                &headers,
            )
            .await;
        for _ in 0..3 {
            written += 1;
            rig.write(id, &format!("{}\n", line(written)), "").await;
        }
        // Some are left untaken, so that the next one has to catch up.
        let take = written - seen.len() - usize::from(round < 4);
        let (lines, id) = events.lines(take).await;
        seen.extend(lines);
        last = id;
        drop(events);
        written += 1;
        rig.write(PmId(0), &format!("{}\n", line(written)), "")
            .await;
    }
    let mut events = rig
        .follow(
            "/services/web/logs?follow=true&stream=out",
            &format!("Last-Event-ID: {last}\r\n"),
        )
        .await;
    seen.extend(events.lines(written - seen.len()).await.0);
    let want: Vec<String> = (1..=written).map(line).collect();
    assert_eq!(seen, want);
    let rotated = std::fs::read_dir(rig.home.path()).unwrap().count();
    assert!(rotated > 5, "{rotated} files: it was rotated");
    rig.end().await;
}

#[tokio::test]
async fn a_follower_that_reconnects_while_lines_pour_in_gets_each_line_once() {
    const LINES: usize = 5_000;
    let rig = Rig::new().await;
    let rotation = json!({"fornax": {"logs": {"max_size": 16_384, "retain": 100}}});
    let id = rig.app("web", rotation).await;
    let mut out = rig.runs.lock().unwrap()[&id].out.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for n in 0..LINES {
            writeln!(out, "line {n}").unwrap();
            if n % 50 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let (mut seen, mut last) = (Vec::new(), "1760085000000".to_owned());
    let mut connections = 0;
    while seen.len() < LINES {
        let headers = format!("Last-Event-ID: {last}\r\n");
        let mut events = rig.follow("/services/web/logs?follow=1", &headers).await;
        let take = (97 + connections * 61).min(LINES - seen.len());
        let (lines, id) = events.lines(take).await;
        seen.extend(lines);
        last = id;
        connections += 1;
    }
    writer.join().unwrap();
    let want: Vec<String> = (0..LINES).map(|n| format!("line {n}")).collect();
    assert!(
        seen == want,
        "{:?}",
        seen.iter().zip(&want).find(|(a, b)| a != b)
    );
    assert!(connections > 5, "{connections} connections");
    rig.end().await;
}

#[tokio::test]
async fn an_id_of_another_life_of_the_daemon_is_recognised() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({})).await;
    rig.write(id, "", "new life\n").await;
    let mut events = rig
        .follow(
            "/services/web/logs?follow=true",
            "Last-Event-ID: 1660000000000.0o900.0e7\r\n",
        )
        .await;
    let notice = events.next().await.unwrap();
    assert_eq!(notice.event, "restarted");
    assert!(
        notice.data.contains("2022-08-08T23:06:40.000Z"),
        "{}",
        notice.data
    );
    assert_eq!(events.lines(1).await.0, ["new life"]);
    rig.end().await;
}

#[tokio::test]
async fn lines_that_are_lost_are_told_of() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({})).await;
    rig.write(id, "one\ntwo\nthree\n", "").await;
    let path = rig
        .handle
        .snapshot()
        .get(id)
        .unwrap()
        .spec
        .logs
        .out
        .clone()
        .unwrap();
    let failed = rig.handle.plane.flush(vec![path]).await.unwrap();
    assert!(failed.is_empty());
    rig.write(id, "four\n", "").await;
    let mut events = rig
        .follow(
            "/services/web/logs?follow=true",
            "Last-Event-ID: 1760085000000.0o1.0e0\r\n",
        )
        .await;
    let missed = events.next().await.unwrap();
    assert_eq!(
        (missed.event.as_str(), missed.data.as_str()),
        ("missed", r#"{"lines":2}"#)
    );
    assert_eq!(events.lines(1).await.0, ["four"]);
    // Who comes anew has missed nothing.
    let mut events = rig
        .follow("/services/web/logs?follow=true&limit=0", "")
        .await;
    rig.write(id, "five\n", "").await;
    assert_eq!(events.lines(1).await.0, ["five"]);
    rig.end().await;
}

#[tokio::test]
async fn a_slow_follower_is_told_how_many_lines_it_lost() {
    const LINES: u64 = 20_000;
    let logs = LogOptions {
        follower_bytes: 64 << 10,
        ..LogOptions::default()
    };
    let rig = Rig::with(Setup {
        logs,
        ..Setup::default()
    })
    .await;
    let id = rig.app("web", json!({})).await;
    let mut events = rig
        .follow("/services/web/logs?follow=true&limit=0", "")
        .await;
    let mut out = rig.runs.lock().unwrap()[&id].out.try_clone().unwrap();
    let filler = "x".repeat(1_000);
    let writer = std::thread::spawn(move || {
        for n in 1..=LINES {
            writeln!(out, "{n} {filler}").unwrap();
        }
    });
    // Nothing is read meanwhile.
    while !writer.is_finished() {
        tokio::task::yield_now().await;
    }
    writer.join().unwrap();
    let (mut next, mut lost) = (1, 0);
    while next <= LINES {
        let event = events.next().await.unwrap();
        if event.event == "missed" {
            let missed: Value = serde_json::from_str(&event.data).unwrap();
            let lines = missed["lines"].as_u64().unwrap();
            (next, lost) = (next + lines, lost + lines);
        } else {
            let line = event.line();
            let (number, _) = line.split_once(' ').unwrap();
            assert_eq!(number, next.to_string(), "each loss is told in its place");
            next += 1;
        }
    }
    assert!(lost > 0);
    let status = rig.get("/status").await.json();
    assert_eq!(status["logs"]["missed_lines"], lost);
    assert_eq!(status["logs"]["dropped_lines"], 0);
    rig.end().await;
}

#[tokio::test]
async fn a_follower_takes_only_what_it_asks_for_and_new_instances_too() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({"instances": 1})).await;
    rig.app("other", json!({})).await;
    let mut matching = rig
        .follow(
            "/services/web/logs?follow=true&limit=0&stream=out&grep=keep",
            "",
        )
        .await;
    let mut texts = rig
        .follow("/logs?follow=true&limit=0&format=text", "")
        .await;
    rig.write(id, "drop\nkeep 1\n", "").await;
    rig.write(id, "", "keep no err\n").await;
    let copy = within(rig.handle.call(Command::Duplicate(id)))
        .await
        .unwrap()[0]
        .id;
    rig.write(copy, "keep 2\n", "").await;
    assert_eq!(matching.lines(2).await.0, ["keep 1", "keep 2"]);
    let texts = [
        texts.next().await.unwrap().data,
        texts.next().await.unwrap().data,
        texts.next().await.unwrap().data,
    ];
    assert_eq!(texts, ["drop", "keep 1", "keep no err"]);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_that_it_lives() {
    let rig = Rig::new().await;
    let mut events = rig.follow("/logs?follow=true&limit=0", "").await;
    for _ in 0..2 {
        assert_eq!(events.next().await.unwrap().comment, "heartbeat");
    }
    rig.end().await;
}

#[tokio::test]
async fn more_followers_than_there_are_seats_are_refused_and_the_rest_is_still_served() {
    let rig = Rig::new().await;
    let mut seated = Vec::new();
    for _ in 0..64 {
        seated.push(rig.follow("/logs?follow=true&limit=0", "").await);
    }
    let refused = rig.get("/logs?follow=true").await;
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1"));
    assert_eq!(rig.get("/health").await.status, 200);
    drop(seated);
    rig.end().await;
}

// Secrets.

#[tokio::test]
async fn values_of_the_environment_are_in_no_answer() {
    let rig = Rig::new().await;
    let id = rig.app("web", json!({"args": ["--quiet"]})).await;
    rig.write(id, "hello\n", "").await;
    rig.tell(id, exited(ExitCause::Code(1))).await;
    for path in [
        "/health",
        "/ready",
        "/services",
        "/services/web/health",
        "/services/web/logs",
        "/logs",
        "/status",
        "/version",
        "/metrics",
        "/services/wob/health",
        "/nowhere",
    ] {
        let reply = rig.get(path).await;
        assert!(
            !reply.body.contains(SECRET) && !reply.body.contains("API_KEY"),
            "{path}: {}",
            reply.body
        );
    }
    rig.end().await;
}

#[tokio::test]
async fn a_port_open_to_other_machines_wants_the_token() {
    let setup = Setup {
        listen: "0.0.0.0:0",
        ..Setup::default()
    };
    let rig = Rig::with(setup).await;
    rig.app("web", json!({})).await;
    let file = rig.file("http.token");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    let ask = |path: &str, token: &str| {
        let given = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {token}\r\n")
        };
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{given}Connection: close\r\n\r\n")
    };
    for path in [
        "/services",
        "/services/web/health",
        "/services/web/logs",
        "/logs?follow=true",
        "/status",
        "/version",
        "/metrics",
        "/nowhere",
    ] {
        let reply = rig.ask(&ask(path, "")).await;
        assert_eq!(reply.status, 401, "{path}");
        assert!(reply.head.contains("www-authenticate: bearer"));
        assert!(!reply.body.contains("web"), "{}", reply.body);
    }
    assert_eq!(
        rig.ask(&ask("/services", "0123456789abcdef0123456789abcdef"))
            .await
            .status,
        401
    );
    assert_eq!(rig.ask(&ask("/services", &token)).await.status, 200);
    let health = rig.ask(&ask("/health", "")).await.json();
    let keys: Vec<&String> = health.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["healthy", "status", "timestamp"]);
    let ready = rig.ask(&ask("/ready", "")).await.json();
    assert_eq!(ready.as_object().unwrap().len(), 2);
    assert!(rig.ask(&ask("/health", &token)).await.json()["services"].is_array());
    rig.end().await;
}

// The listener.

#[tokio::test]
async fn it_moves_to_another_address_when_that_works_and_stays_when_it_does_not() {
    let rig = Rig::new().await;
    let first = rig.address();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    let mut events = rig.follow("/logs?follow=true&limit=0", "").await;
    for (wanted, words) in [
        (busy.as_str(), "already taken"),
        ("example.org:80", "not an address"),
    ] {
        match within(rig.handle.listen(wanted.to_owned())).await.unwrap() {
            HttpState::Failed { address, reason } => {
                assert_eq!(address, wanted);
                assert!(
                    reason.contains(words)
                        && reason.contains("--http")
                        && reason.contains("FORNAX_HTTP"),
                    "{reason}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(rig.address(), first, "the old one still serves");
        assert_eq!(rig.get("/health").await.status, 200);
    }
    let again = within(rig.handle.listen(first.to_string())).await.unwrap();
    assert_eq!(again, HttpState::Listening(first));
    let moved = within(rig.handle.listen("127.0.0.1:0".to_owned()))
        .await
        .unwrap();
    assert_eq!(moved, rig.handle.http.borrow().clone());
    assert_ne!(rig.address(), first);
    assert!(
        events.next().await.is_none(),
        "followers of a closed listener are told to come again"
    );
    assert_eq!(rig.get("/health").await.status, 200);
    assert!(TcpStream::connect(first).await.is_err());
    // The same port on another address: our own listener is in the way.
    let port = rig.address().port();
    let wide = within(rig.handle.listen(format!("0.0.0.0:{port}")))
        .await
        .unwrap();
    assert_eq!(
        wide,
        HttpState::Listening(format!("0.0.0.0:{port}").parse().unwrap())
    );
    assert_eq!(rig.get("/services").await.status, 401);
    assert_eq!(
        within(rig.handle.listen("off".to_owned())).await.unwrap(),
        HttpState::Off
    );
    assert!(
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))
            .await
            .is_err()
    );
    rig.end().await;
}

#[tokio::test]
async fn a_first_address_that_fails_is_told_and_another_can_follow() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let busy: &'static str = taken.local_addr().unwrap().to_string().leak();
    let setup = Setup {
        listen: busy,
        ..Setup::default()
    };
    let rig = Rig::with(setup).await;
    assert!(matches!(
        &*rig.handle.http.borrow(),
        HttpState::Failed { .. }
    ));
    within(rig.handle.listen("127.0.0.1:0".to_owned()))
        .await
        .unwrap();
    assert_eq!(rig.get("/health").await.status, 200);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_dawdles_is_cut_off() {
    let rig = Rig::new().await;
    for sent in ["", "GET /health HTTP/1.1\r\nHost: local"] {
        let mut stream = TcpStream::connect(rig.address()).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(11), stream.read_to_end(&mut bytes)).await;
        // Its end may come as a reset.
        assert!(read.is_ok(), "{sent:?}");
    }
    rig.end().await;
}

#[tokio::test]
async fn idle_connections_past_the_limit_make_room_for_the_next() {
    let rig = Rig::new().await;
    let mut idle = Vec::new();
    for _ in 0..256 {
        idle.push(TcpStream::connect(rig.address()).await.unwrap());
    }
    assert_eq!(rig.get("/health").await.status, 200);
    let mut bytes = Vec::new();
    let oldest = within(idle[0].read_to_end(&mut bytes)).await;
    assert!(oldest.is_err() || bytes.is_empty());
    drop(idle);
    rig.end().await;
}

#[tokio::test]
async fn localhost_is_both_of_its_addresses() {
    let rig = Rig::with(Setup {
        listen: "localhost:0",
        ..Setup::default()
    })
    .await;
    let port = rig.address().port();
    assert_eq!(rig.get("/health").await.status, 200);
    let v6 = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let request = "GET /health HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n";
        assert_eq!(ask(v6, request).await.status, 200);
    } else {
        eprintln!("NOT RUN: ::1: this machine has none");
    }
    // To one of them and back: its own listener is in the way.
    for wanted in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        let state = within(rig.handle.listen(wanted)).await.unwrap();
        assert_eq!(state, HttpState::Listening(rig.address()));
        assert_eq!(rig.get("/health").await.status, 200);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_large_ones_are_refused() {
    let rig = Rig::new().await;
    let twice = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(rig.ask(twice).await.body.matches("HTTP/1.1 200").count(), 1);
    let long = format!(
        "GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    assert_eq!(rig.ask(&long).await.status, 431);
    // A body is not read.
    let body = "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n";
    assert_eq!(rig.ask(body).await.status, 200);
    rig.end().await;
}
