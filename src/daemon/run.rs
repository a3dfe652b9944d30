//! The daemon's loop: one task that owns the table, and awaits nothing but its inputs and one timer.

use super::bus::Bus;
use super::command::{Answer, Command, CommandError};
use super::settings::Settings;
use super::snapshot::{InstanceView, Snapshot};
use super::table::{Instance, Now, Table};
use super::timers::{TimerKey, Timers};
use super::wire;
use super::world::{Needs, World};
use super::{launch, messages};
use crate::adapters::event::{RunEvent, RunEventKind};
use crate::core::exit::{ExitCause, LastExit};
use crate::core::ids::PmId;
use crate::core::instance::{Announcement, Effect, Event, FailReason, State};
use crate::core::probe::Verdict;
use crate::core::spec::app::AppSpec;
use crate::core::spec::instances;
use crate::core::units::Millis;
use serde_json::{Map, Value};
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
}

#[derive(Debug)]
struct Waiter {
    ids: Vec<PmId>,
    /// `None`: it is answered at once.
    until: Option<Until>,
    reply: oneshot::Sender<Answer>,
}

/// The loop's state. Owner: itself.
pub struct Daemon<W> {
    table: Table,
    timers: Timers,
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
        }
    }

    /// Runs until both inputs are closed.
    pub async fn run(mut self, mut inputs: Inputs) {
        loop {
            let deadline = self.timers.next();
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
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono: Millis(self.started.elapsed().as_millis() as u64),
            wall_ms: wall.as_millis() as u64,
        }
    }

    fn fire(&mut self) {
        for TimerKey {
            id,
            generation,
            kind,
        } in self.timers.due(self.now().mono)
        {
            self.step(id, Event::Timer { generation, kind });
        }
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
                for effect in effects {
                    self.carry_out(id, effect, now);
                }
            }
            None => self.stale_events += 1,
        }
    }

    fn carry_out(&mut self, id: PmId, effect: Effect, now: Now) {
        match effect {
            Effect::Spawn(_) => self.spawn(id, now),
            Effect::SignalTree(generation, signal) => self.world.signal(id, generation, signal),
            Effect::Arm(generation, kind, at) => self.timers.arm(
                at,
                TimerKey {
                    id,
                    generation,
                    kind,
                },
            ),
            Effect::Announce(announcement) => self.announce(id, &announcement),
        }
    }

    fn spawn(&mut self, id: PmId, now: Now) {
        let rotation = self.settings.borrow().rotation;
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        instance.started_at_ms = now.wall_ms;
        instance.started = now.mono;
        instance.probe = None;
        let generation = instance.machine.generation;
        let mode = if instance.spec.cluster {
            "cluster"
        } else {
            "fork"
        };
        tracing::info!(target: "pm2", "App [{}:{id}] starting in -{mode} mode-", instance.spec.name);
        match launch::plan(instance, rotation) {
            Ok(plan) => {
                let needs = Needs::of(&instance.spec.fornax, &instance.spec.cwd);
                self.world.spawn(plan, needs);
            }
            Err(error) => self.step(
                id,
                Event::SpawnFailed {
                    generation,
                    reason: error.to_string(),
                    not_installed: false,
                },
            ),
        }
    }

    fn announce(&mut self, id: PmId, announcement: &Announcement) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let app = Arc::clone(&instance.spec.name);
        let event = match announcement {
            Announcement::Online => {
                tracing::info!(target: "pm2", "App [{app}:{id}] online");
                "online"
            }
            Announcement::Exited(cause) => {
                let signal = match cause {
                    ExitCause::Signal(signal) => signal.to_string(),
                    ExitCause::OomKilled => "SIGKILL (out of memory)".to_owned(),
                    ExitCause::Code(_) | ExitCause::CouldNotStart { .. } => "SIGINT".to_owned(),
                };
                tracing::info!(target: "pm2", "App [{app}:{id}] exited with code [{}] via signal [{signal}]", cause.pm2_code());
                if !matches!(cause, ExitCause::CouldNotStart { .. }) {
                    instance.exit_code = Some(cause.pm2_code());
                }
                "exit"
            }
            Announcement::Stopped => "exit",
            Announcement::GaveUp => {
                tracing::info!(target: "pm2", "Script {} had too many unstable restarts ({}). Stopped. \"errored\"", instance.spec.exec_path, instance.spec.policy.restart.max_restarts);
                instance.created_at_ms = None;
                "restart overlimit"
            }
            Announcement::WillRestart(delay) => {
                tracing::info!(target: "pm2", "App [{app}:{id}] will restart in {}ms", delay.0);
                return;
            }
        };
        self.publish(id, event, false);
    }

    fn publish(&self, id: PmId, event: &str, manually: bool) {
        let at = self.now().wall_ms;
        self.bus.publish("process:event", || {
            let view = self.table.view(id);
            view.map_or_else(String::new, |view| {
                wire::process_event(&view, event, manually, at)
            })
        });
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
            RunEventKind::Spawned { pid } => {
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
                let cause = ExitCause::CouldNotStart {
                    reason: reason.clone(),
                };
                instance.last_exit = Some(Arc::new(LastExit {
                    cause,
                    at_ms: now.wall_ms,
                    uptime_ms: 0,
                    stderr_tail: Vec::new(),
                }));
                tracing::error!(
                    app = &*instance.spec.name,
                    instance = id.0,
                    reason,
                    "could not start"
                );
                self.step(
                    id,
                    Event::SpawnFailed {
                        generation,
                        reason,
                        not_installed,
                    },
                );
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
                }));
                instance.exit_code = Some(cause.pm2_code());
                instance.axm = Arc::default();
                self.world.stop_probe(id);
                self.step(
                    id,
                    Event::Exited {
                        generation,
                        cause,
                        leftovers,
                    },
                );
            }
            RunEventKind::TreeEmpty => self.step(id, Event::TreeEmpty { generation }),
            RunEventKind::Message(message) => {
                if messages::is_ready(&message) {
                    self.step(id, Event::Ready { generation });
                }
                if let Some(instance) = self.table.instances.get_mut(&id) {
                    messages::take(instance, &self.bus, message, now.wall_ms);
                }
            }
            RunEventKind::Probe { verdict, detail } => {
                instance.probe = Some((verdict, detail));
                if verdict == Verdict::Dead {
                    tracing::error!(
                        app = &*instance.spec.name,
                        instance = id.0,
                        "failed its liveness probe; restarting"
                    );
                    self.step(id, Event::Restart { deps_met: true });
                }
            }
        }
    }

    fn command(&mut self, command: Command, reply: oneshot::Sender<Answer>) {
        match self.begin(command) {
            Ok((ids, until)) => self.waiters.push(Waiter { ids, until, reply }),
            // Whoever asked may have gone.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Starts what was asked; which instances must come to what before it is answered.
    fn begin(&mut self, command: Command) -> Result<(Vec<PmId>, Option<Until>), CommandError> {
        let one = |id, until| Ok((vec![id], until));
        match command {
            Command::Prepare { conf, version } => {
                Ok((self.prepare(conf, &version)?, Some(Until::Up)))
            }
            Command::Start(id) => {
                let deps_met = self.dependencies_met(id)?;
                match &self.startable(id)?.machine.state {
                    State::Online(_) => return Err(CommandError::AlreadyOnline(id)),
                    State::Starting(_) | State::Spawning => {
                        return Err(CommandError::AlreadyStarted(id));
                    }
                    State::Idle(_)
                    | State::Waiting
                    | State::Stopping(_)
                    | State::Backoff { .. }
                    | State::Failed(_) => {}
                }
                self.step(id, Event::Start { deps_met });
                one(id, Some(Until::Up))
            }
            Command::Stop(id) => {
                let name = Arc::clone(&self.known(id)?.spec.name);
                tracing::info!(target: "pm2", "Stopping app:{name} id:{id}");
                self.step(id, Event::Stop);
                one(id, Some(Until::Down))
            }
            Command::Restart { id, env } => {
                if self.ending {
                    return Err(CommandError::Ending);
                }
                self.startable(id)?;
                self.reconfigure(id, env)?;
                let deps_met = self.dependencies_met(id)?;
                self.forgive(id);
                self.step(id, Event::Restart { deps_met });
                one(id, Some(Until::Up))
            }
            Command::Delete(id) => {
                self.known(id)?.deleting = true;
                self.step(id, Event::Stop);
                one(id, Some(Until::Deleted))
            }
            Command::Duplicate(id) => {
                let copy = self.duplicate(id)?;
                one(copy, Some(Until::Up))
            }
            Command::Reset(id) => {
                let now = self.now();
                let instance = self.known(id)?;
                instance.machine.memory.forgive(now.mono);
                instance.machine.memory.restarts = 0;
                instance.created_at_ms = Some(now.wall_ms);
                self.dirty.insert(id);
                one(id, None)
            }
            Command::Signal(id, signal) => {
                let instance = self.known(id)?;
                let (run, generation) = (instance.machine.run(), instance.machine.generation);
                run.ok_or(CommandError::Offline(id))?;
                self.world.signal_root(id, generation, signal);
                one(id, None)
            }
            Command::StopRestarting => {
                self.ending = true;
                Ok((Vec::new(), None))
            }
            Command::SetFlag { id, key, value } => {
                let instance = self.known(id)?;
                let mut map = instance.conf.to_map();
                map.insert(key.to_owned(), value);
                self.configure(id, &map)?;
                one(id, None)
            }
            Command::NodeVersion { id, version } => {
                self.known(id)?.node_version = Some(version.into());
                self.dirty.insert(id);
                one(id, None)
            }
            Command::Installed { id, missing } => {
                self.known(id)?.missing = missing;
                self.dirty.insert(id);
                one(id, None)
            }
        }
    }

    fn known(&mut self, id: PmId) -> Result<&mut Instance, CommandError> {
        self.table
            .instances
            .get_mut(&id)
            .ok_or(CommandError::UnknownId(id))
    }

    /// One that is being deleted is not started again: nobody would know it.
    fn startable(&mut self, id: PmId) -> Result<&mut Instance, CommandError> {
        self.known(id).and_then(|instance| {
            if instance.deleting {
                Err(CommandError::UnknownId(id))
            } else {
                Ok(instance)
            }
        })
    }

    fn dependencies_met(&self, id: PmId) -> Result<bool, CommandError> {
        let instance = self
            .table
            .instances
            .get(&id)
            .ok_or(CommandError::UnknownId(id))?;
        Ok(self.table.dependencies_met(&instance.spec))
    }

    /// A person acted: PM2 counts from now.
    fn forgive(&mut self, id: PmId) {
        let wall_ms = self.now().wall_ms;
        if let Some(instance) = self.table.instances.get_mut(&id) {
            instance.created_at_ms = Some(wall_ms);
        }
    }

    fn prepare(
        &mut self,
        mut conf: Map<String, Value>,
        version: &str,
    ) -> Result<Vec<PmId>, CommandError> {
        if self.ending {
            return Err(CommandError::Ending);
        }
        // A key that PM2's daemon adds; its look at version control is never under way here.
        conf.entry("vizion_running").or_insert(Value::Bool(false));
        let defaults = self.settings.borrow().defaults;
        // Refused before anything of it exists.
        let spec = AppSpec::from_map(&conf, defaults)?;
        let (count, numbered) = instances::count(&conf, self.cpus);
        let restored = !numbered && conf.get("status").and_then(Value::as_str) == Some("stopped");
        let unique: Arc<str> = uuid::Uuid::new_v4().to_string().into();
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let mut own = conf.clone();
            if numbered {
                own.insert("instances".to_owned(), Value::from(count));
                self.number(&mut own, &spec.name);
            }
            let id = self.insert(own, &unique, version)?;
            if conf.get("created_at").is_some_and(Value::is_u64)
                && let Some(instance) = self.table.instances.get_mut(&id)
            {
                instance.created_at_ms = conf.get("created_at").and_then(Value::as_u64);
            }
            ids.push(id);
        }
        for id in &ids {
            if spec.autostart && !restored && spec.fornax.enabled {
                let deps_met = self.dependencies_met(*id)?;
                self.step(*id, Event::Start { deps_met });
                self.publish(*id, "start", true);
            }
        }
        Ok(ids)
    }

    /// An index and an increment of its own among the instances of its app.
    fn number(&mut self, conf: &mut Map<String, Value>, name: &str) {
        let maps: Vec<Map<String, Value>> = self
            .table
            .of_app(name)
            .map(|instance| instance.conf.to_map())
            .collect();
        let taken: Vec<u64> = maps.iter().filter_map(instances::index).collect();
        instances::set_index(conf, instances::free_index(&taken));
        let variable = conf
            .get("increment_var")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let last = variable.and_then(|variable| {
            maps.iter()
                .filter_map(|map| map.get(&variable)?.as_i64())
                .max()
        });
        instances::set_increment(conf, last);
    }

    fn insert(
        &mut self,
        mut conf: Map<String, Value>,
        unique: &Arc<str>,
        version: &str,
    ) -> Result<PmId, CommandError> {
        let now = self.now();
        let id = self.table.take_id();
        instances::set_paths(&mut conf, id);
        let spec = AppSpec::from_map(&conf, self.settings.borrow().defaults)?;
        let (text, generation) = (self.table.share(&conf), self.table.take_generations());
        let mut instance = Instance::new(id, Arc::new(spec), text, generation, now);
        instance.unique_id = Arc::clone(unique);
        instance.version = version.into();
        self.table.instances.insert(id, instance);
        self.dirty.insert(id);
        Ok(id)
    }

    fn duplicate(&mut self, id: PmId) -> Result<PmId, CommandError> {
        let original = self.known(id)?;
        let (mut conf, version) = (original.conf.to_map(), Arc::clone(&original.version));
        let name = Arc::clone(&original.spec.name);
        self.number(&mut conf, &name);
        let unique = uuid::Uuid::new_v4().to_string().into();
        let copy = self.insert(conf, &unique, &version)?;
        let deps_met = self.dependencies_met(copy)?;
        self.step(copy, Event::Start { deps_met });
        Ok(copy)
    }

    /// Merges what a restart carries, as PM2 does (spec 3.3): variables, and `current_conf` for keys.
    fn reconfigure(&mut self, id: PmId, mut env: Map<String, Value>) -> Result<(), CommandError> {
        let conf = env.remove("current_conf");
        if env.is_empty() && conf.is_none() {
            return Ok(());
        }
        let mut map = self.known(id)?.conf.to_map();
        if let Some(current) = map.get_mut("env").and_then(Value::as_object_mut) {
            current.extend(env);
        }
        if let Some(Value::Object(keys)) = conf {
            for (key, value) in keys {
                let empty = value.as_object().is_some_and(Map::is_empty);
                match (key.as_str(), value) {
                    ("env", _) if empty => {}
                    // What names an instance and its files stays (spec 5.7).
                    (
                        "pm_exec_path" | "pm_cwd" | "exec_mode" | "instances" | "pm_out_log_path"
                        | "pm_err_log_path" | "pm_log_path" | "pm_pid_path",
                        _,
                    ) => {}
                    (_, Value::String(text)) if text == "null" => {
                        map.remove(&key);
                    }
                    (_, value) => {
                        map.insert(key, value);
                    }
                }
            }
        }
        self.configure(id, &map)
    }

    fn configure(&mut self, id: PmId, map: &Map<String, Value>) -> Result<(), CommandError> {
        let spec = Arc::new(AppSpec::from_map(map, self.settings.borrow().defaults)?);
        let conf = self.table.share(map);
        let instance = self.known(id)?;
        instance.spec = spec;
        instance.conf = conf;
        self.dirty.insert(id);
        Ok(())
    }

    /// After a batch of inputs: service states, dependants, answers, and the views for everybody else.
    fn settle(&mut self) {
        if self.dirty.is_empty() && self.waiters.is_empty() {
            return;
        }
        let wall_ms = self.now().wall_ms;
        let mut changed = std::mem::take(&mut self.dirty);
        for id in &changed {
            self.table.assess(*id, wall_ms);
            self.release_if_down(*id);
        }
        // A state that has changed may be what another instance waits for, and what it tells of its dependencies.
        let dependants: Vec<PmId> = self
            .table
            .instances
            .values()
            .filter(|instance| !instance.spec.fornax.depends_on.is_empty())
            .map(|instance| instance.id)
            .collect();
        for id in dependants {
            let Some(instance) = self.table.instances.get(&id) else {
                continue;
            };
            if instance.machine.state == State::Waiting
                && self.table.dependencies_met(&instance.spec)
            {
                self.step(id, Event::DependenciesMet);
            }
            self.table.assess(id, wall_ms);
            changed.insert(id);
        }
        changed.append(&mut self.dirty);
        let answers = self.answers(&mut changed);
        // Views first: whoever has an answer sees in the next list what it told.
        self.publish_views(&changed);
        for (reply, answer) in answers {
            // Whoever asked may have gone.
            drop(reply.send(answer));
        }
    }

    fn release_if_down(&mut self, id: PmId) {
        let down = self
            .table
            .instances
            .get(&id)
            .is_some_and(|instance| instance.machine.stop_settled());
        if down {
            self.world.release(id);
        }
    }

    fn answers(&mut self, changed: &mut BTreeSet<PmId>) -> Vec<(oneshot::Sender<Answer>, Answer)> {
        let mut answers = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.ids.iter().all(|id| self.settled(*id, waiter.until)) {
                answers.push(self.resolve(waiter, changed));
            } else {
                self.waiters.push(waiter);
            }
        }
        answers
    }

    fn settled(&self, id: PmId, until: Option<Until>) -> bool {
        match (self.table.instances.get(&id), until) {
            // Deleted meanwhile, by another command.
            (None, _) | (_, None) => true,
            (Some(instance), Some(Until::Up)) => instance.machine.start_settled(),
            (Some(instance), Some(Until::Down | Until::Deleted)) => instance.machine.stop_settled(),
        }
    }

    fn resolve(
        &mut self,
        waiter: Waiter,
        changed: &mut BTreeSet<PmId>,
    ) -> (oneshot::Sender<Answer>, Answer) {
        let views: Vec<Arc<InstanceView>> = waiter
            .ids
            .iter()
            .filter_map(|id| self.table.view(*id))
            .map(Arc::new)
            .collect();
        let failed =
            waiter
                .ids
                .iter()
                .find_map(|id| match &self.table.instances.get(id)?.machine.state {
                    State::Failed(FailReason::CouldNotStart { reason, .. }) => Some(reason.clone()),
                    _ => None,
                });
        let answer = match (waiter.until, failed) {
            (Some(Until::Up), Some(reason)) => Err(CommandError::CouldNotStart(reason)),
            _ => Ok(views),
        };
        if waiter.until == Some(Until::Deleted) {
            for id in waiter.ids {
                self.world.stop_probe(id);
                self.world.release(id);
                self.table.instances.remove(&id);
                changed.insert(id);
            }
        }
        (waiter.reply, answer)
    }

    fn publish_views(&mut self, changed: &BTreeSet<PmId>) {
        if changed.is_empty() {
            return;
        }
        let old = Arc::clone(&self.snapshot.borrow());
        let instances = self
            .table
            .instances
            .keys()
            .filter_map(|id| match old.get(*id).filter(|_| !changed.contains(id)) {
                Some(view) => Some(Arc::clone(view)),
                None => self.table.view(*id).map(Arc::new),
            })
            .collect();
        self.snapshot.send_replace(Arc::new(Snapshot { instances }));
    }
}
