//! A cluster worker that is taken away while others of its app stay: it fails no request.

use super::Daemon;
use crate::core::ids::PmId;
use crate::core::instance::{Event, State};
use crate::daemon::table::Instance;
use crate::daemon::world::World;

impl<W: World> Daemon<W> {
    /// Ends the run of an instance that is to be forgotten. A worker closes its servers first, if others serve on; if they are
    /// still on their way, it serves until one of them listens. What goes with all of its app need not wait.
    pub(super) fn leave(&mut self, id: PmId) {
        let Some(instance) = self.table.instances.get(&id) else {
            return;
        };
        let stay: Vec<&Instance> = self
            .table
            .of_app(&instance.spec.name)
            .filter(|other| !self.ending && other.id != id && !other.deleting)
            .collect();
        let serves = |other: &&Instance| matches!(other.machine.state, State::Online(_));
        let coming = |other: &&Instance| {
            serves(other) || matches!(other.machine.state, State::Spawning | State::Starting(_))
        };
        let is_worker = instance.spec.workers.is_some();
        // What it says of a run that has ended counts no more.
        let listens = |one: &Instance| one.listens && serves(&one);
        let only_one = listens(instance) && !stay.iter().copied().any(listens);
        if is_worker && only_one && stay.iter().any(coming) {
            if let Some(instance) = self.table.instances.get_mut(&id) {
                tracing::info!(target: "pm2", "App name:{} id:{id} leaves once another one listens", instance.spec.name);
                instance.leaves_later = true;
                // Should it end before that, it is not started again.
                instance.machine.wanted = false;
            }
            return self.await_listening(id);
        }
        let gracefully = is_worker && stay.iter().any(serves);
        self.step(
            id,
            if gracefully {
                Event::Retire
            } else {
                Event::Stop
            },
        );
    }

    /// This worker of the app listens: whoever has waited for one leaves.
    pub(super) fn another_listens(&mut self, id: PmId, app: &str) {
        let waits = |instance: &&Instance| instance.leaves_later && instance.id != id;
        let waiting: Vec<PmId> = self
            .table
            .of_app(app)
            .filter(waits)
            .map(|instance| instance.id)
            .collect();
        for id in waiting {
            self.leave_now(id);
        }
    }

    /// It has waited for long enough.
    pub(super) fn leave_now(&mut self, id: PmId) {
        if let Some(instance) = self.table.instances.get_mut(&id)
            && std::mem::take(&mut instance.leaves_later)
        {
            self.step(id, Event::Retire);
        }
    }
}
