//! After a batch of inputs: service states, dependants, the views for everybody else, and answers.

use super::{Daemon, Until, Waiter};
use crate::core::ids::PmId;
use crate::core::instance::{Event, FailReason, State};
use crate::daemon::command::{Answer, CommandError};
use crate::daemon::snapshot::{InstanceView, Snapshot};
use crate::daemon::table::Instance;
use crate::daemon::world::World;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::oneshot;

impl<W: World> Daemon<W> {
    /// After a batch of inputs: service states, dependants, answers, and the views for everybody else.
    pub(super) fn settle(&mut self) {
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
        let dependants = self.dependants_of(&changed);
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
        self.remember(changed.iter().copied());
        self.reap_ended();
        // Views first: whoever has an answer sees in the next list what it told.
        self.publish_views(&changed);
        for (reply, answer) in answers {
            // Whoever asked may have gone.
            drop(reply.send(answer));
        }
    }

    /// Who depends on one of these.
    fn dependants_of(&self, changed: &BTreeSet<PmId>) -> Vec<PmId> {
        let changed: BTreeSet<&str> = changed
            .iter()
            .filter_map(|id| self.table.instances.get(id))
            .map(|instance| &*instance.spec.name)
            .collect();
        let concerned = |instance: &&Instance| {
            let depends_on = &instance.spec.fornax.depends_on;
            depends_on
                .iter()
                .any(|(name, _)| changed.contains(name.as_str()))
                || (!depends_on.is_empty() && changed.contains(&*instance.spec.name))
        };
        let all = self.table.instances.values().filter(concerned);
        all.map(|instance| instance.id).collect()
    }

    fn release_if_down(&mut self, id: PmId) {
        let down =
            self.table.instances.get(&id).is_some_and(|instance| {
                instance.machine.stop_settled() && instance.reload.is_none()
            });
        if down {
            self.world.release(id);
        }
    }

    fn answers(&mut self, changed: &mut BTreeSet<PmId>) -> Vec<(oneshot::Sender<Answer>, Answer)> {
        let mut answers = Vec::new();
        for mut waiter in std::mem::take(&mut self.waiters) {
            let until = waiter.until;
            let done = if until == Some(Until::Up) {
                waiter.open.retain(|id| !self.settled(*id, until));
                waiter.open.is_empty()
            } else {
                waiter.ids.iter().all(|id| self.settled(*id, until))
            };
            if done {
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
            // Down, deleted or reloaded is only what has one run at most.
            (Some(instance), Some(Until::Down | Until::Deleted | Until::Reloaded))
                if instance.reload.is_some() =>
            {
                false
            }
            (Some(instance), Some(Until::Reloaded)) => instance.machine.start_settled(),
            (Some(instance), Some(Until::Up)) => instance.machine.start_settled(),
            (Some(instance), Some(Until::Deleted)) => instance.machine.stop_settled(),
            // A start that came after the stop has won: whoever asked for the stop is told how it is then.
            (Some(instance), Some(Until::Down)) => {
                let ending = matches!(instance.machine.state, State::Stopping(_));
                instance.machine.stop_settled() || (instance.machine.wanted && !ending)
            }
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
        let not_reloaded = waiter.ids.iter().find_map(|id| {
            let cause = self.table.instances.get_mut(id)?.reload_failed.take()?;
            Some(CommandError::NotReloaded { id: *id, cause })
        });
        let answer = match (waiter.until, failed) {
            (Some(Until::Reloaded), _) if not_reloaded.is_some() => {
                not_reloaded.map_or(Ok(views), Err)
            }
            (Some(Until::Up), Some(reason)) => Err(CommandError::CouldNotStart(reason)),
            _ => Ok(views),
        };
        if waiter.until == Some(Until::Deleted) {
            let gone = waiter.ids.iter().copied().collect();
            changed.extend(self.dependants_of(&gone));
            for id in waiter.ids {
                self.world.stop_probe(id);
                self.world.release(id);
                self.world.watch(id, None);
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
