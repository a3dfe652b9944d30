//! The engine: one task that owns every job that is not settled, and the only one that moves them.
//!
//! It awaits requests, reports of its tasks, news of the daemon's instances and a tick, and nothing else; whatever takes time is
//! a task that reports back.

mod accept;
mod ends;
mod follow;
mod machines;
mod place;
mod ticks;

use super::feed::{JobNews, Past, Progress, Recent, StateNews, What};
use super::handle::{EngineStatus, InstanceStatus, Jobs, Request};
use super::machine::Machine;
use super::report::Report;
use super::settings::{JobSettings, TICK};
use super::store::{Attempt, Record, Store};
use super::syncs::Syncs;
use crate::core::ids::PmId;
use crate::core::job::{AttemptEnd, JobState};
use crate::core::placement::WaitingLine;
use crate::daemon::handle::Handle;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::TaskTracker;

/// Reports waiting for the engine; tasks wait when it is full.
const REPORTS: usize = 1024;
/// Requests and reports taken before jobs are placed again.
const BATCH: usize = 64;

/// A job that is not settled.
struct Live {
    record: Record,
    /// The graph, until its first delivery.
    workflow: Option<String>,
    past: Past,
    /// It is on its way into the store for the first time; who waits for that.
    inserting: Option<oneshot::Sender<Result<super::Accepted, super::Refused>>>,
    /// It is settled, and on its way to the disk.
    settling: bool,
    /// Since when it waits, or the attempt is out.
    since: Instant,
    /// When the attempt was last heard of; progress and states count.
    heard: Instant,
    /// When it last got on: a step, a node, a place in the queue.
    moved: Instant,
    /// A delivery, a look for it, or a fetch, is under way.
    looking: bool,
    /// The instance told of its end while one was: it is looked for after that.
    ended: bool,
    /// The instance has confirmed that it took it.
    taken: bool,
    /// It was nowhere to be found, since then.
    nowhere: Option<Instant>,
    /// We take the attempt back, for this reason, since then.
    giving_up: Option<(AttemptEnd, Instant)>,
    /// What its output nodes told by websocket.
    told: Map<String, Value>,
    /// The instance has told that it succeeded.
    succeeded: bool,
    last_progress: Option<Progress>,
}

impl Live {
    fn new(record: Record) -> Self {
        let now = Instant::now();
        Self {
            record,
            workflow: None,
            past: Past::default(),
            inserting: None,
            settling: false,
            since: now,
            heard: now,
            moved: now,
            looking: false,
            ended: false,
            taken: false,
            nowhere: None,
            giving_up: None,
            told: Map::new(),
            succeeded: false,
            last_progress: None,
        }
    }

    /// The attempt that is under way.
    fn attempt(&self) -> Option<&Attempt> {
        let out = self.record.state().is_out() && !self.settling;
        self.record.attempts.last().filter(|_| out)
    }

    /// As it is told: it is not done before that is on disk.
    fn told(&self) -> Record {
        let mut record = self.record.clone();
        if self.settling && record.job.state == JobState::Done {
            record.job.state = JobState::Fetching;
        }
        record
    }

    /// What concerned the former attempt only.
    fn begin_attempt(&mut self) {
        let now = Instant::now();
        (self.since, self.heard, self.moved) = (now, now, now);
        (self.looking, self.ended) = (false, false);
        self.taken = false;
        self.nowhere = None;
        self.giving_up = None;
        self.told.clear();
        self.succeeded = false;
        self.last_progress = None;
    }
}

/// The engine. Owner of all of it: its task.
pub(super) struct Engine {
    store: Store,
    settings: Arc<JobSettings>,
    jobs: Jobs,
    daemon: Handle,
    live: HashMap<String, Live>,
    line: WaitingLine<String>,
    machines: BTreeMap<PmId, Machine>,
    /// Which job an outstanding prompt is of.
    prompts: HashMap<String, String>,
    reports: mpsc::Sender<Report>,
    syncs: Syncs,
    tasks: TaskTracker,
    /// Counts links, placements and news.
    serial: u64,
    turn: u64,
    seq: u64,
    recent: Recent,
    /// The store has failed: nothing is placed until then.
    rests_until: Option<Instant>,
    trouble: Option<String>,
    /// Wakes the webhook task.
    hooks: Arc<tokio::sync::Notify>,
}

