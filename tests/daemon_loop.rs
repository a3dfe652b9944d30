//! The daemon's loop on a virtual clock, over a world that does what each test says.

#![allow(clippy::unwrap_used)] // the rig around the tests fails a test by panicking, too

use fornax::adapters::cluster::ClusterFact;
use fornax::adapters::event::{RunEvent, RunEventKind};
use fornax::adapters::facts::RunFacts;
use fornax::adapters::plan::RunPlan;
use fornax::adapters::probes::ProbePlan;
use fornax::core::exit::ExitCause;
use fornax::core::ids::{Generation, PmId};
use fornax::core::probe::Verdict;
use fornax::core::service::ServiceStatus;
use fornax::core::signal::Signal;
use fornax::core::status::Status;
use fornax::core::watch::WatchSpec;
use fornax::daemon::bus::Bus;
use fornax::daemon::command::{Answer, Command, CommandError};
use fornax::daemon::run::{Daemon, Inputs, Request};
use fornax::daemon::settings::Settings;
use fornax::daemon::snapshot::{InstanceView, Snapshot};
use fornax::daemon::world::{Needs, World};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z, when the fake world begins.
const NEW_YEAR_MS: u64 = 1_767_225_600_000;

/// What an app of the fake world does.
#[derive(Debug, Clone)]
struct Life {
    /// How long its spawn takes; `None`: it is never answered.
    spawn: Option<Duration>,
    /// It can't be spawned, for this reason.
    refused: Option<&'static str>,
    /// There is no room for it until so many milliseconds after the beginning, but for the first time.
    starved_until: Option<u64>,
    /// It ends by itself after this long, with this code.
    ends: Option<(Duration, i32)>,
    /// The signals that end it.
    dies_of: Vec<Signal>,
    /// How long its descendants outlive it.
    leftovers: Option<Duration>,
    /// It ends when it is asked to by message.
    listens: bool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            spawn: Some(Duration::ZERO),
            refused: None,
            starved_until: None,
            ends: None,
            dies_of: vec![Signal::INT, Signal::TERM, Signal::KILL],
            leftovers: None,
            listens: false,
        }
    }
}

impl Life {
    fn ending(after_ms: u64, code: i32) -> Self {
        Self {
            ends: Some((Duration::from_millis(after_ms), code)),
            ..Self::default()
        }
    }

    fn deaf_to(signals: &[Signal]) -> Self {
        let mut life = Self::default();
        life.dies_of.retain(|signal| !signals.contains(signal));
        life
    }
}

/// What the loop has done to the world, and when.
#[derive(Debug, Clone, PartialEq)]
enum Deed {
    Spawned(String, Generation),
    Signalled(PmId, Signal),
    Asked(PmId),
    Watched(PmId, bool),
    Disconnected(PmId, Generation),
}

#[derive(Default)]
struct State {
    lives: HashMap<String, Life>,
    deeds: Vec<(u64, Deed)>,
    alive: HashMap<(PmId, Generation), Life>,
    most_alive: HashMap<PmId, usize>,
    envs: Vec<std::collections::BTreeMap<String, String>>,
    /// How far somebody has set the wall clock.
    clock_set_by: i64,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    events: mpsc::Sender<RunEvent>,
    began: Instant,
}

impl Fake {
    fn note(&self, deed: Deed) {
        let at = self.began.elapsed().as_millis() as u64;
        self.state.lock().unwrap().deeds.push((at, deed));
    }

    fn end(&self, id: PmId, generation: Generation, cause: ExitCause) {
        let Some(life) = self.state.lock().unwrap().alive.remove(&(id, generation)) else {
            return;
        };
        let fake = self.clone();
        tokio::spawn(async move {
            let kind = RunEventKind::Exited {
                cause,
                leftovers: life.leftovers.is_some(),
                stderr_tail: vec!["it broke".to_owned()],
            };
            fake.tell(id, generation, kind).await;
            if let Some(outlive) = life.leftovers {
                tokio::time::sleep(outlive).await;
                fake.tell(id, generation, RunEventKind::TreeEmpty).await;
            }
        });
    }

    async fn tell(&self, id: PmId, generation: Generation, kind: RunEventKind) {
        let event = RunEvent {
            id,
            generation,
            kind,
        };
        // The loop may have ended.
        let _ = self.events.send(event).await;
    }
}

impl World for Fake {
    fn spawn(&mut self, plan: RunPlan, _: Needs) {
        let (id, generation, fake) = (plan.id, plan.generation, self.clone());
        self.note(Deed::Spawned(plan.name.to_string(), generation));
        let now = self.began.elapsed().as_millis() as u64;
        let first = generation.number() == 1;
        let life = {
            let mut state = self.state.lock().unwrap();
            state.envs.push(plan.env);
            let mut life = state.lives.get(&*plan.name).cloned().unwrap_or_default();
            life.starved_until = life.starved_until.filter(|until| !first && now < *until);
            if life.refused.is_none() && life.starved_until.is_none() {
                state.alive.insert((id, generation), life.clone());
            }
            let count = state.alive.keys().filter(|(owner, _)| *owner == id).count();
            let most = state.most_alive.entry(id).or_default();
            *most = count.max(*most);
            life
        };
        let Some(delay) = life.spawn else { return };
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if let Some(reason) = life.refused {
                let kind = RunEventKind::SpawnFailed {
                    reason: reason.to_owned(),
                    not_installed: false,
                };
                return fake.tell(id, generation, kind).await;
            }
            if life.starved_until.is_some() {
                let reason = "cannot make a pipe".to_owned();
                return fake
                    .tell(id, generation, RunEventKind::Starved { reason })
                    .await;
            }
            let pid = 4_000_000 + id.0;
            fake.tell(
                id,
                generation,
                RunEventKind::Spawned {
                    pid,
                    facts: RunFacts::default(),
                },
            )
            .await;
            if let Some((Duration::ZERO, code)) = life.ends {
                // Its end is there before anybody has looked at its beginning.
                fake.state.lock().unwrap().alive.remove(&(id, generation));
                let kind = RunEventKind::Exited {
                    cause: ExitCause::Code(code),
                    leftovers: false,
                    stderr_tail: Vec::new(),
                };
                fake.tell(id, generation, kind).await;
            } else if let Some((after, code)) = life.ends {
                tokio::time::sleep(after).await;
                fake.end(id, generation, ExitCause::Code(code));
            }
        });
    }

    fn signal(&mut self, id: PmId, generation: Generation, signal: Signal) {
        self.note(Deed::Signalled(id, signal));
        let dies = {
            let state = self.state.lock().unwrap();
            let life = state.alive.get(&(id, generation));
            life.is_some_and(|life| life.dies_of.contains(&signal))
        };
        if dies {
            self.end(id, generation, ExitCause::Signal(signal));
        }
    }

    fn signal_root(&mut self, id: PmId, generation: Generation, signal: Signal) {
        self.signal(id, generation, signal);
    }

    fn ask_to_stop(&mut self, id: PmId, generation: Generation, otherwise: Signal) {
        self.note(Deed::Asked(id));
        let listens = {
            let state = self.state.lock().unwrap();
            let life = state.alive.get(&(id, generation));
            life.is_some_and(|life| life.listens)
        };
        match listens {
            true => self.end(id, generation, ExitCause::Code(0)),
            false => self.signal(id, generation, otherwise),
        }
    }

    fn watch(&mut self, id: PmId, spec: Option<Arc<WatchSpec>>) {
        self.note(Deed::Watched(id, spec.is_some()));
    }

    fn wall_ms(&self) -> u64 {
        let set = self.state.lock().unwrap().clock_set_by;
        NEW_YEAR_MS
            .saturating_add_signed(set)
            .saturating_add(self.began.elapsed().as_millis() as u64)
    }

    fn disconnect(&mut self, id: PmId, generation: Generation) {
        self.note(Deed::Disconnected(id, generation));
    }

    fn probe(&mut self, _: ProbePlan) {}

    fn stop_probe(&mut self, _: PmId) {}

    fn release(&mut self, _: PmId) {}
}

