//! The state machine of one instance: `(state, event, now) → (state, effects)`. Nothing else changes a lifecycle.
//!
//! What is wanted is kept apart from what is: the latest wish wins, and a stop is never undone by a restart in flight.

use super::exit::ExitCause;
use super::ids::Generation;
use super::restart::{self, Decision, DoneReason, GiveUpReason, RestartMemory, RestartPolicy};
use super::signal::Signal;
use super::spec::fornax::StopStep;
use super::status::Status;
use super::stop;
use super::units::Millis;
use serde::{Deserialize, Serialize};

/// How long after a restart for which there was no room it is tried again.
pub const STARVED_RETRY: Millis = Millis(1_000);

/// What the machine needs to know of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How it is stopped.
    pub ladder: Vec<StopStep>,
    /// The ladder is for its whole tree (PM2's `treekill`). Else for its root process alone, and what remains is left.
    pub treekill: bool,
    /// The first rung is the message "shutdown" instead of a signal (PM2's `shutdown_with_message`).
    pub by_message: bool,
    /// It tells when it is ready (PM2's `wait_ready`).
    pub wait_ready: bool,
    /// How long that may take before it counts as online anyway.
    pub listen_timeout: Millis,
    /// It is a worker of Node's cluster: online once Node says so, and it leaves by closing its servers first.
    #[serde(default)]
    pub worker: bool,
}

/// Where an instance is. Serialised in the table of a handover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not running, and not going to by itself.
    Idle(IdleReason),
    /// Wanted, but something it depends on is not there yet.
    Waiting,
    /// A spawn is under way.
    Spawning,
    /// It runs and has not told yet that it is ready.
    Starting(Run),
    /// It runs.
    Online(Run),
    /// It is being ended: by wish, or because it has left descendants behind.
    Stopping(Stopping),
    /// It waits before an automatic restart.
    Backoff {
        /// Until when.
        until: Millis,
    },
    /// It is given up until a person acts.
    Failed(FailReason),
}

/// A run as the machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its pid.
    pub pid: u32,
    /// Since when.
    pub since: Millis,
}

/// A stop in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// The run; `None` while its spawn has not been answered yet.
    pub run: Option<Run>,
    /// The rung of the ladder in force.
    pub step: usize,
    /// How its root process ended, if it has.
    pub exited: Option<ExitCause>,
    /// Somebody asked for it: no restart policy applies.
    pub asked: bool,
    /// Its servers are being closed; the ladder comes after that.
    #[serde(default)]
    pub leaving: bool,
}

/// Why it is idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdleReason {
    /// It has never been started.
    NotStarted,
    /// Its file says `enabled: false`.
    Disabled,
    /// Somebody stopped it.
    Asked,
    /// It has ended and is not to be restarted.
    Ended(DoneReason),
}

/// Why it is given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailReason {
    /// It could not be started at all.
    CouldNotStart {
        /// Why, with the remedy.
        reason: String,
        /// What it lacks is something to install.
        not_installed: bool,
    },
    /// It fails too often.
    GaveUp(GiveUpReason),
    /// Not even SIGKILL ends it. What is known of the run is kept: while it lives there is no other.
    CannotBeKilled(Stopping),
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it up. `deps_met`: everything it depends on is there.
    Start {
        /// Nothing has to be waited for.
        deps_met: bool,
    },
    /// Somebody wants it down.
    Stop,
    /// It is to go while others serve on: a cluster worker closes its servers first, what it has begun is finished.
    Retire,
    /// Somebody wants a new run of it.
    Restart {
        /// Nothing has to be waited for.
        deps_met: bool,
    },
    /// What it waited for is there.
    DependenciesMet,
    /// The spawn has succeeded.
    Spawned {
        /// Of which run.
        generation: Generation,
        /// The process.
        pid: u32,
    },
    /// The spawn has failed.
    SpawnFailed {
        /// Of which run.
        generation: Generation,
        /// Why.
        reason: String,
        /// What it lacks is something to install.
        not_installed: bool,
    },
    /// There is no room for a process just now: descriptors, processes or memory are used up.
    Starved {
        /// Of which run.
        generation: Generation,
        /// What is used up.
        reason: String,
    },
    /// It has told that it is ready.
    Ready {
        /// Which run.
        generation: Generation,
    },
    /// It has closed its channel.
    Disconnected {
        /// Which run.
        generation: Generation,
    },
    /// Its root process has ended.
    Exited {
        /// Which run.
        generation: Generation,
        /// How.
        cause: ExitCause,
        /// Descendants of it still live.
        leftovers: bool,
    },
    /// The last of its descendants has ended.
    TreeEmpty {
        /// Which run.
        generation: Generation,
    },
    /// A timer has run out.
    Timer {
        /// Which run's.
        generation: Generation,
        /// Which one.
        kind: Timer,
    },
}

