//! What the bus and the log hear of an instance's life, in PM2's order and words (spec 3.7).

use super::Daemon;
use crate::core::exit::ExitCause;
use crate::core::ids::PmId;
use crate::core::instance::{Announcement, FailReason, IdleReason, Machine, State};
use crate::core::status::Status;
use crate::daemon::snapshot::InstanceView;
use crate::daemon::wire;
use crate::daemon::world::World;
use std::sync::Arc;

impl<W: World> Daemon<W> {
    pub(super) fn announce(&mut self, id: PmId, announcement: &Announcement) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        let app = Arc::clone(&instance.spec.name);
        let mut started = false;
        let event = match announcement {
            Announcement::Online => {
                tracing::info!(target: "pm2", "App [{app}:{id}] online");
                started = std::mem::take(&mut instance.start_untold);
                "online"
            }
            Announcement::Exited(cause) => {
                let signal = cause.pm2_signal();
                tracing::info!(target: "pm2", "App [{app}:{id}] exited with code [{}] via signal [{signal}]", cause.pm2_code());
                if !matches!(cause, ExitCause::CouldNotStart { .. }) {
                    instance.exit_code = Some(cause.pm2_code());
                }
                // That it is given up is told first.
                if matches!(instance.machine.state, State::Failed(FailReason::GaveUp(_))) {
                    return;
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
        let status = told(announcement, &instance.machine);
        self.publish_as(id, event, false, status);
        if started {
            self.publish(id, "start", true);
        }
        if matches!(announcement, Announcement::GaveUp) {
            self.publish(id, "exit", false);
        }
    }

    pub(super) fn publish(&self, id: PmId, event: &str, manually: bool) {
        self.publish_as(id, event, manually, None);
    }

    fn publish_as(&self, id: PmId, event: &str, manually: bool, status: Option<Status>) {
        let at = self.now().wall_ms;
        self.bus.publish("process:event", || {
            let view = self.table.view(id);
            view.map_or_else(String::new, |view| {
                let status = status.unwrap_or(view.status);
                let view = InstanceView { status, ..view };
                wire::process_event(&view, event, manually, at)
            })
        });
    }
}

/// The status that an event's payload carries: PM2 tells some before it has changed it, and the machine is further by then.
/// `None`: as it is.
fn told(announcement: &Announcement, machine: &Machine) -> Option<Status> {
    match (announcement, &machine.state) {
        (Announcement::Online, _) => Some(Status::Launching),
        (Announcement::Stopped, _) => Some(Status::Stopped),
        (Announcement::Exited(_), State::Failed(FailReason::CouldNotStart { .. })) => None,
        (Announcement::Exited(_), State::Stopping(stopping)) if !stopping.asked => {
            Some(Status::Stopped)
        }
        // Nobody asked for that: the policy starts it again, now or later, or lets it rest.
        (Announcement::Exited(_), State::Backoff { .. }) => Some(Status::Stopped),
        (Announcement::Exited(_), State::Spawning) if machine.automatic => Some(Status::Stopped),
        (Announcement::Exited(_), State::Idle(IdleReason::Ended(_))) => Some(Status::Stopped),
        (Announcement::Exited(_), _) => Some(Status::Stopping),
        (Announcement::GaveUp | Announcement::WillRestart(_), _) => None,
    }
}
