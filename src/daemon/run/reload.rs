//! Reloading a cluster worker: its successor first, and once that listens it leaves, with what it has begun finished.

use super::{Daemon, Until};
use crate::adapters::cluster::ClusterFact;
use crate::adapters::event::RunEventKind;
use crate::core::exit::ExitCause;
use crate::core::ids::{Generation, PmId};
use crate::core::instance::{Announcement, Event, IdleReason, Machine, State, Timer};
use crate::core::status::Status;
use crate::core::units::Millis;
use crate::daemon::command::{Command, CommandError};
use crate::daemon::messages;
use crate::daemon::reload::{Phase, Reload};
use crate::daemon::snapshot::InstanceView;
use crate::daemon::timers::TimerKey;
use crate::daemon::wire;
use crate::daemon::world::World;
use serde_json::{Map, Value};
use std::sync::Arc;

impl<W: World> Daemon<W> {
    /// What is no worker, or not online, is restarted (pm2 7.0.4, spec 4.6).
    pub(super) fn reload(
        &mut self,
        id: PmId,
        env: Map<String, Value>,
        by_message: bool,
    ) -> Result<(Vec<PmId>, Option<Until>), CommandError> {
        if self.ending {
            return Err(CommandError::Ending);
        }
        let instance = self.startable(id)?;
        if instance.reload.is_some() {
            return Err(CommandError::ReloadUnderWay(id));
        }
        let serves = matches!(instance.machine.state, State::Online(_));
        if instance.spec.workers.is_none() || !serves {
            return self.begin(Command::Restart { id, env });
        }
        let mut reload = Reload::of(instance);
        Arc::make_mut(&mut reload.spec).policy.by_message |= by_message;
        self.reconfigure(id, env)?;
        let now = self.now();
        // A range of its own: should the predecessor be taken back, no later run of it meets this one's late events. Its place
        // in the range goes on.
        let range = self.table.take_generations();
        let generation = Generation(range.0 + u64::from(reload.other.generation.number()));
        let instance = self.known(id)?;
        let mut successor = Machine::new(IdleReason::NotStarted, generation, now.mono);
        successor.memory.restarts = reload.other.memory.restarts + 1;
        instance.machine = successor;
        instance.created_at_ms = Some(now.wall_ms);
        instance.axm = Arc::default();
        instance.reload_failed = None;
        instance.reload = Some(Box::new(reload));
        self.step(id, Event::Start { deps_met: true });
        self.await_listening(id);
        Ok((vec![id], Some(Until::Reloaded)))
    }

    pub(super) fn await_listening(&mut self, id: PmId) {
        let now = self.now();
        if let Some(instance) = self.table.instances.get(&id) {
            let key = TimerKey {
                id,
                generation: instance.machine.generation,
                kind: Timer::Listen,
            };
            let wait = instance.spec.policy.listen_timeout;
            self.timers.arm(Millis(now.mono.0 + wait.0), key);
        }
    }

    /// A timer that has run out, of whichever run.
    pub(super) fn timer(&mut self, id: PmId, generation: Generation, kind: Timer) {
        let event = Event::Timer { generation, kind };
        if self.is_other(id, generation) {
            self.step_other(id, event);
        } else if kind == Timer::Listen {
            self.listen_timeout(id, generation);
        } else {
            self.step(id, event);
        }
    }

    /// It had so long to listen: as PM2, it counts as listening, once it runs.
    fn listen_timeout(&mut self, id: PmId, generation: Generation) {
        let Some(instance) = self.table.instances.get(&id) else {
            return;
        };
        if instance.leaves_later && instance.machine.generation == generation {
            return self.leave_now(id);
        }
        let machine = &instance.machine;
        if machine.generation != generation || !self.waits_for_successor(id) {
            self.stale_events += 1;
        } else if machine.run().is_some() {
            self.succeeded(id);
        } else {
            self.await_listening(id);
        }
    }