struct Rig {
    commands: mpsc::Sender<Request>,
    events: mpsc::Sender<RunEvent>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    fake: Fake,
}

impl Rig {
    fn new(lives: &[(&str, Life)]) -> Self {
        let (commands, command_inputs) = mpsc::channel(64);
        let (events, event_inputs) = mpsc::channel(64);
        let (snapshots, seen) = watch::channel(Arc::default());
        let (_, settings) = watch::channel(Settings::default());
        let fake = Fake {
            state: Arc::default(),
            events: events.clone(),
            began: Instant::now(),
        };
        fake.state.lock().unwrap().lives = lives
            .iter()
            .map(|(name, life)| ((*name).to_owned(), life.clone()))
            .collect();
        let inputs = Inputs {
            commands: command_inputs,
            events: event_inputs,
        };
        tokio::spawn(Daemon::new(fake.clone(), Bus::default(), snapshots, settings).run(inputs));
        Self {
            commands,
            events,
            snapshots: seen,
            fake,
        }
    }

    /// Sends a command; its answer comes when it comes.
    async fn send(&self, command: Command) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.commands.send((command, reply)).await.unwrap();
        answer
    }

    async fn ask(&self, command: Command) -> Answer {
        let answer = self.send(command).await;
        tokio::time::timeout(Duration::from_secs(600), answer)
            .await
            .expect("every command is answered")
            .expect("and exactly once")
    }

    async fn prepare(&self, name: &str, extra: Value) -> Answer {
        self.ask(prepare(name, extra)).await
    }

    fn view(&self, id: u32) -> Arc<InstanceView> {
        Arc::clone(self.snapshots.borrow().get(PmId(id)).unwrap())
    }

    fn status(&self, id: u32) -> Status {
        self.view(id).status
    }

    fn deeds(&self) -> Vec<(u64, Deed)> {
        self.fake.state.lock().unwrap().deeds.clone()
    }

    /// When an app was spawned, in milliseconds.
    fn spawns(&self, name: &str) -> Vec<u64> {
        self.deeds()
            .into_iter()
            .filter(|(_, deed)| matches!(deed, Deed::Spawned(of, _) if of == name))
            .map(|(at, _)| at)
            .collect()
    }

    fn signals(&self) -> Vec<(u64, Signal)> {
        self.deeds()
            .into_iter()
            .filter_map(|(at, deed)| match deed {
                Deed::Signalled(_, signal) => Some((at, signal)),
                Deed::Spawned(..) | Deed::Asked(_) | Deed::Watched(..) | Deed::Disconnected(..) => {
                    None
                }
            })
            .collect()
    }

    async fn until(&mut self, what: impl Fn(&Snapshot) -> bool) {
        let wait = self.snapshots.wait_for(|snapshot| what(snapshot));
        let came = tokio::time::timeout(Duration::from_secs(3_600), wait).await;
        assert!(came.is_ok(), "it never came to that");
    }
}

fn prepare(name: &str, extra: Value) -> Command {
    let mut conf = json!({
        "name": name,
        "pm_exec_path": "/srv/app.sh",
        "pm_cwd": "/srv",
        "exec_interpreter": "none",
        "pm_out_log_path": "/dev/null",
        "pm_err_log_path": "/dev/null",
        "env": {},
    });
    let map = conf.as_object_mut().unwrap();
    map.extend(extra.as_object().unwrap().clone());
    Command::Prepare {
        conf: map.clone(),
        version: "N/A".to_owned(),
    }
}

fn restart(id: u32) -> Command {
    Command::Restart {
        id: PmId(id),
        env: Map::new(),
    }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(start_paused = true)]
