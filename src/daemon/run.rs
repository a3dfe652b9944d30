//! The daemon's loop: one task that owns the table, and awaits nothing but its inputs and one timer.

mod announce;
mod commands;
mod leave;
mod paced;
mod reload;
mod remember;
mod resume;
mod settle;
mod upkeep;

pub use resume::Legacy;

use super::bus::Bus;
use super::command::{Answer, Command};
use super::launch::{self, PlanError};
use super::messages;
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::table::{Now, Table};
use super::timers::{Due, TimerKey, Timers};
use super::world::{Needs, World};
use crate::adapters::event::{RunEvent, RunEventKind};
use crate::core::exit::LastExit;
use crate::core::ids::PmId;
use crate::core::instance::{Effect, Event};
use crate::core::pace::Pace;
use crate::core::units::Millis;
use crate::sys::clock;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Inputs taken before the views are published again.
const BATCH: usize = 64;

/// A command and where its answer goes.
pub type Request = (Command, oneshot::Sender<Answer>);

/// What a waiting command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Up,
    Down,
    Deleted,
    Reloaded,
}

#[derive(Debug)]
struct Waiter {
    ids: Vec<PmId>,
    /// Those that have not been up yet, or settled otherwise. What has been counts, though it may crash before the others are.
    open: Vec<PmId>,
    /// `None`: it is answered at once.
    until: Option<Until>,
    reply: oneshot::Sender<Answer>,
}

impl Waiter {
    fn new(ids: Vec<PmId>, until: Option<Until>, reply: oneshot::Sender<Answer>) -> Self {
        let open = ids.clone();
        Self {
            ids,
            open,
            until,
            reply,
        }
    }
}

/// The loop's state. Owner: itself.
pub struct Daemon<W> {
    table: Table,
    timers: Timers,
    pace: Pace,
    waiters: Vec<Waiter>,
    dirty: BTreeSet<PmId>,
    world: W,
    bus: Bus,
    snapshot: watch::Sender<Arc<Snapshot>>,
    settings: watch::Receiver<Settings>,
    started: Instant,
    ending: bool,
    cpus: usize,
    stale_events: u64,
    /// What the table's clock showed when this daemon started, and when it stood at 0 on the machine's monotonic clock.
    origin: Millis,
    epoch_ms: u64,
    life: u64,
    written: remember::Written,
}

/// Where inputs come from.
pub struct Inputs {
    /// Commands, bounded: whoever asks waits.
    pub commands: mpsc::Receiver<Request>,
    /// What the adapters tell, bounded: they wait.
    pub events: mpsc::Receiver<RunEvent>,
}

impl<W: World> Daemon<W> {
    /// A loop with an empty table.
    pub fn new(
        world: W,
        bus: Bus,
        snapshot: watch::Sender<Arc<Snapshot>>,
        settings: watch::Receiver<Settings>,
    ) -> Self {
        Self {
            table: Table::default(),
            timers: Timers::default(),
            pace: Pace::default(),
            waiters: Vec::new(),
            dirty: BTreeSet::new(),
            world,
            bus,
            snapshot,
            settings,
            started: Instant::now(),
            ending: false,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            stale_events: 0,
            origin: Millis(0),
            epoch_ms: clock::monotonic_ms(),
            life: 0,
            written: remember::Written::default(),
        }
    }

    /// Runs until both inputs are closed.
    pub async fn run(mut self, mut inputs: Inputs) {
        loop {
            let origin = self.origin;
            let deadline = [self.timers.next(), self.pace.next()]
                .into_iter()
                .flatten()
                .min()
                .map(|at| Millis(at.0.saturating_sub(origin.0)));
            tokio::select! {
                biased;
                () = async { match deadline { Some(at) => tokio::time::sleep_until(self.started + at.duration()).await, None => std::future::pending().await } } => self.fire(),
                Some(event) = inputs.events.recv() => self.event(event),
                Some((command, reply)) = inputs.commands.recv() => self.command(command, reply),
                else => return,
            }
            for _ in 0..BATCH {
                if let Ok(event) = inputs.events.try_recv() {
                    self.event(event);
                } else if let Ok((command, reply)) = inputs.commands.try_recv() {
                    self.command(command, reply);
                } else {
                    break;
                }
            }
            self.settle();
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Millis(self.origin.0 + self.started.elapsed().as_millis() as u64),
            wall_ms: self.world.wall_ms(),
        }
    }

    fn fire(&mut self) {
        for due in self.timers.due(self.now().mono) {
            match due {
                Due::Run(TimerKey {
                    id,
                    generation,
                    kind,
                }) => self.timer(id, generation, kind),
                Due::Cron(id, ticket) => self.look_at_cron(id, Some(ticket)),
                Due::Burst(id, ticket) => self.burst_due(id, ticket),
            }
        }
        self.release_held();
    }

    /// One event through the machine, and its effects out.
    fn step(&mut self, id: PmId, event: Event) {
        let now = self.now();
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let spec = Arc::clone(&instance.spec);
        match instance.machine.step(&spec.policy, event, now.mono) {
            Some(effects) => {
                self.dirty.insert(id);
                let spawns = |effect: &Effect| match effect {
                    Effect::Spawn(generation) => Some(*generation),
                    _ => None,
                };
                // What takes longest is set going first; it is told in its turn all the same.
                let mut begun = None;
                if let Some(generation) = effects.iter().find_map(spawns) {
                    self.remember([id]);
                    if self.may_spawn_now(id, generation, now) {
                        begun = self.spawn(id, now);
                    }
                }
                for effect in effects {
                    match (spawns(&effect), begun.take()) {
                        (Some(_), Some(outcome)) => self.tell_spawn(id, outcome, now),
                        (Some(_), None) => {}
                        (None, not_yet) => {
                            begun = not_yet;
                            self.carry_out(id, effect, false);
                        }
                    }
                }
                self.drop_held_if_stopped(id);
                self.note_if_up(id);
            }
            None => self.stale_events += 1,
        }
    }