/// The timers of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// It had so long to tell that it is ready.
    Ready,
    /// The rung of the ladder is over.
    Rung(usize),
    /// The backoff is over.
    Backoff,
    /// It had so long to close its servers.
    Leave,
    /// A reload's new worker had so long to listen. Not the machine's: the reload's.
    Listen,
}

/// What must be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start a run.
    Spawn(Generation),
    /// Send a signal to the run's whole tree.
    SignalTree(Generation, Signal),
    /// Send a signal to the run's root process only.
    SignalRoot(Generation, Signal),
    /// Send it the message "shutdown"; if it has no channel, this signal.
    AskToStop(Generation, Signal),
    /// Have the worker close its servers and its channel.
    Disconnect(Generation),
    /// Call back at this time.
    Arm(Generation, Timer, Millis),
    /// Tell the world.
    Announce(Announcement),
}

/// What is told to the world, in PM2's event names where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announcement {
    /// `online`.
    Online,
    /// `exit`, of the process.
    Exited(ExitCause),
    /// `exit`, PM2's second one: a stop is complete.
    Stopped,
    /// `restart overlimit`.
    GaveUp,
    /// A restart will follow after this long.
    WillRestart(Millis),
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Where it is.
    pub state: State,
    /// The latest wish: it should run.
    pub wanted: bool,
    /// The latest run's number.
    pub generation: Generation,
    /// What the restart policy remembers.
    pub memory: RestartMemory,
    /// The latest launch was nobody's wish but the restart policy's.
    #[serde(default)]
    pub automatic: bool,
}

impl Machine {
    /// An instance that has never run. `generation` is where its numbering goes on.
    pub fn new(reason: IdleReason, generation: Generation, now: Millis) -> Self {
        let memory = RestartMemory {
            counting_since: Some(now),
            ..RestartMemory::default()
        };
        Self {
            state: State::Idle(reason),
            wanted: false,
            generation,
            memory,
            automatic: false,
        }
    }

    /// PM2's word for the state.
    pub fn status(&self) -> Status {
        match &self.state {
            State::Idle(_) => Status::Stopped,
            State::Waiting | State::Spawning | State::Starting(_) => Status::Launching,
            State::Online(_) => Status::Online,
            State::Stopping(_) => Status::Stopping,
            State::Backoff { .. } => Status::WaitingRestart,
            State::Failed(_) => Status::Errored,
        }
    }

    /// The running process, if there is one.
    pub fn run(&self) -> Option<Run> {
        match &self.state {
            State::Starting(run) | State::Online(run) => Some(*run),
            State::Stopping(stopping) | State::Failed(FailReason::CannotBeKilled(stopping))
                if stopping.exited.is_none() =>
            {
                stopping.run
            }
            State::Stopping(_)
            | State::Idle(_)
            | State::Waiting
            | State::Spawning
            | State::Backoff { .. }
            | State::Failed(_) => None,
        }
    }

