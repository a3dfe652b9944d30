//! From the line to an instance: a place, the store, the instance.

use super::super::link::{self, Parcel};
use super::super::report::{Delivery, Report};
use super::super::settings::STORE_REST;
use super::super::store::{Attempt, StoreError};
use super::{Engine, Live, now_ms};
use crate::core::job::{AttemptEnd, JobEvent, JobState};
use crate::core::placement::{self, Candidate, Wishes};
use serde_json::Value;
use tokio::time::Instant;

impl Engine {
    /// Puts a job into the line; one that was out before comes first.
    pub(super) fn queue(&mut self, id: &str, again: bool) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        // One that is not accepted yet is queued when it is.
        if live.inserting.is_some() {
            return;
        }
        live.since = Instant::now();
        let (priority, caller) = (live.record.priority, live.record.caller.clone());
        if again {
            self.line.push_back(priority, &caller, id.to_owned());
        } else {
            self.line.push(priority, &caller, id.to_owned());
        }
    }

    /// Gives out what can be given out.
    pub(super) fn place_all(&mut self) {
        while !self.line.is_empty() && !self.rests() {
            let (live, machines, depth) = (&self.live, &self.machines, self.settings.depth);
            if machines.values().all(|machine| {
                !machine.is_placeable()
                    || machine.draining
                    || machine.depth() >= machine.most(depth)
            }) {
                return;
            }
            let place = |id: &String| {
                let live = live.get(id)?;
                let candidates: Vec<Candidate<'_>> = machines
                    .values()
                    .map(|machine| machine.candidate(&live.record.models, depth))
                    .collect();
                let wishes = Wishes {
                    not_on: &live.record.job.not_on,
                    avoid: &live.record.job.avoid,
                };
                placement::choose(&candidates, wishes).map(|_| ())
            };
            let Some((id, ())) = self.line.take(place) else {
                return;
            };
            self.assign(&id);
            let Some(live) = self.live.get(&id) else {
                continue;
            };
            let Some(prompt_id) = live.attempt().map(|attempt| attempt.prompt_id.clone()) else {
                self.queue(&id, true);
                return;
            };
            let (store, record) = (self.store.clone(), live.record.clone());
            self.spawn(async move {
                let result = match store.put(record).await {
                    Ok(written) => written.await.unwrap_or(Err(StoreError::Ended)),
                    Err(error) => Err(error),
                };
                Report::Written {
                    job: id,
                    prompt_id,
                    result,
                }
            });
        }
    }

    fn rests(&mut self) -> bool {
        if self.rests_until.is_some_and(|until| Instant::now() < until) {
            return true;
        }
        self.rests_until = None;
        false
    }

    /// The store has failed: nothing is placed for a moment.
    pub(super) fn store_failed(&mut self, error: &StoreError) {
        self.rests_until = Some(Instant::now() + STORE_REST);
        self.trouble = Some(error.to_string());
    }

    /// Finds an instance for a job and begins an attempt, if there is one. Nothing is sent yet.
    pub(super) fn assign(&mut self, id: &str) {
        if self.rests() {
            return;
        }
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        let job = &live.record.job;
        let candidates: Vec<Candidate<'_>> = self
            .machines
            .values()
            .map(|machine| machine.candidate(&live.record.models, self.settings.depth))
            .collect();
        let wishes = Wishes {
            not_on: &job.not_on,
            avoid: &job.avoid,
        };
        let Some(chosen) = placement::choose(&candidates, wishes) else {
            return;
        };
        let name = chosen.name.to_owned();
        let Some(machine) = self
            .machines
            .values_mut()
            .find(|machine| machine.name == name)
        else {
            return;
        };
        self.turn += 1;
        let prompt_id = uuid::Uuid::new_v4().to_string();
        machine.takes(&prompt_id, &live.record.models, self.turn);
        live.record.job.step(JobEvent::Placed);
        live.record.attempts.push(Attempt {
            number: live.record.job.attempts,
            prompt_id: prompt_id.clone(),
            instance: name,
            pm_id: machine.id.0,
            generation: machine.run.generation.0,
            pid: machine.run.pid,
            placed_ms: now_ms(),
            started_ms: None,
            ended_ms: None,
            end: None,
            message: None,
        });
        live.begin_attempt();
        self.prompts.insert(prompt_id, id.to_owned());
    }

    pub(super) fn written(&mut self, id: &str, prompt_id: &str, result: Result<(), StoreError>) {
        match result {
            Ok(()) => {
                self.trouble = None;
                self.tell_state(id);
                self.deliver(id, prompt_id);
            }
            Err(error) => {
                self.store_failed(&error);
                // Nothing was sent: it is as if it had not been placed.
                if self.job_of(prompt_id).is_none() {
                    return;
                }
                self.let_go(prompt_id);
                if let Some(live) = self.live.get_mut(id) {
                    live.record.attempts.pop();
                    live.record.job.attempts -= 1;
                    live.record.job.state = JobState::Queued;
                }
                self.queue(id, true);
            }
        }
    }

    /// Gives a job to the instance of its attempt.
    pub(super) fn deliver(&mut self, id: &str, prompt_id: &str) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        // It was taken back, or the instance has gone, before it was written down.
        let current = live
            .attempt()
            .is_some_and(|attempt| attempt.prompt_id == prompt_id);
        let machine = self
            .machines
            .values()
            .find(|machine| machine.prompts.contains(prompt_id));
        let Some(machine) = machine.filter(|_| current && live.giving_up.is_none()) else {
            if current && live.giving_up.is_some() {
                let (end, _) = live
                    .giving_up
                    .take()
                    .unwrap_or((AttemptEnd::Cancelled, Instant::now()));
                self.end_attempt(
                    id,
                    end,
                    "taken back before it was given to its instance".to_owned(),
                );
            }
            return;
        };
        live.looking = true;
        let parcel = Parcel {
            job: id.to_owned(),
            prompt_id: prompt_id.to_owned(),
            workflow: live.workflow.take(),
            inputs: live.record.inputs.clone(),
        };
        let (link, store, folders) = (
            machine.link.clone(),
            self.store.clone(),
            self.settings.folders.clone(),
        );
        let prompt_id = prompt_id.to_owned();
        self.spawn(async move {
            let delivery = tokio::select! {
                delivery = link::deliver(&link, &store, &folders, parcel) => delivery,
                () = link.over.cancelled() => Delivery::Unsure("its instance ended".to_owned()),
            };
            Report::Delivered {
                prompt_id,
                delivery,
            }
        });
    }

    pub(super) fn delivered(&mut self, prompt_id: &str, delivery: Delivery) {
        let Some(live) = self.job_of(prompt_id) else {
            return;
        };
        live.looking = false;
        live.heard = Instant::now();
        let id = live.record.id.clone();
        let partial = live.record.limits().partial;
        match delivery {
            Delivery::Taken => self.was_taken(&id),
            Delivery::Partial(refusal) => {
                live.record.node_errors = Value::Object(refusal.node_errors);
                if partial {
                    self.was_taken(&id);
                } else {
                    live.record.error = Some(refusal.message);
                    live.taken = true;
                    self.take_back(&id, AttemptEnd::Partial);
                }
            }
            Delivery::Refused(refusal) => {
                live.record.node_errors = Value::Object(refusal.node_errors);
                let end = AttemptEnd::Refused {
                    class: refusal.class,
                };
                self.end_attempt(&id, end, format!("refused: {}", refusal.message));
            }
            Delivery::NotTaken(why) => self.end_attempt(&id, AttemptEnd::NotTaken, why),
            Delivery::Unsure(why) => {
                tracing::warn!(
                    job = id,
                    why,
                    "a submission was not answered; looking for it"
                );
                self.look(prompt_id);
            }
        }
    }

    fn was_taken(&mut self, id: &str) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        live.taken = true;
        // Somebody has cancelled it meanwhile: now it can be taken back.
        if let Some((end, _)) = live.giving_up.take() {
            return self.take_back(id, end);
        }
        let prompt_id = live.attempt().map(|attempt| attempt.prompt_id.clone());
        if let Some(prompt_id) = prompt_id {
            self.look_after_end(&prompt_id);
        }
    }

    /// Its instance has nothing to do with a prompt any more.
    pub(super) fn let_go(&mut self, prompt_id: &str) {
        self.prompts.remove(prompt_id);
        for machine in self.machines.values_mut() {
            machine.forgets(prompt_id);
        }
    }
}

impl Live {
    /// The instance of the attempt that is under way.
    pub(super) fn instance(&self) -> Option<String> {
        self.attempt().map(|attempt| attempt.instance.clone())
    }
}
