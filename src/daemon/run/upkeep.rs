//! Restarts that nobody asks for: a changed file, a cron pattern, too much memory (pm2 7.0.4, spec 4.7).

use super::Daemon;
use crate::core::cron::{self, Look};
use crate::core::ids::{Generation, PmId};
use crate::core::instance::Event;
use crate::core::units::Millis;
use crate::core::watch::{self, Burst};
use crate::daemon::command::CommandError;
use crate::daemon::timers::{Due, Ticket};
use crate::daemon::upkeep::CronWait;
use crate::daemon::world::World;
use crate::sys::localtime::LocalClock;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;

impl<W: World> Daemon<W> {
    /// Brings an instance's watch and cron in line with its configuration. To be called whenever that may have changed, and
    /// once for each instance of a table that was taken over.
    pub(super) fn attend(&mut self, id: PmId) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let spec = Arc::clone(&instance.spec);
        let was_watched = std::mem::replace(&mut instance.upkeep.watched, spec.watch.is_some());
        match (was_watched, spec.watch.is_some()) {
            (false, true) => tracing::info!(target: "pm2", "[Watch] Start watching {}", spec.name),
            (true, false) => {
                instance.upkeep.burst = None;
                tracing::info!(target: "pm2", "[Watch] Stop watching {}", spec.name);
            }
            (true, true) | (false, false) => {}
        }
        if was_watched || spec.watch.is_some() {
            self.world.watch(id, spec.watch.clone());
        }
        let known = instance.upkeep.cron.as_ref().map(|wait| &wait.schedule);
        if known == spec.cron.as_ref() {
            return;
        }
        if known.is_some() {
            tracing::info!(target: "pm2", "[PM2] Deregistering a cron job on: {id}");
        }
        instance.upkeep.cron = None;
        if spec.cron.is_some() {
            tracing::info!(target: "pm2", "[PM2][WORKER] Registering a cron job on: {id}");
            self.look_at_cron(id, None);
        }
    }

    /// Looks at the wall clock for an instance's cron pattern. `ticket`: of the timer that has run out.
    pub(super) fn look_at_cron(&mut self, id: PmId, ticket: Option<Ticket>) {
        let now = self.now();
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let Some(schedule) = instance.spec.cron.clone() else {
            return;
        };
        let wait = instance.upkeep.cron.as_ref();
        if wait.map(|wait| wait.ticket) != ticket {
            return;
        }
        let due = wait.and_then(|wait| wait.due);
        let look = cron::look(&schedule, due, now.wall_ms, &LocalClock::system().zone());
        let (fires, next, wait_ms) = match look {
            Look::Fire { next, wait_ms } => (true, next, wait_ms),
            Look::Wait { next, wait_ms } => (false, next, wait_ms),
        };
        let at = Millis(now.mono.0 + wait_ms);
        let ticket = self.timers.arm_with(at, |ticket| Due::Cron(id, ticket));
        let why = format!("restarted by its cron pattern `{}`", schedule.text());
        instance.upkeep.cron = Some(CronWait {
            schedule,
            due: next,
            ticket,
        });
        if fires {
            self.restart_for(id, why);
        }
    }

    /// A file has changed. The first of a burst is told; the restart comes when the burst is over.
    pub(super) fn changed(&mut self, id: PmId, path: String, at: Instant) {
        let since = at.saturating_duration_since(self.started).as_millis() as u64;
        let at = Millis(self.origin.0 + since);
        let Ok(instance) = self.startable(id) else {
            return;
        };
        let Some(spec) = instance.spec.watch.clone() else {
            return;
        };
        if !watch::matters(&instance.machine.state, instance.started, at) {
            return;
        }
        if let Some((burst, _)) = &mut instance.upkeep.burst {
            burst.goes_on(at);
            return;
        }
        tracing::info!(target: "pm2", "Change detected on path {path} for app {} - restarting", instance.spec.name);
        let burst = Burst::begin(path, at);
        let due = burst.due(spec.delay, spec.quiet);
        let ticket = self.timers.arm_with(due, |ticket| Due::Burst(id, ticket));
        if let Some(instance) = self.table.instances.get_mut(&id) {
            instance.upkeep.burst = Some((burst, ticket));
        }
    }

    /// The timer of a burst has run out: it is over, or it has gone on meanwhile.
    pub(super) fn burst_due(&mut self, id: PmId, ticket: Ticket) {
        let now = self.now();
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let upkeep = &mut instance.upkeep;
        let (Some(spec), Some((burst, _))) = (
            &instance.spec.watch,
            upkeep.burst.take_if(|(_, own)| *own == ticket),
        ) else {
            return;
        };
        let due = burst.due(spec.delay, spec.quiet);
        if due > now.mono {
            let ticket = self.timers.arm_with(due, |ticket| Due::Burst(id, ticket));
            upkeep.burst = Some((burst, ticket));
        } else if watch::matters(&instance.machine.state, instance.started, burst.last()) {
            let path = if burst.path.is_empty() {
                &spec.cwd
            } else {
                &burst.path
            };
            let why = format!("restarted: {path} has changed");
            self.restart_for(id, why);
        }
    }

    /// A run holds more than its limit. Figures of a past run, or of a limit that was lifted, change nothing.
    pub(super) fn over_memory(&mut self, id: PmId, generation: Generation, used: u64) {
        let Ok(instance) = self.startable(id) else {
            return;
        };
        let Some(limit) = instance.spec.max_memory.filter(|limit| used > limit.0) else {
            return;
        };
        let machine = &instance.machine;
        if machine.generation != generation || !machine.is_up() {
            return;
        }
        tracing::info!(
            target: "pm2",
            "[PM2][WORKER] Process {id} restarted because it exceeds --max-memory-restart value (current_memory={used} max_memory_limit={} [octets])",
            limit.0
        );
        let why = format!(
            "restarted: memory {} over its limit of {}",
            megabytes(used),
            megabytes(limit.0)
        );
        self.restart_for(id, why);
    }

    /// PM2's `stopWatch`, `startWatch` and, for `None`, `toggleWatch`: the flag in the configuration, which clients show.
    pub(super) fn switch_watch(&mut self, id: PmId, on: Option<bool>) -> Result<(), CommandError> {
        let instance = self.known(id)?;
        let is_on = instance.spec.watch.is_some();
        let on = on.unwrap_or(!is_on);
        if on == is_on {
            return Ok(());
        }
        let mut map = instance.conf.to_map();
        map.insert("watch".to_owned(), Value::Bool(on));
        self.configure(id, &map)
    }

    /// As `restart` does, for a reason of our own. Neither what is switched off nor what is being deleted is started.
    fn restart_for(&mut self, id: PmId, why: String) {
        if self.ending {
            return;
        }
        match self.startable(id) {
            Ok(instance) if instance.spec.fornax.enabled => {
                tracing::info!(
                    app = &*instance.spec.name,
                    instance = id.0,
                    why,
                    "restarting"
                );
                // One that is being ended already keeps the reason it has.
                if instance.machine.is_up() {
                    instance.upkeep.why = Some(why);
                }
            }
            Ok(_) | Err(_) => return,
        }
        let Ok(deps_met) = self.dependencies_met(id) else {
            return;
        };
        self.forgive(id);
        self.step(id, Event::Restart { deps_met });
    }
}

/// `512 MB`, `1.5 MB`.
fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} MB"),
        (whole, tenth) => format!("{whole}.{tenth} MB"),
    }
}
