//! Going on where another daemon ended: its table, its runs, its timers.

use super::{Daemon, Until, Waiter};
use crate::adapters::adopt::AdoptPlan;
use crate::adapters::facts::RunFacts;
use crate::adapters::runner::Told;
use crate::core::ids::{Generation, PmId};
use crate::core::instance::{Event, FailReason, Run, State, Stopping};
use crate::core::spec::app::AppSpec;
use crate::core::units::Millis;
use crate::daemon::launch;
use crate::daemon::reload::Phase;
use crate::daemon::table::Table;
use crate::daemon::timers::TimerKey;
use crate::daemon::world::World;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What another daemon has left.
#[derive(Debug)]
pub struct Legacy {
    /// Its table.
    pub table: Table,
    /// When its clock stood at 0, on the machine's monotonic clock, in milliseconds.
    pub epoch_ms: u64,
    /// What its clock would show now.
    pub mono: Millis,
    /// Root processes of runs, as they are found among the processes.
    pub found: HashMap<(PmId, Generation), u32>,
}

impl<W: World> Daemon<W> {
    /// In which life this is; see [`DaemonInfo::life`](crate::daemon::handle::DaemonInfo::life).
    pub fn of_life(mut self, life: u64) -> Self {
        self.life = life;
        self
    }

    /// Begins with an empty table, for a successor to find.
    pub fn begin_anew(&mut self) {
        self.remember_all();
    }

    /// Takes the table over and serves every run in it. Before [`Daemon::run`].
    pub fn resume(&mut self, legacy: Legacy) {
        self.table = legacy.table;
        (self.epoch_ms, self.origin) = (legacy.epoch_ms, legacy.mono);
        let ids: Vec<PmId> = self.table.instances.keys().copied().collect();
        for id in &ids {
            self.resume_instance(*id, &legacy.found);
            self.resume_other(*id, &legacy.found);
            self.resume_deletion(*id);
            self.attend(*id);
        }
        for (id, generation) in self.world.left() {
            let instance = self.table.instances.get(&id);
            let own = instance.map(|instance| (&instance.spec, &instance.facts));
            let plan = own.map(|own| self.adopt_plan(id, generation, own, 0, Told::Ended));
            plan.into_iter().for_each(|plan| self.world.drain(plan));
        }
        self.world.adoption_done();
        self.dirty.extend(ids);
        self.remember_all();
        self.settle();
    }

    fn resume_instance(&mut self, id: PmId, found: &HashMap<(PmId, Generation), u32>) {
        let now = self.now();
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let generation = instance.machine.generation;
        let policy = instance.spec.policy.clone();
        for (kind, at) in instance.machine.timers(&policy, now.mono) {
            self.timers.arm(
                at,
                TimerKey {
                    id,
                    generation,
                    kind,
                },
            );
        }
        let newborn = found.get(&(id, generation)).copied();
        match instance.machine.state.clone() {
            State::Starting(run) | State::Online(run) => {
                self.adopt(id, run, Told::Begun);
                self.probe_again(id);
            }
            State::Stopping(stopping) | State::Failed(FailReason::CannotBeKilled(stopping)) => {
                self.resume_stop(id, &stopping, newborn);
            }
            State::Spawning => match newborn {
                Some(pid) => self.adopt(id, run_of(pid, now.mono), Told::Nothing),
                // It may have lived and died unseen: its successor is a run of its own.
                None => {
                    instance.machine.generation = generation.next();
                    if self.may_spawn_now(id, generation.next(), now)
                        && let Some(outcome) = self.spawn(id, now)
                    {
                        self.tell_spawn(id, outcome, now);
                    }
                }
            },
            State::Idle(_) | State::Waiting | State::Backoff { .. } | State::Failed(_) => {}
        }
    }

    fn resume_stop(&mut self, id: PmId, stopping: &Stopping, newborn: Option<u32>) {
        let now = self.now().mono;
        match (stopping.run, &stopping.exited, newborn) {
            (Some(run), None, _) => self.adopt(id, run, Told::Begun),
            (Some(run), Some(_), _) => self.adopt(id, run, Told::Ended),
            (None, _, Some(pid)) => self.adopt(id, run_of(pid, now), Told::Nothing),
            (None, _, None) => {
                let Some(instance) = self.table.instances.get(&id) else {
                    return;
                };
                let generation = instance.machine.generation;
                let reason = "its daemon ended while it was being started".to_owned();
                self.step(
                    id,
                    Event::SpawnFailed {
                        generation,
                        reason,
                        not_installed: false,
                    },
                );
            }
        }
    }