    fn waits_for_successor(&self, id: PmId) -> bool {
        self.table
            .instances
            .get(&id)
            .and_then(|instance| instance.reload.as_ref())
            .is_some_and(|reload| reload.phase == Phase::Waiting)
    }

    /// Whether the generation is that of the instance's other run.
    pub(super) fn is_other(&self, id: PmId, generation: Generation) -> bool {
        self.table
            .instances
            .get(&id)
            .and_then(|instance| instance.reload.as_ref())
            .is_some_and(|reload| reload.other.generation == generation)
    }

    /// The successor listens: the predecessor leaves.
    fn succeeded(&mut self, id: PmId) {
        if self.waits_for_successor(id) {
            tracing::info!(target: "pm2", "-reload- New worker listening");
            self.end_other(id, Event::Retire);
        }
    }

    /// Whichever run is not the instance's own is to end.
    pub(super) fn end_other(&mut self, id: PmId, how: Event) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let name = Arc::clone(&instance.spec.name);
        if let Some(reload) = &mut instance.reload {
            reload.phase = Phase::Ending;
            tracing::info!(target: "pm2", "Stopping app:{name} id:_old_{id}");
            self.step_other(id, how);
        }
    }

    /// The instance's own run could not be: the event that says so, through the machine.
    pub(super) fn not_started(&mut self, id: PmId, event: Event) {
        if let Event::SpawnFailed { reason, .. } | Event::Starved { reason, .. } = &event {
            let reason = reason.clone();
            self.ended(id, event, &ExitCause::CouldNotStart { reason });
        }
    }

    /// The instance's own run is over: the event that says so, through the machine.
    pub(super) fn ended(&mut self, id: PmId, event: Event, cause: &ExitCause) {
        self.before_end(id);
        self.step(id, event);
        self.after_end(id, cause);
    }

    /// A successor that is about to end before it listened is not started again. Before the machine hears of it.
    fn before_end(&mut self, id: PmId) {
        if self.waits_for_successor(id)
            && let Some(instance) = self.table.instances.get_mut(&id)
            && instance
                .reload
                .as_ref()
                .is_some_and(|reload| matches!(reload.other.state, State::Online(_)))
        {
            instance.machine.wanted = false;
        }
    }

    /// The machine has heard how the successor ended: if it was not to, the predecessor serves on in its place.
    fn after_end(&mut self, id: PmId, cause: &ExitCause) {
        if !self.waits_for_successor(id) {
            return;
        }
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let Some(mut reload) = instance
            .reload
            .take()
            .filter(|reload| matches!(reload.other.state, State::Online(_)))
        else {
            return;
        };
        tracing::error!(app = &*instance.spec.name, instance = id.0, %cause, "the new worker ended before it listened; the old one serves on");
        instance.reload_failed = Some(cause.to_string());
        reload.take_back(instance);
        instance.reload = Some(reload);
        self.step_other(id, Event::Stop);
    }

    /// One event through the other run's machine.
    pub(super) fn step_other(&mut self, id: PmId, event: Event) {
        let now = self.now();
        let Some(reload) = self
            .table
            .instances
            .get_mut(&id)
            .and_then(|instance| instance.reload.as_mut())
        else {
            return;
        };
        let policy = reload.spec.policy.clone();
        let Some(effects) = reload.other.step(&policy, event, now.mono) else {
            self.stale_events += 1;
            return;
        };
        self.dirty.insert(id);
        for effect in effects {
            self.carry_out(id, effect, true);
        }
        let over = self.table.instances.get_mut(&id).is_some_and(|instance| {
            instance
                .reload
                .as_ref()
                .is_some_and(|reload| reload.phase == Phase::Ending && reload.other.stop_settled())
        });
        if over && let Some(instance) = self.table.instances.get_mut(&id) {
            instance.reload = None;
        }
    }

    /// What an adapter tells of the other run.
    pub(super) fn other_event(&mut self, id: PmId, generation: Generation, kind: RunEventKind) {
        match kind {
            RunEventKind::Spawned { pid, facts } => {
                if let Some(reload) = self
                    .table
                    .instances
                    .get_mut(&id)
                    .and_then(|instance| instance.reload.as_mut())
                {
                    reload.facts = Some(facts);
                }
                self.step_other(id, Event::Spawned { generation, pid })
            }
            RunEventKind::Starved { reason } => {
                self.step_other(id, Event::Starved { generation, reason })
            }
            RunEventKind::SpawnFailed {
                reason,
                not_installed,
            } => self.step_other(
                id,
                Event::SpawnFailed {
                    generation,
                    reason,
                    not_installed,
                },
            ),
            RunEventKind::Exited {
                cause, leftovers, ..
            } => {
                let other = self.table.instances.get(&id);
                let other = other.and_then(|instance| instance.reload.as_ref());
                let root = other.and_then(|reload| reload.other.run());
                self.written.ended.extend(root.map(|run| run.pid));
                self.step_other(
                    id,
                    Event::Exited {
                        generation,
                        cause,
                        leftovers,
                    },
                );
            }
            RunEventKind::TreeEmpty => self.step_other(id, Event::TreeEmpty { generation }),
            RunEventKind::Cluster(ClusterFact::Disconnected) => {
                self.step_other(id, Event::Disconnected { generation })
            }
            RunEventKind::Message(message) => {
                // What the agent in it tells is not the instance's any more.
                let agent = message.get("type").and_then(Value::as_str);
                if !agent.is_some_and(|kind| kind.starts_with("axm:")) {
                    let at = self.now().wall_ms;
                    if let Some(instance) = self.table.instances.get_mut(&id) {
                        messages::take(instance, &self.bus, message, at);
                    }
                }
            }
            RunEventKind::Cluster(_) | RunEventKind::Probe { .. } => {}
        }
    }

    /// What a worker tells of itself.
    pub(super) fn cluster_fact(&mut self, id: PmId, generation: Generation, fact: ClusterFact) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let wait_ready = instance.spec.policy.wait_ready;
        instance.listens = match fact {
            ClusterFact::Online => instance.listens,
            ClusterFact::Listening => true,
            ClusterFact::Disconnected => false,
        };
        let name = Arc::clone(&instance.spec.name);
        match fact {
            ClusterFact::Online if !wait_ready => self.step(id, Event::Ready { generation }),
            ClusterFact::Online => {}
            ClusterFact::Listening => {
                if !wait_ready {
                    self.succeeded(id);
                }
                self.another_listens(id, &name);
            }
            ClusterFact::Disconnected => {
                tracing::info!(target: "pm2", "App name:{name} id:{id} disconnected");
                self.step(id, Event::Disconnected { generation });
            }
        }
    }

    /// PM2's `"ready"`.
    pub(super) fn told_ready(&mut self, id: PmId, generation: Generation) {
        self.step(id, Event::Ready { generation });
        let waited = self
            .table
            .instances
            .get(&id)
            .is_some_and(|instance| instance.spec.policy.wait_ready);
        if waited {
            self.succeeded(id);
        }
    }

    /// Tells of the other run, under the id that PM2 gives it.
    pub(super) fn announce_other(&self, id: PmId, announcement: &Announcement) {
        let Some(instance) = self.table.instances.get(&id) else {
            return;
        };
        // PM2 tells the end of the process before that of the stop.
        let status = match announcement {
            Announcement::Exited(cause) => {
                tracing::info!(target: "pm2", "App [{}:_old_{id}] exited with code [{}] via signal [{}]", instance.spec.name, cause.pm2_code(), cause.pm2_signal());
                Status::Stopping
            }
            Announcement::Stopped => Status::Stopped,
            Announcement::Online | Announcement::GaveUp | Announcement::WillRestart(_) => return,
        };
        let at = self.now().wall_ms;
        self.bus.publish("process:event", || {
            let view = self.table.other_view(id);
            view.map_or_else(String::new, |view| {
                let view = InstanceView { status, ..view };
                wire::process_event(&view, "exit", false, at)
            })
        });
    }
}
