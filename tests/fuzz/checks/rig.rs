//! The daemon's loop over a world in which nothing is real: processes start at once, and die of any signal that can kill.

use fornax::adapters::event::{RunEvent, RunEventKind};
use fornax::adapters::facts::RunFacts;
use fornax::adapters::logs::{LogOptions, LogPlane};
use fornax::adapters::plan::RunPlan;
use fornax::adapters::probes::ProbePlan;
use fornax::core::exit::ExitCause;
use fornax::core::ids::{Generation, PmId};
use fornax::core::signal::Signal;
use fornax::core::watch::WatchSpec;
use fornax::daemon::bus::{Bus, BusEvent};
use fornax::daemon::command::Command;
use fornax::daemon::handle::{DaemonInfo, Handle, HttpState};
use fornax::daemon::run::{Daemon, Inputs};
use fornax::daemon::settings::Settings;
use fornax::daemon::snapshot::InstanceView;
use fornax::daemon::wire;
use fornax::daemon::world::{Needs, World};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::broadcast::{self, error::TryRecvError};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// An app whose name begins so ends with code 1, a little after each start.
const CRASHES: &str = "bad";

/// Where nothing is, so that neither logs nor settings are read from disk.
const HOME: &str = "/nonexistent/fornax-fuzz";

/// 2026-01-01T00:00:00Z, when this world begins.
const NEW_YEAR_MS: u64 = 1_767_225_600_000;

/// A log thread for all runs: no run writes a line.
fn plane() -> LogPlane {
    static PLANE: OnceLock<LogPlane> = OnceLock::new();
    let start = || LogPlane::start(LogOptions::default(), None).unwrap();
    PLANE.get_or_init(start).clone()
}

pub struct Rig {
    pub handle: Handle,
    events: mpsc::Sender<RunEvent>,
    bus: broadcast::Receiver<BusEvent>,
    running: JoinHandle<()>,
}

impl Rig {
    pub fn new() -> Self {
        let (commands, command_inputs) = mpsc::channel(64);
        let (events, event_inputs) = mpsc::channel(64);
        let (published, snapshots) = watch::channel(Arc::default());
        let (settings, settings_seen) = watch::channel(Settings::default());
        let bus = Bus::default();
        let world = Unreal {
            alive: Arc::default(),
            events: events.clone(),
            began: Instant::now(),
        };
        let inputs = Inputs {
            commands: command_inputs,
            events: event_inputs,
        };
        let daemon = Daemon::new(world, bus.clone(), published, settings_seen);
        let info = DaemonInfo {
            pid: 4_000_000,
            started_at_ms: NEW_YEAR_MS,
            life: NEW_YEAR_MS,
            home: PathBuf::from(HOME),
            user: "fuzz".to_owned(),
        };
        let listener = bus.subscribe();
        let handle = Handle {
            commands,
            snapshots,
            usages: watch::channel(Arc::default()).1,
            host: watch::channel(Arc::new(json!({}))).1,
            sample: Arc::new(Notify::new()),
            bus,
            plane: plane(),
            roots: Arc::default(),
            runs: Arc::default(),
            settings,
            http: watch::channel(HttpState::Off).1,
            http_requests: mpsc::channel(1).0,
            mourner: Arc::default(),
            succession: Arc::default(),
            info: Arc::new(info),
            shutdown: CancellationToken::new(),
        };
        Self {
            handle,
            events,
            bus: listener,
            running: tokio::spawn(daemon.run(inputs)),
        }
    }

    /// Starts an app.
    pub async fn start(&self, name: &str) {
        let conf = json!({
            "name": name,
            "pm_exec_path": "/srv/app.sh",
            "pm_cwd": "/srv",
            "exec_interpreter": "none",
            "pm_out_log_path": "/nonexistent/out.log",
            "pm_err_log_path": "/nonexistent/err.log",
            "env": {},
        });
        let conf = conf.as_object().unwrap().clone();
        let version = "1.0.0".to_owned();
        self.handle
            .call(Command::Prepare { conf, version })
            .await
            .unwrap();
    }

    /// The latest run of an instance says something on its channel.
    pub async fn say(&self, id: PmId, message: Value) {
        let generation = self.handle.snapshot().get(id).unwrap().generation;
        let kind = RunEventKind::Message(message);
        self.events
            .send(RunEvent {
                id,
                generation,
                kind,
            })
            .await
            .unwrap();
    }