async fn instances_get_ids_indexes_and_variables_of_their_own() {
    let rig = Rig::new(&[]);
    let extra = json!({"instances": 3, "instance_var": "SLOT", "increment_var": "PORT", "env": {"PORT": 4000}, "PORT": 4000});
    let views = rig.prepare("web", extra).await.unwrap();
    assert_eq!(
        views.iter().map(|view| view.id.0).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert!(views.iter().all(|view| view.status == Status::Online));
    let told: Vec<(String, String)> = rig
        .fake
        .state
        .lock()
        .unwrap()
        .envs
        .iter()
        .map(|env| (env["SLOT"].clone(), env["PORT"].clone()))
        .collect();
    let want = [("0", "4000"), ("1", "4001"), ("2", "4002")];
    assert_eq!(told, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn an_instant_crasher_is_launched_16_times_and_then_errored() {
    let mut rig = Rig::new(&[("bad", Life::ending(10, 1))]);
    // The first launch succeeded, which is all that a start answers.
    rig.prepare("bad", json!({})).await.unwrap();
    rig.until(|all| all.instances[0].status == Status::Errored)
        .await;
    pass(60_000).await;
    assert_eq!(rig.spawns("bad").len(), 16);
    let view = rig.view(0);
    assert_eq!((view.restarts, view.exit_code), (15, Some(1)));
    assert_eq!(view.created_at_ms, None);
    assert_eq!(view.service.status, ServiceStatus::Unhealthy);
    assert!(
        view.service.message.contains("it broke"),
        "{}",
        view.service.message
    );
}

#[tokio::test(start_paused = true)]
async fn max_restarts_and_min_uptime_are_the_apps_own() {
    let mut rig = Rig::new(&[
        ("few", Life::ending(10, 1)),
        ("steady", Life::ending(1_500, 1)),
    ]);
    rig.prepare("few", json!({"max_restarts": 3}))
        .await
        .unwrap();
    rig.prepare("steady", json!({"max_restarts": 3}))
        .await
        .unwrap();
    rig.until(|all| all.instances[0].status == Status::Errored)
        .await;
    assert_eq!(rig.spawns("few").len(), 3);
    pass(20_000).await;
    assert!(rig.spawns("steady").len() > 10);
    assert_eq!(rig.view(1).unstable_restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn the_backoff_grows_by_half_and_is_told_as_waiting_restart() {
    let mut rig = Rig::new(&[("bad", Life::ending(10, 1))]);
    let extra = json!({"exp_backoff_restart_delay": 100, "max_restarts": 1000});
    rig.prepare("bad", extra).await.unwrap();
    rig.until(|all| all.instances[0].status == Status::WaitingRestart)
        .await;
    while rig.spawns("bad").len() < 16 {
        pass(100).await;
    }
    let spawns = rig.spawns("bad");
    let gaps: Vec<u64> = spawns.windows(2).map(|two| two[1] - two[0] - 10).collect();
    let want = [
        100, 150, 225, 337, 505, 757, 1135, 1702, 2553, 3829, 5743, 8614, 12921, 15000, 15000,
    ];
    for (gap, want) in gaps.iter().zip(want) {
        // The clock counts whole milliseconds.
        assert!(gap.abs_diff(want) <= 2, "{gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_delay_is_waited_before_each_restart() {
    let rig = Rig::new(&[("bad", Life::ending(10, 1))]);
    rig.prepare("bad", json!({"restart_delay": 700}))
        .await
        .unwrap();
    pass(5_000).await;
    let spawns = rig.spawns("bad");
    assert!(spawns.len() > 5, "{spawns:?}");
    for two in spawns.windows(2) {
        assert!((710..=713).contains(&(two[1] - two[0])), "{spawns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_backoff_ends_it_at_once_and_for_good() {
    let mut rig = Rig::new(&[("bad", Life::ending(10, 1))]);
    rig.prepare("bad", json!({"restart_delay": 60_000}))
        .await
        .unwrap();
    rig.until(|all| all.instances[0].status == Status::WaitingRestart)
        .await;
    let before = Instant::now();
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert!(before.elapsed() < Duration::from_millis(5));
    pass(300_000).await;
    assert_eq!(rig.status(0), Status::Stopped);
    assert_eq!(rig.spawns("bad").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_ladder_is_climbed_rung_by_rung_and_ends_in_sigkill() {
    let rig = Rig::new(&[("deaf", Life::deaf_to(&[Signal::INT, Signal::TERM]))]);
    let stop = json!([{"signal": "SIGINT", "wait": "10s"}, {"signal": "SIGTERM", "wait": "3s"}]);
    rig.prepare("deaf", json!({"fornax": {"stop": stop}}))
        .await
        .unwrap();
    let views = rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert_eq!(views[0].status, Status::Stopped);
    let signals = rig.signals();
    let want = [
        (0, Signal::INT),
        (10_000, Signal::TERM),
        (13_000, Signal::KILL),
    ];
    assert_eq!(signals.len(), want.len(), "{signals:?}");
    for ((at, signal), (due, named)) in signals.iter().zip(want) {
        assert!(at.abs_diff(due) < 10 && *signal == named, "{signals:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sigkill_is_repeated_and_what_survives_it_is_errored_and_never_doubled() {
    let stuck = Life::deaf_to(&[Signal::INT, Signal::TERM, Signal::KILL]);
    let rig = Rig::new(&[("stuck", stuck)]);
    rig.prepare("stuck", json!({})).await.unwrap();
    let views = rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert_eq!(views[0].status, Status::Errored);
    let kills = rig
        .signals()
        .iter()
        .filter(|(_, signal)| *signal == Signal::KILL)
        .count();
    assert_eq!(kills, 5);
    // What is asked of it now kills again, and starts nothing beside it.
    let answer = rig.send(Command::Start(PmId(0))).await;
    pass(60_000).await;
    assert_eq!(rig.spawns("stuck").len(), 1);
    answer.await.unwrap().unwrap();
    let generation = rig.view(0).generation;
    rig.fake.end(PmId(0), generation, ExitCause::Code(0));
    pass(10).await;
    assert_eq!(
        rig.spawns("stuck").len(),
        1,
        "the wish was given up with it"
    );
    assert_eq!(rig.status(0), Status::Stopped);
}

#[tokio::test(start_paused = true)]
async fn it_is_not_stopped_while_a_descendant_lives() {
    let life = Life {
        leftovers: Some(Duration::from_millis(900)),
        ..Life::default()
    };
    let rig = Rig::new(&[("parent", life)]);
    rig.prepare("parent", json!({})).await.unwrap();
    let answer = rig.send(Command::Stop(PmId(0))).await;
    pass(500).await;
    assert_eq!(rig.status(0), Status::Stopping);
    assert_eq!(answer.await.unwrap().unwrap()[0].status, Status::Stopped);
    assert!(rig.fake.began.elapsed() >= Duration::from_millis(900));
}

#[tokio::test(start_paused = true)]
async fn dependants_start_in_the_order_of_what_they_wait_for() {
    let slow = Life {
        spawn: Some(Duration::from_millis(300)),
        ..Life::default()
    };
    let rig = Rig::new(&[("first", slow), ("setup", Life::ending(2_000, 0))]);
    let wait_for =
        |name: &str, condition: &str| json!({"fornax": {"depends_on": {name: condition}}});
    // Told before what they wait for exists: a file may name its apps in any order.
    rig.prepare("after-setup", wait_for("setup", "completed"))
        .await
        .unwrap();
    rig.prepare("after-first", wait_for("first", "started"))
        .await
        .unwrap();
    rig.prepare("after-healthy", wait_for("probed", "healthy"))
        .await
        .unwrap();
    assert_eq!(rig.deeds(), []);
    assert_eq!(rig.status(0), Status::Launching);
    assert!(
        rig.view(0).service.message.contains("setup"),
        "{}",
        rig.view(0).service.message
    );

    rig.prepare("first", json!({})).await.unwrap();
    pass(1).await;
    assert!(rig.spawns("after-first")[0] >= 300);

    let one_shot = json!({"fornax": {"type": "one-shot"}});
    rig.prepare("setup", one_shot).await.unwrap();
    pass(1_000).await;
    assert!(rig.spawns("after-setup").is_empty());
    pass(1_500).await;
    assert_eq!(rig.spawns("after-setup").len(), 1);

    let probe = json!({"fornax": {"port": 1, "probe": {"tcp": {}}}});
    rig.prepare("probed", probe).await.unwrap();
    pass(1_000).await;
    assert!(rig.spawns("after-healthy").is_empty());
    let probed = rig.view(5);
    let kind = RunEventKind::Probe {
        verdict: Verdict::Healthy,
        detail: "it answers".to_owned(),
    };
    rig.fake.tell(probed.id, probed.generation, kind).await;
    pass(1).await;
    assert_eq!(rig.spawns("after-healthy").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_that_succeeds_is_completed_and_one_that_fails_is_unhealthy() {
    let rig = Rig::new(&[("good", Life::ending(50, 0)), ("bad", Life::ending(50, 4))]);
    let one_shot = json!({"fornax": {"type": "one-shot"}});
    rig.prepare("good", one_shot.clone()).await.unwrap();
    rig.prepare("bad", one_shot).await.unwrap();
    pass(5_000).await;
    let (good, bad) = (rig.view(0), rig.view(1));
    assert_eq!(
        (good.status, good.service.status, good.service.completed),
        (Status::Stopped, ServiceStatus::Healthy, true)
    );
    assert_eq!(
        (bad.status, bad.service.status, bad.service.completed),
        (Status::Stopped, ServiceStatus::Unhealthy, false)
    );
    assert_eq!((rig.spawns("good").len(), rig.spawns("bad").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_restart_budget_stops_what_dies_slowly_for_ever() {
    let mut rig = Rig::new(&[("slow", Life::ending(3_000, 1))]);
    let extra = json!({"fornax": {"restart_budget": {"max": 5, "window": "60s"}}});
    rig.prepare("slow", extra).await.unwrap();
    rig.until(|all| all.instances[0].status == Status::Errored)
        .await;
    assert_eq!(rig.spawns("slow").len(), 6);
    assert!(
        rig.view(0).service.message.contains("5 restarts within"),
        "{}",
        rig.view(0).service.message
    );
    // A person's restart counts from zero.
    rig.ask(restart(0)).await.unwrap();
    assert_eq!(rig.status(0), Status::Online);
}

#[tokio::test(start_paused = true)]
async fn stop_exit_codes_and_autorestart_false_end_it() {
    let rig = Rig::new(&[("done", Life::ending(10, 7)), ("once", Life::ending(10, 1))]);
    rig.prepare("done", json!({"stop_exit_codes": [7]}))
        .await
        .unwrap();
    rig.prepare("once", json!({"autorestart": false}))
        .await
        .unwrap();
    pass(10_000).await;
    assert_eq!(
        (rig.status(0), rig.status(1)),
        (Status::Stopped, Status::Stopped)
    );
    assert_eq!((rig.spawns("done").len(), rig.spawns("once").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn events_of_past_generations_change_nothing() {
    let rig = Rig::new(&[]);
    let first = rig.prepare("app", json!({})).await.unwrap()[0].generation;
    rig.ask(restart(0)).await.unwrap();
    let before = rig.view(0);
    assert_ne!(before.generation, first);
    for kind in [
        RunEventKind::Spawned {
            pid: 1,
            facts: RunFacts::default(),
        },
        RunEventKind::Exited {
            cause: ExitCause::Code(9),
            leftovers: false,
            stderr_tail: Vec::new(),
        },
        RunEventKind::TreeEmpty,
        RunEventKind::SpawnFailed {
            reason: "late".to_owned(),
            not_installed: true,
        },
        RunEventKind::Probe {
            verdict: Verdict::Dead,
            detail: "late".to_owned(),
        },
        RunEventKind::Message(json!("ready")),
    ] {
        rig.fake.tell(PmId(0), first, kind).await;
    }
    pass(10_000).await;
    let after = rig.view(0);
    assert_eq!(
        (after.status, after.pid, after.restarts, after.generation),
        (
            Status::Online,
            before.pid,
            before.restarts,
            before.generation
        )
    );
    assert_eq!(rig.spawns("app").len(), 2);
    // Nor those of an instance that has never been.
    rig.fake
        .tell(PmId(99), first, RunEventKind::TreeEmpty)
        .await;
    pass(1).await;
    assert_eq!(rig.events.capacity(), 64);
}

#[tokio::test(start_paused = true)]
async fn a_delete_while_starting_ends_the_process_and_the_record() {
    let slow = Life {
        spawn: Some(Duration::from_millis(400)),
        ..Life::default()
    };
    let rig = Rig::new(&[("slow", slow)]);
    let started = rig.send(prepare("slow", json!({}))).await;
    pass(100).await;
    let deleted = rig.send(Command::Delete(PmId(0))).await;
    pass(1).await;
    // Whoever comes now finds nothing to start.
    assert!(matches!(
        rig.ask(restart(0)).await,
        Err(CommandError::UnknownId(_))
    ));
    deleted.await.unwrap().unwrap();
    started.await.unwrap().unwrap();
    assert!(rig.snapshots.borrow().instances.is_empty());
    assert!(rig.fake.state.lock().unwrap().alive.is_empty());
    assert_eq!(rig.signals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_it_launches_wins() {
    let rig = Rig::new(&[]);
    let started = rig.send(prepare("shy", json!({"wait_ready": true}))).await;
    pass(1_000).await;
    assert_eq!(rig.status(0), Status::Launching);
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    started.await.unwrap().unwrap();
    pass(60_000).await;
    assert_eq!(rig.status(0), Status::Stopped);
    assert_eq!(rig.spawns("shy").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_a_restart_overtakes_is_answered_too() {
    let rig = Rig::new(&[("deaf", Life::deaf_to(&[Signal::INT]))]);
    rig.prepare("deaf", json!({})).await.unwrap();
    let stopped = rig.send(Command::Stop(PmId(0))).await;
    pass(300).await;
    rig.ask(restart(0)).await.unwrap();
    let views = tokio::time::timeout(Duration::from_secs(60), stopped).await;
    assert_eq!(views.unwrap().unwrap().unwrap().len(), 1);
    assert_eq!(rig.status(0), Status::Online);
}

#[tokio::test(start_paused = true)]
async fn an_absurd_number_of_instances_is_refused_and_the_loop_goes_on() {
    let rig = Rig::new(&[]);
    let many = json!({"instances": 1_000_000_000, "autostart": false});
    let error = rig.prepare("many", many).await.unwrap_err().to_string();
    assert!(
        error.contains("1000000000") && error.contains("1000"),
        "{error}"
    );
    let most = json!({"instances": 1_000, "autostart": false});
    assert_eq!(rig.prepare("most", most).await.unwrap().len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn wait_ready_is_answered_by_the_apps_word_or_by_the_timeout() {
    let rig = Rig::new(&[]);
    let told = rig.send(prepare("told", json!({"wait_ready": true}))).await;
    pass(200).await;
    let view = rig.view(0);
    rig.fake
        .tell(
            view.id,
            view.generation,
            RunEventKind::Message(json!("ready")),
        )
        .await;
    told.await.unwrap().unwrap();
    assert_eq!(rig.fake.began.elapsed().as_millis() / 100, 2);
    let before = Instant::now();
    rig.prepare("mute", json!({"wait_ready": true, "listen_timeout": 5_000}))
        .await
        .unwrap();
    assert_eq!(before.elapsed().as_millis() / 100, 50);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_is_an_error_with_its_reason() {
    let refused = Life {
        refused: Some("/srv/app.sh: no such file"),
        ..Life::default()
    };
    let rig = Rig::new(&[("lost", refused)]);
    let error = rig.prepare("lost", json!({})).await.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    assert_eq!(rig.status(0), Status::Errored);
    pass(60_000).await;
    assert_eq!(rig.spawns("lost").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_command_has_exactly_one_answer_in_any_crowd() {
    let mut rig = Rig::new(&[
        ("web", Life::deaf_to(&[Signal::INT])),
        ("bad", Life::ending(30, 1)),
    ]);
    rig.prepare("web", json!({"instances": 2})).await.unwrap();
    rig.prepare("bad", json!({"restart_delay": 50}))
        .await
        .unwrap();
    let mut answers = Vec::new();
    for round in 0..60_u32 {
        let id = PmId(round % 4);
        let command = match round % 7 {
            0 => Command::Stop(id),
            1 => restart(id.0),
            2 => Command::Start(id),
            3 => Command::Reset(id),
            4 => Command::Signal(id, Signal::TERM),
            5 => Command::Duplicate(PmId(0)),
            _ => Command::Delete(PmId(3 + round)),
        };
        answers.push(rig.send(command).await);
        pass(u64::from(round % 3) * 40).await;
    }
    for answer in answers {
        let came = tokio::time::timeout(Duration::from_secs(300), answer).await;
        // An answer or a refusal; a dropped sender would be neither.
        drop(came.expect("an answer").expect("not dropped"));
    }
    let most_alive = rig.fake.state.lock().unwrap().most_alive.clone();
    assert!(most_alive.values().all(|most| *most == 1), "{most_alive:?}");
    let ids: Vec<PmId> = rig
        .snapshots
        .borrow()
        .instances
        .iter()
        .map(|view| view.id)
        .collect();
    for id in ids {
        rig.ask(Command::Delete(id)).await.unwrap();
    }
    rig.until(|all| all.instances.is_empty()).await;
    assert!(rig.fake.state.lock().unwrap().alive.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_the_end_has_begun_nothing_starts_any_more() {
    let rig = Rig::new(&[]);
    rig.prepare("app", json!({})).await.unwrap();
    rig.ask(Command::StopRestarting).await.unwrap();
    for command in [prepare("other", json!({})), restart(0)] {
        assert!(matches!(rig.ask(command).await, Err(CommandError::Ending)));
    }
    assert_eq!(rig.status(0), Status::Online);
}

#[tokio::test(start_paused = true)]
async fn ids_start_from_zero_once_the_list_is_empty() {
    let rig = Rig::new(&[]);
    rig.prepare("a", json!({})).await.unwrap();
    rig.prepare("b", json!({})).await.unwrap();
    rig.ask(Command::Delete(PmId(1))).await.unwrap();
    assert_eq!(rig.prepare("c", json!({})).await.unwrap()[0].id, PmId(2));
    rig.ask(Command::Delete(PmId(0))).await.unwrap();
    rig.ask(Command::Delete(PmId(2))).await.unwrap();
    assert_eq!(rig.prepare("d", json!({})).await.unwrap()[0].id, PmId(0));
    assert!(matches!(
        rig.ask(Command::Stop(PmId(7))).await,
        Err(CommandError::UnknownId(PmId(7)))
    ));
}

fn changed(id: u32, path: &str) -> Command {
    Command::Changed {
        id: PmId(id),
        path: path.to_owned(),
        at: Instant::now(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_changes_is_one_restart_and_its_reason_is_kept() {
    let rig = Rig::new(&[]);
    rig.prepare("web", json!({"watch": true})).await.unwrap();
    assert!(
        rig.deeds()
            .iter()
            .any(|(_, deed)| *deed == Deed::Watched(PmId(0), true))
    );
    pass(1_000).await;
    for number in 0..100 {
        rig.ask(changed(0, &format!("src/{number}.js")))
            .await
            .unwrap();
        pass(5).await;
    }
    pass(5_000).await;
    assert_eq!(rig.spawns("web").len(), 2);
    let view = rig.view(0);
    assert_eq!((view.restarts, view.status), (1, Status::Online));
    let why = view.last_exit.as_ref().unwrap().why.clone();
    assert_eq!(why.as_deref(), Some("restarted: src/0.js has changed"));
}

#[tokio::test(start_paused = true)]
async fn the_watch_delay_counts_from_the_first_change() {
    let rig = Rig::new(&[]);
    rig.prepare("web", json!({"watch": true, "watch_delay": 2_000}))
        .await
        .unwrap();
    pass(1_000).await;
    rig.ask(changed(0, "a")).await.unwrap();
    pass(1_000).await;
    rig.ask(changed(0, "b")).await.unwrap();
    pass(5_000).await;
    let spawns = rig.spawns("web");
    assert_eq!(spawns.len(), 2);
    assert!((2_990..=3_010).contains(&spawns[1]), "{spawns:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_coming_run_sees_anyway_restarts_nothing() {
    // Deaf to SIGINT, it takes 1,600 ms to stop.
    let rig = Rig::new(&[("slow", Life::deaf_to(&[Signal::INT]))]);
    rig.prepare("slow", json!({"watch": true})).await.unwrap();
    pass(1_000).await;
    let stale = changed(0, "before");
    let restart = rig.send(restart(0)).await;
    pass(800).await;
    rig.ask(changed(0, "while it is being stopped"))
        .await
        .unwrap();
    restart.await.unwrap().unwrap();
    rig.ask(stale).await.unwrap();
    pass(10_000).await;
    assert_eq!(rig.spawns("slow").len(), 2);
    // One that the new run has not seen.
    rig.ask(changed(0, "after")).await.unwrap();
    pass(10_000).await;
    assert_eq!(rig.spawns("slow").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_change_starts_what_has_ended_and_not_what_was_stopped() {
    let mut rig = Rig::new(&[("one", Life::ending(100, 3))]);
    rig.prepare("one", json!({"watch": true, "autorestart": false}))
        .await
        .unwrap();
    rig.until(|all| all.instances[0].status == Status::Stopped)
        .await;
    rig.ask(changed(0, "a")).await.unwrap();
    pass(1_000).await;
    assert_eq!(rig.spawns("one").len(), 2);
    // PM2's clients switch the watch off before they stop.
    let off = Command::Watch {
        id: PmId(0),
        on: Some(false),
    };
    rig.ask(off).await.unwrap();
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert!(
        rig.deeds()
            .iter()
            .any(|(_, deed)| *deed == Deed::Watched(PmId(0), false))
    );
    rig.ask(changed(0, "b")).await.unwrap();
    pass(10_000).await;
    assert_eq!(rig.spawns("one").len(), 2);
    assert_eq!(rig.view(0).conf.to_map()["watch"], json!(false));
    // And toggled on again.
    let toggle = Command::Watch {
        id: PmId(0),
        on: None,
    };
    rig.ask(toggle).await.unwrap();
    assert!(rig.view(0).spec.watch.is_some());
    rig.ask(changed(0, "c")).await.unwrap();
    pass(1_000).await;
    assert_eq!(rig.spawns("one").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn cron_restarts_what_runs_and_starts_what_is_stopped() {
    let rig = Rig::new(&[]);
    rig.prepare("web", json!({"cron_restart": "*/10 * * * * *"}))
        .await
        .unwrap();
    pass(25_000).await;
    let spawns = rig.spawns("web");
    assert_eq!(spawns.len(), 3, "{spawns:?}");
    assert!((10_000..10_100).contains(&spawns[1]), "{spawns:?}");
    let exit = rig.view(0).last_exit.clone().unwrap();
    assert_eq!(
        exit.why.as_deref(),
        Some("restarted by its cron pattern `*/10 * * * * *`")
    );
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    pass(10_000).await;
    assert_eq!(
        (rig.spawns("web").len(), rig.status(0)),
        (4, Status::Online)
    );
    // 0 switches it off.
    let env = json!({"current_conf": {"cron_restart": 0}});
    let env = env.as_object().unwrap().clone();
    rig.ask(Command::Restart { id: PmId(0), env })
        .await
        .unwrap();
    pass(60_000).await;
    assert_eq!(rig.spawns("web").len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_by_hours_is_one_cron_restart() {
    let rig = Rig::new(&[]);
    rig.prepare("web", json!({"cron_restart": "*/10 * * * *"}))
        .await
        .unwrap();
    pass(5_000).await;
    rig.fake.state.lock().unwrap().clock_set_by = 5 * 3_600_000;
    pass(60_000).await;
    assert_eq!(rig.spawns("web").len(), 2);
    // And back: the next time is the new clock's.
    rig.fake.state.lock().unwrap().clock_set_by = 0;
    pass(600_000).await;
    assert_eq!(rig.spawns("web").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_cron_pattern_is_refused_before_anything_exists() {
    let rig = Rig::new(&[]);
    let error = rig
        .prepare("web", json!({"cron_restart": "bad pat"}))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Cron pattern error: CronPattern"),
        "{error}"
    );
    assert!(rig.snapshots.borrow().instances.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_over_its_memory_limit_is_restarted_with_the_reason() {
    let rig = Rig::new(&[]);
    rig.prepare("web", json!({"max_memory_restart": 300 << 20}))
        .await
        .unwrap();
    let over = |generation, used| Command::OverMemory {
        id: PmId(0),
        generation,
        used,
    };
    let first = rig.view(0).generation;
    rig.ask(over(first, 300 << 20)).await.unwrap();
    pass(1_000).await;
    assert_eq!(rig.spawns("web").len(), 1);
    rig.ask(over(first, 512 << 20)).await.unwrap();
    pass(1_000).await;
    assert_eq!(rig.spawns("web").len(), 2);
    let exit = rig.view(0).last_exit.clone().unwrap();
    assert_eq!(
        exit.why.as_deref(),
        Some("restarted: memory 512 MB over its limit of 300 MB")
    );
    // Figures of the run before.
    rig.ask(over(first, 512 << 20)).await.unwrap();
    pass(1_000).await;
    assert_eq!(rig.spawns("web").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_treekill_a_stop_does_not_wait_for_what_is_left() {
    let leaving = Life {
        leftovers: Some(Duration::from_secs(30)),
        ..Life::default()
    };
    let rig = Rig::new(&[("left", leaving)]);
    rig.prepare("left", json!({"treekill": false}))
        .await
        .unwrap();
    let before = Instant::now();
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert_eq!(rig.status(0), Status::Stopped);
    assert!(before.elapsed() < Duration::from_millis(100));
    pass(60_000).await;
    assert_eq!(rig.signals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_is_asked_to_stop_gets_no_signal_if_it_listens() {
    let listening = Life {
        listens: true,
        ..Life::default()
    };
    let rig = Rig::new(&[("kind", listening), ("none", Life::default())]);
    for name in ["kind", "none"] {
        rig.prepare(name, json!({"shutdown_with_message": true}))
            .await
            .unwrap();
    }
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert_eq!(
        (rig.signals(), rig.status(0)),
        (Vec::new(), Status::Stopped)
    );
    assert!(
        rig.deeds()
            .iter()
            .any(|(_, deed)| *deed == Deed::Asked(PmId(0)))
    );
    // Without a channel it gets the signal.
    rig.ask(Command::Stop(PmId(1))).await.unwrap();
    assert_eq!(rig.signals().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_app_that_was_asked_leaves_behind_gets_the_signal() {
    let leaving = Life {
        listens: true,
        leftovers: Some(Duration::from_millis(300)),
        ..Life::default()
    };
    let rig = Rig::new(&[("kind", leaving)]);
    rig.prepare("kind", json!({"shutdown_with_message": true}))
        .await
        .unwrap();
    rig.ask(Command::Stop(PmId(0))).await.unwrap();
    let signals: Vec<Signal> = rig
        .signals()
        .into_iter()
        .map(|(_, signal)| signal)
        .collect();
    assert_eq!(signals, [Signal::INT]);
}

/// 200 apps of one life.
async fn crowd(life: Life, extra: Value) -> Rig {
    let names: Vec<String> = (0..200).map(|n| format!("app-{n}")).collect();
    let lives: Vec<(&str, Life)> = names.iter().map(|name| (&**name, life.clone())).collect();
    let rig = Rig::new(&lives);
    for name in &names {
        rig.prepare(name, extra.clone()).await.unwrap();
    }
    rig
}

/// The most spawns after `from` within any span of so many milliseconds.
fn most_within(rig: &Rig, from: u64, span: u64) -> usize {
    let times: Vec<u64> = rig
        .deeds()
        .into_iter()
        .map(|(at, _)| at)
        .filter(|at| *at > from)
        .collect();
    let within = |start: &u64| {
        times
            .iter()
            .filter(|at| (*start..start + span).contains(at))
            .count()
    };
    times.iter().map(within).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn what_a_person_starts_is_started_at_once_and_restarts_of_many_are_spread() {
    let rig = crowd(Life::ending(5_000, 1), json!({"max_restarts": 1_000_000})).await;
    let starts: Vec<u64> = rig.deeds().into_iter().map(|(at, _)| at).collect();
    assert_eq!(starts, [0; 200], "no start waits");
    pass(60_000).await;
    let total = rig.deeds().len();
    assert!(total > 2_000, "all go on: {total}");
    // The burst, and then one in 10 ms.
    assert!(
        most_within(&rig, 0, 10) <= 65,
        "{}",
        most_within(&rig, 0, 10)
    );
    assert!(
        most_within(&rig, 0, 1_000) <= 164,
        "{}",
        most_within(&rig, 0, 1_000)
    );
    let counts: Vec<usize> = (0..200)
        .map(|n| rig.spawns(&format!("app-{n}")).len())
        .collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 2, "each in its turn: {least} to {most}");
}

#[tokio::test(start_paused = true)]
async fn delayed_restarts_of_many_do_not_fall_on_one_moment() {
    let extra = json!({"exp_backoff_restart_delay": 100, "max_restarts": 1_000_000});
    let rig = crowd(Life::ending(10, 1), extra).await;
    pass(60_000).await;
    assert!(
        most_within(&rig, 0, 10) <= 65,
        "{}",
        most_within(&rig, 0, 10)
    );
    assert!(rig.deeds().len() > 2_000);
}

#[tokio::test(start_paused = true)]
async fn pm2s_count_of_crashes_is_the_same_for_one_of_many() {
    let mut rig = crowd(Life::ending(10, 1), json!({})).await;
    rig.until(|all| {
        all.instances
            .iter()
            .all(|view| view.status == Status::Errored)
    })
    .await;
    pass(60_000).await;
    for n in 0..200 {
        assert_eq!(rig.spawns(&format!("app-{n}")).len(), 16, "app-{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_waits_for_its_turn_can_be_stopped_deleted_and_overtaken() {
    let rig = crowd(Life::ending(5_000, 1), json!({"max_restarts": 1_000_000})).await;
    pass(5_001).await;
    let waiting = |rig: &Rig| {
        let all = rig.snapshots.borrow().instances.clone();
        let ids: Vec<PmId> = all
            .iter()
            .filter(|view| view.status == Status::Launching)
            .map(|view| view.id)
            .collect();
        ids
    };
    let held = waiting(&rig);
    assert!(held.len() > 100, "{}", held.len());
    let at = rig.fake.began.elapsed();
    rig.ask(Command::Stop(held[50])).await.unwrap();
    rig.ask(Command::Delete(held[51])).await.unwrap();
    let overtaken = rig.ask(restart(held[52].0)).await.unwrap();
    assert_eq!(overtaken[0].status, Status::Online);
    assert_eq!(
        rig.fake.began.elapsed(),
        at,
        "none of them had to wait for its turn"
    );
    pass(3_000).await;
    assert_eq!(rig.status(held[50].0), Status::Stopped);
    let spawned = |id: PmId| rig.spawns(&format!("app-{}", id.0)).len();
    assert_eq!(
        (spawned(held[50]), spawned(held[51]), spawned(held[52])),
        (1, 1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_room_is_tried_until_there_is_and_a_start_is_refused() {
    let life = Life {
        starved_until: Some(60_000),
        ..Life::ending(5_000, 1)
    };
    let rig = Rig::new(&[
        ("app", life),
        (
            "new",
            Life {
                refused: Some("no room"),
                ..Life::default()
            },
        ),
    ]);
    rig.prepare("app", json!({})).await.unwrap();
    pass(5_500).await;
    let view = rig.view(0);
    assert_eq!((view.status, view.restarts), (Status::WaitingRestart, 0));
    assert!(format!("{:?}", view.last_exit).contains("cannot make a pipe"));
    assert!(
        rig.prepare("new", json!({}))
            .await
            .unwrap_err()
            .to_string()
            .contains("no room")
    );
    pass(55_500).await;
    let view = rig.view(0);
    assert_eq!(
        (view.status, view.restarts),
        (Status::Online, 1),
        "nobody has helped it"
    );
    // A person's own restart during the want is told the cause.
    let life = Life {
        starved_until: Some(1_000_000),
        ..Life::default()
    };
    rig.fake
        .state
        .lock()
        .unwrap()
        .lives
        .insert("app".to_owned(), life);
    let refused = rig.ask(restart(0)).await.unwrap_err();
    assert!(
        refused.to_string().contains("cannot make a pipe"),
        "{refused}"
    );
}

/// A cluster worker that is online, and its generation.
async fn worker(rig: &Rig, extra: Value) -> Generation {
    let mut keys = json!({"exec_interpreter": "node", "exec_mode": "cluster_mode"});
    let map = keys.as_object_mut().unwrap();
    map.extend(extra.as_object().unwrap().clone());
    rig.prepare("web", keys).await.unwrap()[0].generation
}

fn reload(id: u32) -> Command {
    Command::Reload {
        id: PmId(id),
        env: Map::new(),
        by_message: false,
    }
}

/// The generation spawned last.
fn latest(rig: &Rig) -> Generation {
    let spawned = |(_, deed): (u64, Deed)| match deed {
        Deed::Spawned(_, generation) => Some(generation),
        _ => None,
    };
    rig.deeds().into_iter().rev().find_map(spawned).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_worker_leaves_only_when_its_successor_listens() {
    let rig = Rig::new(&[("web", Life::default())]);
    let old = worker(&rig, json!({})).await;
    let answer = rig.send(reload(0)).await;
    pass(100).await;
    let new = latest(&rig);
    assert_eq!(new.number(), old.number() + 1);
    let tell = |generation, fact| {
        rig.fake
            .tell(PmId(0), generation, RunEventKind::Cluster(fact))
    };
    tell(new, ClusterFact::Online).await;
    pass(100).await;
    assert_eq!(rig.fake.state.lock().unwrap().alive.len(), 2);
    assert!(matches!(
        rig.ask(reload(0)).await,
        Err(CommandError::ReloadUnderWay(PmId(0)))
    ));
    tell(new, ClusterFact::Listening).await;
    pass(100).await;
    let disconnected = Deed::Disconnected(PmId(0), old);
    assert!(rig.deeds().iter().any(|(_, deed)| *deed == disconnected));
    assert_eq!(rig.signals(), [], "it may finish what it has begun");
    tell(old, ClusterFact::Disconnected).await;
    let views = answer.await.unwrap().unwrap();
    assert_eq!((views[0].generation, views[0].restarts), (new, 1));
    assert_eq!(rig.signals().len(), 1);
    let alive: Vec<_> = rig
        .fake
        .state
        .lock()
        .unwrap()
        .alive
        .keys()
        .copied()
        .collect();
    assert_eq!(alive, [(PmId(0), new)]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_close_in_time_is_stopped_by_the_ladder() {
    let rig = Rig::new(&[("web", Life::deaf_to(&[Signal::INT]))]);
    worker(&rig, json!({"listen_timeout": 1_000, "kill_timeout": 500})).await;
    let began = rig.fake.began.elapsed().as_millis() as u64;
    rig.ask(reload(0)).await.unwrap();
    let signals: Vec<(u64, Signal)> = rig
        .signals()
        .into_iter()
        .map(|(at, signal)| (at - began, signal))
        .collect();
    assert_eq!(signals, [(1_500, Signal::INT), (2_000, Signal::KILL)]);
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_fails_is_taken_back() {
    let rig = Rig::new(&[("web", Life::default())]);
    let old = worker(&rig, json!({"env": {"A": "old"}})).await;
    let env = Map::from_iter([("A".to_owned(), json!("new"))]);
    let answer = rig
        .send(Command::Reload {
            id: PmId(0),
            env,
            by_message: false,
        })
        .await;
    pass(100).await;
    let new = latest(&rig);
    rig.fake.end(PmId(0), new, ExitCause::Code(7));
    let refused = answer.await.unwrap().unwrap_err().to_string();
    assert!(
        refused.contains("exit code 7") && refused.contains("serves on"),
        "{refused}"
    );
    let view = rig.view(0);
    assert_eq!(
        (view.generation, view.status, view.restarts),
        (old, Status::Online, 0)
    );
    assert_eq!(view.conf.env_map()["A"], "old");
    pass(60_000).await;
    assert_eq!(rig.signals(), []);
    // It is restarted as ever, and no later run has the failed one's number.
    rig.fake.end(PmId(0), old, ExitCause::Code(1));
    pass(10_000).await;
    assert_eq!(rig.spawns("web").len(), 3);
    assert!(latest(&rig) != new && rig.status(0) == Status::Online);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_reload_ends_both_runs() {
    let rig = Rig::new(&[("web", Life::default())]);
    worker(&rig, json!({})).await;
    let reloaded = rig.send(reload(0)).await;
    pass(100).await;
    let views = rig.ask(Command::Stop(PmId(0))).await.unwrap();
    assert_eq!(views[0].status, Status::Stopped);
    drop(reloaded.await.unwrap());
    assert!(rig.fake.state.lock().unwrap().alive.is_empty());
    pass(60_000).await;
    assert_eq!(rig.status(0), Status::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_crashes_while_its_successor_starts_is_not_missed() {
    let rig = Rig::new(&[("web", Life::default())]);
    let old = worker(&rig, json!({})).await;
    let reloaded = rig.send(reload(0)).await;
    pass(100).await;
    rig.fake.end(PmId(0), old, ExitCause::Code(1));
    pass(100).await;
    let new = latest(&rig);
    // Nobody is left to fall back to: it is started again like any other.
    rig.fake.end(PmId(0), new, ExitCause::Code(1));
    pass(60_000).await;
    drop(reloaded.await.unwrap());
    assert_eq!(
        (rig.status(0), rig.spawns("web").len()),
        (Status::Online, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn only_workers_are_reloaded_without_a_gap() {
    let rig = Rig::new(&[]);
    rig.prepare("fork", json!({})).await.unwrap();
    rig.prepare(
        "py",
        json!({"exec_interpreter": "python3", "exec_mode": "cluster_mode"}),
    )
    .await
    .unwrap();
    for id in [0, 1] {
        rig.ask(reload(id)).await.unwrap();
    }
    let most = rig.fake.state.lock().unwrap().most_alive.clone();
    assert!(most.values().all(|most| *most == 1), "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_starts_what_crashes_at_once_is_answered_at_its_first_breath() {
    // So many that restarts wait for their turn: at no moment are all of them up.
    let names: Vec<String> = (0..150).map(|n| format!("app-{n}")).collect();
    let lives: Vec<(&str, Life)> = names
        .iter()
        .map(|name| (name.as_str(), Life::ending(0, 1)))
        .collect();
    let rig = Rig::new(&lives);
    let began = Instant::now();
    for name in &names {
        let conf = json!({"max_restarts": 1_000_000});
        rig.prepare(name, conf).await.unwrap();
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}