    /// Who waits for it to be up has waited for it, though it may crash before this batch is over.
    fn note_if_up(&mut self, id: PmId) {
        let instance = self.table.instances.get(&id);
        if instance.is_some_and(|instance| instance.machine.start_settled()) {
            for waiter in &mut self.waiters {
                waiter.open.retain(|open| *open != id);
            }
        }
    }

    /// `other`: it is an effect of the instance's other run.
    fn carry_out(&mut self, id: PmId, effect: Effect, other: bool) {
        match effect {
            // The instance's own is begun by `step`; its other run is never spawned again.
            Effect::Spawn(_) => {}
            Effect::Disconnect(generation) => self.world.disconnect(id, generation),
            Effect::SignalTree(generation, signal) => self.world.signal(id, generation, signal),
            Effect::SignalRoot(generation, signal) => {
                self.world.signal_root(id, generation, signal)
            }
            Effect::AskToStop(generation, signal) => self.world.ask_to_stop(id, generation, signal),
            Effect::Arm(generation, kind, at) => self.timers.arm(
                at,
                TimerKey {
                    id,
                    generation,
                    kind,
                },
            ),
            Effect::Announce(announcement) if other => self.announce_other(id, &announcement),
            Effect::Announce(announcement) => self.announce(id, &announcement),
        }
    }

    /// Has a run started. `None`: there is no such instance.
    fn spawn(&mut self, id: PmId, now: Now) -> Option<Result<(), PlanError>> {
        let rotation = self.settings.borrow().rotation;
        let instance = self.table.instances.get(&id)?;
        Some(launch::plan(instance, rotation, now.wall_ms).map(|plan| {
            self.world.spawn(plan, Needs::of(&instance.spec));
        }))
    }

    /// What is to be told and kept of a run that begins.
    fn tell_spawn(&mut self, id: PmId, outcome: Result<(), PlanError>, now: Now) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        instance.started_at_ms = now.wall_ms;
        instance.started = now.mono;
        instance.probe = None;
        instance.listens = false;
        instance.upkeep.why = None;
        let generation = instance.machine.generation;
        let mode = if instance.spec.cluster {
            "cluster"
        } else {
            "fork"
        };
        tracing::info!(target: "pm2", "App [{}:{id}] starting in -{mode} mode-", instance.spec.name);
        if let Err(error) = outcome {
            let event = Event::SpawnFailed {
                generation,
                reason: error.to_string(),
                not_installed: false,
            };
            self.step(id, event);
        }
    }

    fn event(
        &mut self,
        RunEvent {
            id,
            generation,
            kind,
        }: RunEvent,
    ) {
        let now = self.now();
        if self.is_other(id, generation) {
            return self.other_event(id, generation, kind);
        }
        let Some(instance) = self
            .table
            .instances
            .get_mut(&id)
            .filter(|instance| instance.machine.generation == generation)
        else {
            // The run is past. Only its tree's end still matters, to one that could not be killed.
            self.stale_events += 1;
            return;
        };
        self.dirty.insert(id);
        match kind {
            RunEventKind::Spawned { pid, facts } => {
                instance.facts = Some(facts);
                instance.started = now.mono;
                instance.started_at_ms = now.wall_ms;
                instance.missing = None;
                let probe = launch::probe_plan(instance, generation);
                self.step(id, Event::Spawned { generation, pid });
                if let Some(plan) = probe {
                    self.world.probe(plan);
                }
            }
            RunEventKind::SpawnFailed {
                reason,
                not_installed,
            } => {
                instance.missing = not_installed.then(|| reason.clone());
                instance.could_not_start(&reason, now);
                let event = Event::SpawnFailed {
                    generation,
                    reason,
                    not_installed,
                };
                self.not_started(id, event);
            }
            RunEventKind::Starved { reason } => {
                instance.could_not_start(&reason, now);
                self.not_started(id, Event::Starved { generation, reason });
            }
            RunEventKind::Exited {
                cause,
                leftovers,
                stderr_tail,
            } => {
                let uptime_ms = now.mono.0.saturating_sub(instance.started.0);
                instance.last_exit = Some(Arc::new(LastExit {
                    cause: cause.clone(),
                    at_ms: now.wall_ms,
                    uptime_ms,
                    stderr_tail,
                    why: instance.upkeep.why.take(),
                }));
                instance.exit_code = Some(cause.pm2_code());
                instance.axm = Arc::default();
                let root = instance.machine.run().map(|run| run.pid);
                self.written.ended.extend(root);
                self.world.stop_probe(id);
                let event = Event::Exited {
                    generation,
                    cause: cause.clone(),
                    leftovers,
                };
                self.ended(id, event, &cause);
            }
            RunEventKind::TreeEmpty => self.step(id, Event::TreeEmpty { generation }),
            RunEventKind::Message(message) => {
                if messages::is_ready(&message) {
                    self.told_ready(id, generation);
                }
                if let Some(instance) = self.table.instances.get_mut(&id) {
                    messages::take(instance, &self.bus, message, now.wall_ms);
                }
            }
            RunEventKind::Cluster(fact) => self.cluster_fact(id, generation, fact),
            RunEventKind::Probe { verdict, detail } => {
                let why = format!("failed its liveness probe: {detail}");
                self.probe_said(id, verdict, detail, why);
            }
        }
    }
}