    fn heard(&mut self) -> Option<BusEvent> {
        loop {
            match self.bus.try_recv() {
                Ok(event) => return Some(event),
                // The oldest are dropped where there are many.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// A file changes that each app may watch.
    pub async fn change_a_file(&self) {
        for view in &self.handle.snapshot().instances {
            let (id, path, at) = (view.id, "src/x.js".to_owned(), Instant::now());
            // One that is not watched says so.
            drop(self.handle.call(Command::Changed { id, path, at }).await);
        }
    }

    /// All that has been asked and told is done; apps that crash have done so a few times.
    pub async fn until_quiet(&self) {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    /// After a while the daemon still answers, and what it tells of each app, and has told on the bus, is JSON.
    pub async fn check(mut self) {
        self.until_quiet().await;
        if self.running.is_finished() {
            self.running.await.unwrap();
            panic!("the loop has ended");
        }
        // A command that is always answered; an error is as good.
        drop(self.handle.call(Command::Reset(PmId(u32::MAX))).await);
        for view in &self.handle.snapshot().instances {
            told(view);
        }
        while let Some(event) = self.heard() {
            let payload: Value = serde_json::from_str(&event.payload).unwrap();
            assert!(payload.is_object(), "{}: {payload}", event.topic);
        }
    }
}

fn told(view: &InstanceView) {
    let mut record = String::new();
    wire::record(view, &mut record);
    let record: Value = serde_json::from_str(&record).unwrap();
    assert!(record.is_object(), "{record}");
    let mut env = String::new();
    wire::pm2_env(view, &mut env);
    let env: Value = serde_json::from_str(&env).unwrap();
    assert_eq!(env["pm_id"], view.id.0, "{env}");
    assert_eq!(env["name"], &*view.spec.name, "{env}");
}

#[derive(Clone)]
struct Unreal {
    alive: Arc<Mutex<BTreeSet<(PmId, Generation)>>>,
    events: mpsc::Sender<RunEvent>,
    began: Instant,
}

impl Unreal {
    fn end(&self, id: PmId, generation: Generation, after: Duration, cause: ExitCause) {
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if world.alive.lock().unwrap().remove(&(id, generation)) {
                let stderr_tail = vec!["it broke".to_owned()];
                let kind = RunEventKind::Exited {
                    cause,
                    leftovers: false,
                    stderr_tail,
                };
                world.tell(id, generation, kind).await;
            }
        });
    }

    async fn tell(&self, id: PmId, generation: Generation, kind: RunEventKind) {
        // The loop may have ended.
        drop(
            self.events
                .send(RunEvent {
                    id,
                    generation,
                    kind,
                })
                .await,
        );
    }
}

impl World for Unreal {
    fn spawn(&mut self, plan: RunPlan, _: Needs) {
        let (id, generation, world) = (plan.id, plan.generation, self.clone());
        self.alive.lock().unwrap().insert((id, generation));
        if plan.name.starts_with(CRASHES) {
            self.end(
                id,
                generation,
                Duration::from_millis(40),
                ExitCause::Code(1),
            );
        }
        tokio::spawn(async move {
            let pid = 4_000_000 + id.0;
            world
                .tell(
                    id,
                    generation,
                    RunEventKind::Spawned {
                        pid,
                        facts: RunFacts::default(),
                    },
                )
                .await;
        });
    }

    fn signal(&mut self, id: PmId, generation: Generation, signal: Signal) {
        if [Signal::INT, Signal::TERM, Signal::KILL].contains(&signal) {
            self.end(id, generation, Duration::ZERO, ExitCause::Signal(signal));
        }
    }

    fn signal_root(&mut self, id: PmId, generation: Generation, signal: Signal) {
        self.signal(id, generation, signal);
    }

    fn disconnect(&mut self, _: PmId, _: Generation) {}

    fn ask_to_stop(&mut self, id: PmId, generation: Generation, otherwise: Signal) {
        self.signal(id, generation, otherwise);
    }

    fn watch(&mut self, _: PmId, _: Option<Arc<WatchSpec>>) {}

    fn wall_ms(&self) -> u64 {
        NEW_YEAR_MS.saturating_add(self.began.elapsed().as_millis() as u64)
    }

    fn probe(&mut self, _: ProbePlan) {}

    fn stop_probe(&mut self, _: PmId) {}

    fn release(&mut self, _: PmId) {}
}
