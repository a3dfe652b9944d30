//! Ends: of an attempt, of a job; outputs into the store, the store onto the disk.

use super::super::feed::What;
use super::super::fetch::{self, FetchError};
use super::super::link;
use super::super::report::Report;
use super::super::settings::STORE_REST;
use super::super::store::{Output, Record, StoreError};
use super::super::told;
use super::{Engine, now_ms, state_news};
use crate::comfyui::client::FileRef;
use crate::core::job::{AttemptEnd, JobEvent, JobState, Next};
use crate::core::placement;
use serde_json::{Map, Value};
use tokio::time::Instant;

/// What output nodes told besides files is kept up to this size, in bytes.
const RESULTS: usize = 256 << 10;

impl Engine {
    /// An attempt has ended: what is next?
    pub(super) fn end_attempt(&mut self, id: &str, end: AttemptEnd, words: String) {
        let names: Vec<String> = self
            .machines
            .values()
            .map(|machine| machine.name.clone())
            .collect();
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        let Some(attempt) = live.attempt().cloned() else {
            return;
        };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let elsewhere = placement::is_elsewhere(&names, &attempt.instance, &live.record.job.not_on);
        let next = live.record.job.step(JobEvent::Ended {
            end: end.clone(),
            instance: attempt.instance.clone(),
            elsewhere,
        });
        let success = end == AttemptEnd::Success;
        if let Some(last) = live.record.attempts.last_mut() {
            last.end = Some(end.clone());
            last.ended_ms = Some(now_ms());
            last.message = (!words.is_empty()).then(|| words.clone());
        }
        if !success {
            tracing::info!(
                job = id,
                instance = attempt.instance,
                attempt = attempt.number,
                ?end,
                words,
                "an attempt ended"
            );
        }
        match next {
            Next::Fetch => {
                // Its place in the instance's queue is free; its outputs are still there.
                for machine in self.machines.values_mut() {
                    machine.forgets(&attempt.prompt_id);
                }
                self.tell_state(id);
                self.fetch(id);
            }
            Next::Place => {
                self.let_go(&attempt.prompt_id);
                self.sweep(&attempt.instance, &attempt.prompt_id);
                self.keep(id);
                self.tell_state(id);
                self.queue(id, true);
            }
            Next::Settle => {
                if live.record.error.is_none() && live.record.state() != JobState::Cancelled {
                    live.record.error = Some(why(live.record.state(), &words, &live.record));
                }
                self.let_go(&attempt.prompt_id);
                self.sweep(&attempt.instance, &attempt.prompt_id);
                self.settle(id);
            }
            Next::TakeBack => self.take_back(id, AttemptEnd::Cancelled),
            Next::Wait => {}
        }
    }

    /// Removes what an attempt has left in its instance's folder.
    fn sweep(&self, instance: &str, prompt_id: &str) {
        let machine = self
            .machines
            .values()
            .find(|machine| machine.name == instance);
        let output = machine.and_then(|machine| machine.link.output.clone());
        let prompt_id = prompt_id.to_owned();
        if output.is_some() {
            self.tasks
                .spawn_blocking(move || fetch::sweep(output, &prompt_id));
        }
    }

    /// Fetches the outputs of the attempt that has succeeded.
    pub(super) fn fetch(&mut self, id: &str) {
        let Some(live) = self.live.get_mut(id).filter(|live| !live.looking) else {
            return;
        };
        let Some(attempt) = live.attempt().cloned() else {
            return;
        };
        let link = self
            .machines
            .values()
            .find(|machine| machine.name == attempt.instance)
            .map(|machine| machine.link.clone());
        let Some(link) = link else {
            return self.outputs_lost(id, "its instance ended before its outputs were fetched");
        };
        live.looking = true;
        live.heard = Instant::now();
        let files = files(&live.told);
        let (folders, id) = (self.settings.folders.clone(), id.to_owned());
        let syncs = self.syncs.clone();
        self.spawn(async move {
            let result = fetch::fetch(&link, &folders, &syncs, &id, files).await;
            Report::Fetched {
                prompt_id: attempt.prompt_id,
                result,
            }
        });
    }

    pub(super) fn fetched(&mut self, prompt_id: &str, result: Result<Vec<Output>, FetchError>) {
        let Some(live) = self.job_of(prompt_id) else {
            return;
        };
        live.looking = false;
        let id = live.record.id.clone();
        match result {
            Ok(outputs) => {
                live.record.outputs = outputs;
                live.record.results = results(&live.told);
                let instance = live.instance();
                live.record.job.step(JobEvent::Fetched);
                live.record.error = None;
                self.let_go(prompt_id);
                self.settle(&id);
                if let Some(instance) = instance {
                    self.sweep(&instance, prompt_id);
                }
            }
            Err(FetchError::Missing(why)) => {
                // Perhaps the instance told of an old file: it is to forget what it has cached.
                let link = self.machines.values().find(|machine| {
                    Some(&machine.name)
                        == self.live.get(&id).and_then(super::Live::instance).as_ref()
                });
                if let Some(client) =
                    link.map(|machine| std::sync::Arc::clone(&machine.link.client))
                {
                    self.tasks
                        .spawn(async move { drop(client.free(false, true).await) });
                }
                self.end_attempt(&id, AttemptEnd::OutputMissing, why);
            }
            Err(FetchError::Instance(why)) => {
                // Whether it has ended is told by the daemon; until then it is asked again, at the next tick.
                tracing::debug!(job = id, why, "outputs could not be fetched");
            }
            Err(FetchError::Disk(why)) => {
                tracing::error!(job = id, why, "outputs could not be kept; trying again");
                self.rests_until = Some(Instant::now() + STORE_REST);
                self.trouble = Some(format!("cannot keep outputs: {why}"));
            }
        }
    }