/// Now, in milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs the engine until the daemon ends.
pub(super) async fn run(
    store: Store,
    jobs: Jobs,
    daemon: Handle,
    requests: &mut mpsc::Receiver<Request>,
    hooks: Arc<tokio::sync::Notify>,
) {
    let (reports, mut inbox) = mpsc::channel(REPORTS);
    let mut engine = Engine {
        store,
        settings: Arc::clone(&jobs.settings),
        jobs,
        daemon: daemon.clone(),
        live: HashMap::new(),
        line: WaitingLine::default(),
        machines: BTreeMap::new(),
        prompts: HashMap::new(),
        reports,
        syncs: Syncs::start(),
        tasks: TaskTracker::new(),
        serial: 0,
        turn: 0,
        seq: 0,
        recent: Recent::default(),
        rests_until: None,
        trouble: None,
        hooks,
    };
    let mut snapshots = daemon.snapshots.clone();
    snapshots.mark_unchanged();
    engine.look_at_machines();
    engine.resume().await;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        engine.place_all();
        tokio::select! {
            biased;
            () = daemon.shutdown.cancelled() => break,
            changed = snapshots.changed() => match changed {
                Ok(()) => engine.look_at_machines(),
                Err(_) => break,
            },
            Some(report) = inbox.recv() => {
                engine.report(report);
                for _ in 1..BATCH {
                    let Ok(report) = inbox.try_recv() else { break };
                    engine.report(report);
                }
            }
            Some(request) = requests.recv() => engine.request(request),
            _ = tick.tick(), if engine.has_work() => engine.tick(),
        }
    }
    for machine in engine.machines.values() {
        machine.link.over.cancel();
    }
    engine.tasks.close();
}

impl Engine {
    /// Something may be due.
    fn has_work(&self) -> bool {
        !self.live.is_empty() || self.machines.values().any(|machine| machine.gone.is_some())
    }

    /// Runs a task that reports back.
    fn spawn(&self, task: impl Future<Output = Report> + Send + 'static) {
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            // An error means that the engine has ended.
            let _ = reports.send(task.await).await;
        });
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Inserted { job, result } => self.inserted(&job, result),
            Report::Written {
                job,
                prompt_id,
                result,
            } => self.written(&job, &prompt_id, result),
            Report::Delivered {
                prompt_id,
                delivery,
            } => self.delivered(&prompt_id, delivery),
            Report::Socket { link, open } => self.socket(link, open),
            Report::Event { link, event } => self.event(link, event),
            Report::Found { prompt_id, found } => self.found(&prompt_id, found),
            Report::Fetched { prompt_id, result } => self.fetched(&prompt_id, result),
            Report::Stats { link, free_vram } => {
                if let Some(machine) = self.machine_of(link) {
                    machine.free_vram = free_vram;
                }
            }
            Report::Settled { record, result } => self.settled(*record, result),
            Report::Stored { found, reply } => {
                let answer = found.map(|found| match found {
                    Some(record) => super::Cancelled::TooLate(record.state()),
                    None => super::Cancelled::Unknown,
                });
                // Whoever asked may have gone.
                drop(reply.send(answer));
            }
        }
    }

    fn machine_of(&mut self, link: u64) -> Option<&mut Machine> {
        let mut machines = self.machines.values_mut();
        machines.find(|machine| machine.link.serial == link)
    }

    fn job_of(&mut self, prompt_id: &str) -> Option<&mut Live> {
        let id = self.prompts.get(prompt_id)?;
        let live = self.live.get_mut(id)?;
        let current = live
            .attempt()
            .is_some_and(|attempt| attempt.prompt_id == prompt_id);
        current.then_some(live)
    }

    /// Tells followers where a job is.
    fn tell_state(&mut self, id: &str) {
        let Some(live) = self.live.get(id) else {
            return;
        };
        let news = state_news(&live.record);
        self.tell(id, What::State(news));
    }

    fn tell(&mut self, id: &str, what: What) {
        self.seq += 1;
        let news = Arc::new(JobNews {
            seq: self.seq,
            job: id.into(),
            at_ms: now_ms(),
            what,
        });
        if let Some(live) = self.live.get_mut(id) {
            live.past.push(Arc::clone(&news));
        }
        self.recent.push(&news);
        // An error means that nobody listens.
        let _ = self.jobs.news.send(news);
    }

    fn status(&self) -> EngineStatus {
        let instance = |machine: &Machine| InstanceStatus {
            name: machine.name.clone(),
            placeable: machine.is_placeable() && !machine.draining,
            draining: machine.draining,
            depth: machine.depth(),
            ours: u32::try_from(machine.prompts.len()).unwrap_or(u32::MAX),
            free_vram: machine.free_vram,
        };
        EngineStatus {
            queued: self.line.len(),
            out: self.live.len().saturating_sub(self.line.len()),
            most: self.settings.queue,
            instances: self.machines.values().map(instance).collect(),
            trouble: self.trouble.clone(),
        }
    }
}

/// A job's state in short.
pub fn state_news(record: &Record) -> StateNews {
    let attempt = record.attempts.last();
    let current = attempt.filter(|_| record.state().is_out() || record.state().is_settled());
    let message = record
        .error
        .clone()
        .or_else(|| attempt.and_then(|attempt| attempt.message.clone()));
    StateNews {
        state: record.state(),
        attempt: record.job.attempts,
        instance: current.map(|attempt| attempt.instance.clone()),
        message,
        outputs: record
            .outputs
            .iter()
            .map(|output| output.name.clone())
            .collect(),
    }
}
