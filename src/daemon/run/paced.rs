//! Automatic restarts at a bounded pace, so that apps that all crash at once leave room for everything else.

use super::Daemon;
use crate::core::ids::{Generation, PmId};
use crate::core::instance::{Event, State};
use crate::core::units::Millis;
use crate::daemon::table::Now;
use crate::daemon::world::World;

impl<W: World> Daemon<W> {
    /// What a person asks for never waits. A restart that must is spawned by [`Self::release_held`].
    pub(super) fn may_spawn_now(&mut self, id: PmId, generation: Generation, now: Now) -> bool {
        let automatic = self
            .table
            .instances
            .get(&id)
            .is_some_and(|instance| instance.machine.automatic);
        !automatic || self.pace.admit(id, generation, now.mono)
    }

    /// Spawns the restarts whose turn has come.
    pub(super) fn release_held(&mut self) {
        let now = self.now();
        while let Some(held) = self.pace.release(now.mono) {
            let Some(instance) = self.table.instances.get_mut(&held.id) else {
                continue;
            };
            let machine = &mut instance.machine;
            if machine.generation != held.generation || machine.state != State::Spawning {
                continue;
            }
            // PM2 counts crashes from the first on, for so long: time that we made it wait is not the app's.
            if let Some(since) = &mut machine.memory.counting_since {
                *since = Millis(since.0 + now.mono.0.saturating_sub(held.since.0));
            }
            self.dirty.insert(held.id);
            if let Some(outcome) = self.spawn(held.id, now) {
                self.tell_spawn(held.id, outcome, now);
            }
        }
    }

    /// A restart that waits and is not wanted any more is over: nothing else would answer for it.
    pub(super) fn drop_held_if_stopped(&mut self, id: PmId) {
        let stopping = self
            .table
            .instances
            .get(&id)
            .is_some_and(|instance| matches!(instance.machine.state, State::Stopping(_)));
        if stopping && let Some(held) = self.pace.forget(id) {
            let event = Event::SpawnFailed {
                generation: held.generation,
                reason: "stopped before its turn to restart came".to_owned(),
                not_installed: false,
            };
            self.step(id, event);
        }
    }
}
