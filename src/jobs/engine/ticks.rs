//! The tick: limits that have passed, and prompts that have been silent.

use super::super::settings::{LET_GO, LOOK_AFTER};
use super::Engine;
use crate::core::ids::PmId;
use crate::core::job::{AttemptEnd, JobEvent, JobState, Next};
use crate::daemon::command::Command;
use serde_json::Map;
use std::time::Duration;

/// How often an instance is asked whether it has let go.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What is due of one job.
enum Due {
    Expired,
    Look(String),
    Fetch,
    GiveUp(AttemptEnd),
    /// It does not let go.
    Held(AttemptEnd, u32),
}

impl Engine {
    pub(super) fn tick(&mut self) {
        self.bury();
        let due: Vec<(String, Due)> = self
            .live
            .iter()
            .filter_map(|(id, live)| Some((id.clone(), due(live)?)))
            .collect();
        for (id, due) in due {
            match due {
                Due::Expired => self.expired(&id),
                Due::Look(prompt_id) => self.look(&prompt_id),
                Due::Fetch => self.fetch(&id),
                Due::GiveUp(end) => {
                    tracing::warn!(job = id, ?end, "an attempt is given up");
                    self.take_back(&id, end);
                }
                Due::Held(end, pm_id) => self.held(&id, end, PmId(pm_id)),
            }
        }
        let asked: Vec<PmId> = self
            .machines
            .values()
            .filter(|machine| machine.open && !machine.prompts.is_empty())
            .map(|machine| machine.id)
            .collect();
        for id in asked {
            self.ask_stats(id);
        }
    }

    fn expired(&mut self, id: &str) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        live.record.error = Some("no instance was free for it within its limit".to_owned());
        if live.record.job.step(JobEvent::Expired) == Next::Settle {
            self.line.remove(|queued| queued == id);
            self.settle(id);
        }
    }

    /// An instance that does not let go of a stalled prompt hangs: it is restarted. Whatever else it holds on to, the job's
    /// attempt is over.
    fn held(&mut self, id: &str, end: AttemptEnd, instance: PmId) {
        if end == AttemptEnd::Stalled {
            let daemon = self.daemon.clone();
            self.tasks.spawn(async move {
                tracing::warn!(
                    instance = instance.0,
                    "an instance does not let go of a stalled job; restarting it"
                );
                let restart = Command::Restart {
                    id: instance,
                    env: Map::new(),
                };
                if let Err(error) = daemon.call(restart).await {
                    tracing::warn!(%error, "it could not be restarted");
                }
            });
        }
        let words = match end {
            AttemptEnd::Stalled => "made no progress, and its instance did not let go of it",
            AttemptEnd::TimedOut => "took too long, and its instance did not let go of it",
            _ => "its instance did not let go of it",
        };
        self.end_attempt(id, end, words.to_owned());
    }
}

fn due(live: &super::Live) -> Option<Due> {
    if live.settling || live.inserting.is_some() {
        return None;
    }
    let limits = live.record.limits();
    let attempt = live.attempt();
    match (live.record.state(), attempt) {
        (JobState::Queued, _) => {
            let limit = limits.queue?.duration();
            (live.since.elapsed() >= limit).then_some(Due::Expired)
        }
        (JobState::Fetching, Some(_)) => {
            (!live.looking && live.heard.elapsed() >= LOOK_AFTER).then_some(Due::Fetch)
        }
        (JobState::Placed | JobState::Running, Some(attempt)) => {
            if let Some((end, since)) = &live.giving_up {
                if since.elapsed() >= LET_GO {
                    return Some(Due::Held(end.clone(), attempt.pm_id));
                }
                let again = !live.looking && live.heard.elapsed() >= ASK_AGAIN;
                return again.then(|| Due::Look(attempt.prompt_id.clone()));
            }
            let running = live.record.state() == JobState::Running;
            if let Some(run) = limits.run.filter(|_| running)
                && live.since.elapsed() >= run.duration()
            {
                return Some(Due::GiveUp(AttemptEnd::TimedOut));
            }
            if running && live.moved.elapsed() >= limits.stall.duration() {
                return Some(Due::GiveUp(AttemptEnd::Stalled));
            }
            let look = !live.looking && live.heard.elapsed() >= LOOK_AFTER;
            look.then(|| Due::Look(attempt.prompt_id.clone()))
        }
        (JobState::Done | JobState::Failed | JobState::Cancelled | JobState::Dead, _)
        | (JobState::Placed | JobState::Running | JobState::Fetching, None) => None,
    }
}