    /// The outputs of a success are gone with its instance.
    pub(super) fn outputs_lost(&mut self, id: &str, words: &str) {
        self.end_attempt(
            id,
            AttemptEnd::InstanceLost { running: false },
            words.to_owned(),
        );
    }

    /// Asks the instance to let go of a prompt; how the attempt ended is `end` once it has.
    pub(super) fn take_back(&mut self, id: &str, end: AttemptEnd) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        let Some(prompt_id) = live.attempt().map(|attempt| attempt.prompt_id.clone()) else {
            return;
        };
        live.giving_up = Some((end, Instant::now()));
        // What is being submitted is taken back when that is done.
        if live.looking && !live.taken {
            return;
        }
        let machine = self
            .machines
            .values()
            .find(|machine| machine.prompts.contains(&prompt_id));
        let Some(link) = machine.map(|machine| machine.link.clone()) else {
            return;
        };
        live.looking = true;
        self.spawn(async move {
            link::take_back(&link, &prompt_id).await;
            let found = link::look(&link, &prompt_id).await;
            Report::Found { prompt_id, found }
        });
    }

    /// A settled job goes to the disk, and only then anybody is told.
    pub(super) fn settle(&mut self, id: &str) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        live.settling = true;
        live.record.ended_ms.get_or_insert_with(now_ms);
        let record = live.record.clone();
        let hook = record.webhook.clone().map(|mut webhook| {
            if webhook.secret.is_none() {
                webhook.secret.clone_from(&self.settings.webhook_secret);
            }
            (webhook, told::hook_body(&record))
        });
        let store = self.store.clone();
        self.spawn(async move {
            let result = store.settle(record.clone(), hook).await;
            Report::Settled {
                record: Box::new(record),
                result,
            }
        });
    }

    pub(super) fn settled(&mut self, record: Record, result: Result<(), StoreError>) {
        let id = record.id.clone();
        if let Err(error) = result {
            self.store_failed(&error);
            let (store, again) = (self.store.clone(), self.settings.clone());
            let hook = record.webhook.clone().map(|mut webhook| {
                if webhook.secret.is_none() {
                    webhook.secret.clone_from(&again.webhook_secret);
                }
                (webhook, told::hook_body(&record))
            });
            self.spawn(async move {
                tokio::time::sleep(STORE_REST).await;
                let result = store.settle(record.clone(), hook).await;
                Report::Settled {
                    record: Box::new(record),
                    result,
                }
            });
            return;
        }
        self.trouble = None;
        let (state, attempts) = (record.state(), record.job.attempts);
        if state == JobState::Done {
            tracing::debug!(job = id, attempts, "a job is done");
        } else {
            let error = record.error.as_deref().unwrap_or_default();
            tracing::info!(
                job = id,
                state = state.as_str(),
                attempts,
                error,
                "a job is settled"
            );
        }
        self.tell(&id, What::State(state_news(&record)));
        self.live.remove(&id);
        if record.webhook.is_some() {
            self.hooks.notify_one();
        }
        if !record.inputs.is_empty() {
            let folder = self.settings.folders.inputs(&id);
            self.tasks
                .spawn_blocking(move || drop(std::fs::remove_dir_all(folder)));
        }
    }
}

/// Why a job is not done, in words.
fn why(state: JobState, words: &str, record: &Record) -> String {
    if state == JobState::Dead {
        let tally = record.job.tally;
        return if tally.kills >= crate::core::job::KILLS {
            format!(
                "{} instances died or hung while they executed it; the last time: {words}",
                tally.kills
            )
        } else {
            format!(
                "given up after {} attempts; the last one: {words}",
                record.job.attempts
            )
        };
    }
    words.to_owned()
}

/// Every file that output nodes told, whatever its key.
pub(super) fn files(told: &Map<String, Value>) -> Vec<(String, FileRef)> {
    let entry = crate::comfyui::client::HistoryEntry {
        outputs: told.clone(),
        status: None,
    };
    entry.files()
}

/// What they told besides files; nothing if that is too much.
fn results(told: &Map<String, Value>) -> Value {
    let mut kept = Map::new();
    for (node, output) in told {
        let Some(output) = output.as_object() else {
            continue;
        };
        let is_file = |item: &Value| item.get("filename").is_some();
        let words: Map<String, Value> = output
            .iter()
            .filter(|(_, value)| {
                !value
                    .as_array()
                    .is_some_and(|items| items.iter().any(is_file))
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !words.is_empty() {
            kept.insert(node.clone(), Value::Object(words));
        }
    }
    let kept = Value::Object(kept);
    if kept.to_string().len() > RESULTS {
        Value::Null
    } else {
        kept
    }
}