    /// The other run of an instance whose worker is being replaced.
    fn resume_other(&mut self, id: PmId, found: &HashMap<(PmId, Generation), u32>) {
        let now = self.now().mono;
        let Some(reload) = self
            .table
            .instances
            .get(&id)
            .and_then(|instance| instance.reload.as_ref())
        else {
            return;
        };
        let (machine, waits) = (reload.other.clone(), reload.phase == Phase::Waiting);
        let generation = machine.generation;
        for (kind, at) in machine.timers(&reload.spec.policy, now) {
            let key = TimerKey {
                id,
                generation,
                kind,
            };
            self.timers.arm(at, key);
        }
        let newborn = found.get(&(id, generation)).map(|pid| run_of(*pid, now));
        let adopted = match &machine.state {
            State::Starting(run) | State::Online(run) => Some((*run, Told::Begun)),
            State::Stopping(stopping) | State::Failed(FailReason::CannotBeKilled(stopping)) => {
                let told = match stopping.exited {
                    Some(_) => Told::Ended,
                    None => Told::Begun,
                };
                let known = stopping.run.map(|run| (run, told));
                known.or(newborn.map(|run| (run, Told::Nothing)))
            }
            State::Spawning => newborn.map(|run| (run, Told::Nothing)),
            State::Idle(_) | State::Waiting | State::Backoff { .. } | State::Failed(_) => None,
        };
        match adopted {
            Some((run, told)) => {
                let own = (&reload.spec, &reload.facts);
                let plan = self.adopt_plan(id, generation, own, run.pid, told);
                tracing::info!(
                    app = &*plan.name,
                    instance = id.0,
                    pid = run.pid,
                    ?told,
                    "adopted, beside its successor"
                );
                self.world.adopt(plan, None);
            }
            // Its spawn was never answered, and there is no process.
            None => {
                let reason = "its daemon ended while it was being started".to_owned();
                let event = Event::SpawnFailed {
                    generation,
                    reason,
                    not_installed: false,
                };
                self.step_other(id, event);
            }
        }
        if waits {
            self.await_listening(id);
        }
    }

    /// Whoever asked for it has lost its connection; the deletion goes on.
    fn resume_deletion(&mut self, id: PmId) {
        let Some(instance) = self.table.instances.get(&id).filter(|found| found.deleting) else {
            return;
        };
        if instance.machine.is_up() {
            // It was to leave later.
            self.step(id, Event::Retire);
        }
        let (ids, until, reply) = (vec![id], Some(Until::Deleted), oneshot::channel().0);
        self.waiters.push(Waiter::new(ids, until, reply));
    }

    fn adopt(&mut self, id: PmId, run: Run, told: Told) {
        let Some(instance) = self.table.instances.get(&id) else {
            return;
        };
        let (gpu, generation) = (
            instance.spec.fornax.gpu.clone(),
            instance.machine.generation,
        );
        let own = (&instance.spec, &instance.facts);
        let plan = self.adopt_plan(id, generation, own, run.pid, told);
        tracing::info!(
            app = &*plan.name,
            instance = id.0,
            pid = run.pid,
            ?told,
            "adopted"
        );
        self.world.adopt(plan, gpu);
    }

    fn adopt_plan(
        &self,
        id: PmId,
        generation: Generation,
        (spec, facts): (&Arc<AppSpec>, &Option<RunFacts>),
        pid: u32,
        told: Told,
    ) -> AdoptPlan {
        let rotation = self.settings.borrow().rotation;
        let logs = launch::log_config(&spec.logs, spec.fornax.logs.unwrap_or(rotation));
        AdoptPlan {
            id,
            generation,
            pid,
            facts: facts.clone().unwrap_or_default(),
            told,
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            pid_path: spec.pid_path.clone(),
            logs: logs.into(),
            cluster: spec.workers,
        }
    }

    fn probe_again(&mut self, id: PmId) {
        let Some(instance) = self.table.instances.get(&id) else {
            return;
        };
        if let Some(mut plan) = launch::probe_plan(instance, instance.machine.generation) {
            plan.before = instance.probe.clone();
            self.world.probe(plan);
        }
    }
}

fn run_of(pid: u32, since: Millis) -> Run {
    Run { pid, since }
}