    /// Whether a process of it runs and nobody is ending it.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Online(_))
    }

    /// Whether a command that wanted it up has its answer.
    pub fn start_settled(&self) -> bool {
        match &self.state {
            State::Spawning | State::Starting(_) | State::Stopping(_) => false,
            State::Idle(_)
            | State::Waiting
            | State::Online(_)
            | State::Backoff { .. }
            | State::Failed(_) => true,
        }
    }

    /// Whether a command that wanted it down has its answer.
    pub fn stop_settled(&self) -> bool {
        matches!(self.state, State::Idle(_) | State::Failed(_))
    }

    /// The timers that run in this state: set again by whoever takes the machine over from another process. A stop's rung gets
    /// its whole time anew, since its signal has been sent and when is not known.
    pub fn timers(&self, policy: &Policy, now: Millis) -> Vec<(Timer, Millis)> {
        match &self.state {
            State::Starting(run) => {
                vec![(Timer::Ready, run.since.plus(policy.listen_timeout))]
            }
            State::Backoff { until } => vec![(Timer::Backoff, *until)],
            State::Stopping(stopping) if stopping.run.is_some() => {
                let rung = stop::rung(&policy.ladder, stopping.step);
                let wait = rung.map_or(Millis(0), |rung| rung.wait);
                let timer = if stopping.leaving {
                    Timer::Leave
                } else {
                    Timer::Rung(stopping.step)
                };
                vec![(timer, now.plus(wait))]
            }
            State::Idle(_)
            | State::Waiting
            | State::Spawning
            | State::Online(_)
            | State::Stopping(_)
            | State::Failed(_) => Vec::new(),
        }
    }

    /// Takes one event. A late one, of a past run, changes nothing and gives `None`.
    pub fn step(&mut self, policy: &Policy, event: Event, now: Millis) -> Option<Vec<Effect>> {
        let mut out = Vec::new();
        match event {
            Event::Start { deps_met } => self.start(policy, deps_met, now, &mut out),
            Event::Stop => self.stop(policy, now, &mut out),
            Event::Retire => self.retire(policy, now, &mut out),
            Event::Restart { deps_met } => self.restart(policy, deps_met, now, &mut out),
            Event::DependenciesMet => {
                if self.state == State::Waiting {
                    self.launch(&mut out);
                }
            }
            Event::Spawned { generation, .. }
            | Event::SpawnFailed { generation, .. }
            | Event::Starved { generation, .. }
            | Event::Ready { generation }
            | Event::Disconnected { generation }
            | Event::Exited { generation, .. }
            | Event::TreeEmpty { generation }
            | Event::Timer { generation, .. }
                if generation != self.generation =>
            {
                return None;
            }
            Event::Spawned { pid, .. } => {
                self.spawned(policy, Run { pid, since: now }, now, &mut out)
            }
            Event::SpawnFailed {
                reason,
                not_installed,
                ..
            } => self.spawn_failed(reason, not_installed, &mut out),
            Event::Starved { reason, .. } => self.starved(reason, now, &mut out),
            Event::Ready { .. } => self.ready(&mut out),
            Event::Disconnected { .. } => self.left(policy, now, &mut out),
            Event::Exited {
                cause, leftovers, ..
            } => self.exited(policy, cause, leftovers, now, &mut out),
            Event::TreeEmpty { .. } => self.tree_empty(policy, now, &mut out),
            Event::Timer { kind, .. } => self.timer(policy, kind, now, &mut out),
        }
        Some(out)
    }

    fn start(&mut self, policy: &Policy, deps_met: bool, now: Millis, out: &mut Vec<Effect>) {
        self.wanted = true;
        match &mut self.state {
            State::Failed(FailReason::CannotBeKilled(_)) => self.kill_again(policy, now, out),
            State::Idle(_) | State::Failed(_) | State::Backoff { .. } => {
                self.memory.forgive(now);
                self.launch_or_wait(deps_met, out);
            }
            // A stop under way ends first; what is wanted then decides, and not the policy of a crash.
            State::Stopping(stopping) => {
                stopping.asked = true;
                self.memory.forgive(now);
            }
            State::Waiting | State::Spawning | State::Starting(_) | State::Online(_) => {}
        }
    }

    fn restart(&mut self, policy: &Policy, deps_met: bool, now: Millis, out: &mut Vec<Effect>) {
        match &self.state {
            State::Starting(_) | State::Online(_) | State::Spawning => {
                self.memory.forgive(now);
                self.memory.restarts = self.memory.restarts.saturating_add(1);
                self.begin_stop(policy, now, out);
                self.wanted = true;
            }
            State::Idle(_)
            | State::Failed(_)
            | State::Backoff { .. }
            | State::Waiting
            | State::Stopping(_) => self.start(policy, deps_met, now, out),
        }
    }

    fn stop(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        self.wanted = false;
        match &mut self.state {
            State::Idle(reason) => {
                if *reason != IdleReason::Disabled {
                    *reason = IdleReason::Asked;
                }
            }
            State::Stopping(stopping) => stopping.asked = true,
            State::Failed(FailReason::CannotBeKilled(_)) => self.kill_again(policy, now, out),
            State::Waiting | State::Backoff { .. } | State::Failed(_) => {
                // The next generation makes the backoff's timer stale.
                self.generation = self.generation.next();
                self.state = State::Idle(IdleReason::Asked);
                out.push(Effect::Announce(Announcement::Stopped));
            }
            State::Spawning | State::Starting(_) | State::Online(_) => {
                self.begin_stop(policy, now, out)
            }
        }
    }

    fn retire(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        match self.state {
            State::Starting(run) | State::Online(run) if policy.worker => {
                self.wanted = false;
                self.state = State::Stopping(Stopping {
                    run: Some(run),
                    step: 0,
                    exited: None,
                    asked: true,
                    leaving: true,
                });
                out.push(Effect::Disconnect(self.generation));
                // What it has begun may take as long as it may take to end.
                let wait =
                    stop::rung(&policy.ladder, 0).map_or(stop::KILL_TIMEOUT, |rung| rung.wait);
                let until = Millis(now.0 + wait.0);
                out.push(Effect::Arm(self.generation, Timer::Leave, until));
            }
            _ => self.stop(policy, now, out),
        }
    }

    /// Its servers are closed, or had long enough.
    fn left(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        if let State::Stopping(stopping) = &mut self.state
            && std::mem::take(&mut stopping.leaving)
        {
            // It has let go of its channel, so a message would not reach it (pm2 7.0.4: SIGINT).
            self.ascend(policy, 0, false, now, out);
        }
    }

    fn begin_stop(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        let run = self.run();
        self.state = State::Stopping(Stopping {
            run,
            step: 0,
            exited: None,
            asked: true,
            leaving: false,
        });
        if run.is_some() {
            self.take_rung(policy, 0, now, out);
        }
    }

    /// SIGKILL did not end it; somebody asks again, and what holds it in the kernel may have let go.
    fn kill_again(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        let State::Failed(FailReason::CannotBeKilled(stuck)) = &self.state else {
            return;
        };
        let asked = true;
        self.state = State::Stopping(Stopping {
            asked,
            ..stuck.clone()
        });
        self.take_rung(policy, policy.ladder.len(), now, out);
    }

    fn take_rung(&mut self, policy: &Policy, step: usize, now: Millis, out: &mut Vec<Effect>) {
        self.ascend(policy, step, policy.by_message, now, out);
    }

    /// The rung `step` of the ladder, the first one by message if so.
    fn ascend(
        &mut self,
        policy: &Policy,
        step: usize,
        by_message: bool,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        let State::Stopping(stopping) = &mut self.state else {
            return;
        };
        stopping.step = step;
        match stop::rung(&policy.ladder, step) {
            Some(rung) => {
                let asks = step == 0 && by_message && stopping.exited.is_none();
                out.push(match (asks, policy.treekill) {
                    (true, _) => Effect::AskToStop(self.generation, rung.signal),
                    (false, true) => Effect::SignalTree(self.generation, rung.signal),
                    (false, false) => Effect::SignalRoot(self.generation, rung.signal),
                });
                out.push(Effect::Arm(
                    self.generation,
                    Timer::Rung(step),
                    now.plus(rung.wait),
                ));
            }
            None => {
                let stuck = stopping.clone();
                self.state = State::Failed(FailReason::CannotBeKilled(stuck));
                self.wanted = false;
            }
        }
    }

    fn launch_or_wait(&mut self, deps_met: bool, out: &mut Vec<Effect>) {
        if deps_met {
            self.launch(out);
        } else {
            self.generation = self.generation.next();
            self.state = State::Waiting;
        }
    }

    fn launch(&mut self, out: &mut Vec<Effect>) {
        self.automatic = false;
        self.generation = self.generation.next();
        self.state = State::Spawning;
        out.push(Effect::Spawn(self.generation));
    }

    fn relaunch(&mut self, out: &mut Vec<Effect>) {
        self.memory.restarts = self.memory.restarts.saturating_add(1);
        self.launch(out);
        self.automatic = true;
    }

    fn back_off(&mut self, delay: Millis, now: Millis, out: &mut Vec<Effect>) {
        // A generation of its own, so that a timer of the past run can't end it.
        self.generation = self.generation.next();
        let until = now.plus(delay);
        self.state = State::Backoff { until };
        out.push(Effect::Announce(Announcement::WillRestart(delay)));
        out.push(Effect::Arm(self.generation, Timer::Backoff, until));
    }

    /// What a person asked for is refused, with the cause. What ran before and is to run again is tried until there is room.
    fn starved(&mut self, reason: String, now: Millis, out: &mut Vec<Effect>) {
        if self.state == State::Spawning && self.automatic {
            // It counts once it runs.
            self.memory.restarts = self.memory.restarts.saturating_sub(1);
            self.back_off(STARVED_RETRY, now, out);
        } else {
            self.spawn_failed(reason, false, out);
        }
    }

    fn spawned(&mut self, policy: &Policy, run: Run, now: Millis, out: &mut Vec<Effect>) {
        match &mut self.state {
            State::Spawning if policy.wait_ready || policy.worker => {
                self.state = State::Starting(run);
                out.push(Effect::Arm(
                    self.generation,
                    Timer::Ready,
                    now.plus(policy.listen_timeout),
                ));
            }
            State::Spawning => {
                self.state = State::Online(run);
                out.push(Effect::Announce(Announcement::Online));
            }
            // A stop came while the spawn was under way.
            State::Stopping(stopping) => {
                stopping.run = Some(run);
                self.take_rung(policy, 0, now, out);
            }
            State::Idle(_)
            | State::Waiting
            | State::Starting(_)
            | State::Online(_)
            | State::Backoff { .. }
            | State::Failed(_) => {}
        }
    }

    fn spawn_failed(&mut self, reason: String, not_installed: bool, out: &mut Vec<Effect>) {
        match &self.state {
            State::Spawning => {
                self.state = State::Failed(FailReason::CouldNotStart {
                    reason: reason.clone(),
                    not_installed,
                });
                out.push(Effect::Announce(Announcement::Exited(
                    ExitCause::CouldNotStart { reason },
                )));
            }
            State::Stopping(_) => self.end_stop(out),
            State::Idle(_)
            | State::Waiting
            | State::Starting(_)
            | State::Online(_)
            | State::Backoff { .. }
            | State::Failed(_) => {}
        }
    }

    fn ready(&mut self, out: &mut Vec<Effect>) {
        if let State::Starting(run) = self.state {
            self.state = State::Online(run);
            out.push(Effect::Announce(Announcement::Online));
        }
    }

    fn exited(
        &mut self,
        policy: &Policy,
        cause: ExitCause,
        leftovers: bool,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        // Without treekill what is left is nobody's business.
        let leftovers = leftovers && policy.treekill;
        let run = match &mut self.state {
            State::Starting(run) | State::Online(run) => *run,
            State::Stopping(stopping) => {
                out.push(Effect::Announce(Announcement::Exited(cause.clone())));
                stopping.exited = Some(cause);
                let (leaving, step) = (stopping.leaving, stopping.step);
                let asked_only = step == 0 && policy.by_message;
                match stop::rung(&policy.ladder, 0) {
                    _ if !leftovers => self.finish_stop(policy, now, out),
                    Some(_) if leaving => self.left(policy, now, out),
                    // The message has reached its root alone.
                    Some(first) if asked_only => {
                        out.push(Effect::SignalTree(self.generation, first.signal));
                    }
                    Some(_) | None => {}
                }
                return;
            }
            State::Failed(FailReason::CannotBeKilled(stuck)) => {
                out.push(Effect::Announce(Announcement::Exited(cause.clone())));
                stuck.exited = Some(cause);
                if !leftovers {
                    self.end_stop(out);
                }
                return;
            }
            State::Idle(_)
            | State::Waiting
            | State::Spawning
            | State::Backoff { .. }
            | State::Failed(_) => return,
        };
        out.push(Effect::Announce(Announcement::Exited(cause.clone())));
        if leftovers {
            // Whoever is left of a crashed run would hold its port and its GPU against the next one.
            self.state = State::Stopping(Stopping {
                run: Some(run),
                step: 0,
                exited: Some(cause),
                asked: false,
                leaving: false,
            });
            self.take_rung(policy, 0, now, out);
        } else {
            self.after_exit(policy, &cause, run, now, out);
        }
    }

    fn tree_empty(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        match &self.state {
            State::Stopping(stopping) if stopping.exited.is_some() => {
                self.finish_stop(policy, now, out)
            }
            State::Failed(FailReason::CannotBeKilled(stuck)) if stuck.exited.is_some() => {
                self.end_stop(out)
            }
            State::Stopping(_)
            | State::Idle(_)
            | State::Waiting
            | State::Spawning
            | State::Starting(_)
            | State::Online(_) => {}
            State::Backoff { .. } | State::Failed(_) => {}
        }
    }

    /// The tree of a run being stopped is gone.
    fn finish_stop(&mut self, policy: &Policy, now: Millis, out: &mut Vec<Effect>) {
        let State::Stopping(stopping) = &self.state else {
            return;
        };
        match (stopping.asked, stopping.exited.clone(), stopping.run) {
            (false, Some(cause), Some(run)) => self.after_exit(policy, &cause, run, now, out),
            _ => self.end_stop(out),
        }
    }

    /// A stop that was asked for is complete; the latest wish decides what follows.
    fn end_stop(&mut self, out: &mut Vec<Effect>) {
        self.state = State::Idle(IdleReason::Asked);
        out.push(Effect::Announce(Announcement::Stopped));
        if self.wanted {
            self.launch(out);
        }
    }

    fn after_exit(
        &mut self,
        policy: &Policy,
        cause: &ExitCause,
        run: Run,
        now: Millis,
        out: &mut Vec<Effect>,
    ) {
        if !self.wanted {
            return self.end_stop(out);
        }
        let uptime = Millis(now.0.saturating_sub(run.since.0));
        match restart::decide(&policy.restart, &mut self.memory, cause, uptime, now) {
            Decision::Now => self.relaunch(out),
            Decision::After(delay) => self.back_off(delay, now, out),
            Decision::Done(reason) => {
                self.wanted = false;
                self.state = State::Idle(IdleReason::Ended(reason));
            }
            Decision::GiveUp(reason) => {
                self.wanted = false;
                self.state = State::Failed(FailReason::GaveUp(reason));
                out.push(Effect::Announce(Announcement::GaveUp));
            }
        }
    }

    fn timer(&mut self, policy: &Policy, kind: Timer, now: Millis, out: &mut Vec<Effect>) {
        match (kind, &self.state) {
            // As PM2: online anyway.
            (Timer::Ready, State::Starting(_)) => self.ready(out),
            (Timer::Rung(step), State::Stopping(stopping)) if stopping.step == step => {
                self.take_rung(policy, step + 1, now, out)
            }
            (Timer::Backoff, State::Backoff { .. }) => self.relaunch(out),
            (Timer::Leave, State::Stopping(_)) => self.left(policy, now, out),
            (Timer::Ready | Timer::Rung(_) | Timer::Backoff | Timer::Leave | Timer::Listen, _) => {}
        }
    }
}
