//! What an attempt that is out is heard of: by websocket, and by looking for it.

use super::super::feed::{Progress, What};
use super::super::link;
use super::super::report::{Found, Report};
use super::super::settings::LOOK_AGAIN;
use super::{Engine, now_ms};
use crate::comfyui::client::{Event, HistoryEntry, ImageFormat, Outcome};
use crate::core::job::{AttemptEnd, JobEvent, JobState};
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl Engine {
    pub(super) fn socket(&mut self, link: u64, open: bool) {
        let Some(machine) = self.machine_of(link) else {
            return;
        };
        machine.open = open;
        if open {
            let id = machine.id;
            self.ask_stats(id);
        } else if machine.gone.is_some() {
            self.bury();
        }
    }

    pub(super) fn event(&mut self, link: u64, event: Event) {
        match event {
            Event::Status { remaining } => {
                if let Some(machine) = self.machine_of(link) {
                    machine.remaining = remaining;
                }
            }
            Event::Started { prompt_id } => {
                if let Some(machine) = self.machine_of(link) {
                    machine.has_begun();
                }
                self.started(&prompt_id);
            }
            Event::Executing {
                prompt_id: Some(prompt_id),
                node,
            } => {
                self.progress(
                    &prompt_id,
                    Progress {
                        node,
                        value: 0.0,
                        max: 0.0,
                    },
                );
            }
            Event::Step {
                prompt_id: Some(prompt_id),
                node: Some(node),
                value,
                max,
            } => {
                self.progress(&prompt_id, Progress { node, value, max });
            }
            Event::States { prompt_id, nodes } => {
                if let Some(node) = nodes
                    .into_iter()
                    .find(|node| node.state == "running" && node.max > 1.0 && node.value > 0.0)
                {
                    self.progress(
                        &prompt_id,
                        Progress {
                            node: node.node,
                            value: node.value,
                            max: node.max,
                        },
                    );
                } else {
                    self.heard(&prompt_id);
                }
            }
            Event::Executed {
                prompt_id,
                node,
                output,
            } => {
                if let Some(live) = self.job_of(&prompt_id) {
                    live.told.insert(node, output);
                    live.moved = Instant::now();
                }
                self.heard(&prompt_id);
            }
            Event::Succeeded { prompt_id } => {
                if let Some(live) = self.job_of(&prompt_id) {
                    live.succeeded = true;
                }
                self.heard(&prompt_id);
            }
            Event::Ended {
                prompt_id: Some(prompt_id),
            } => {
                if let Some(machine) = self.machine_of(link) {
                    machine.has_ended(&prompt_id);
                }
                if let Some(live) = self.job_of(&prompt_id) {
                    live.ended = live.looking;
                }
                self.look(&prompt_id);
            }
            Event::Preview {
                prompt_id: Some(prompt_id),
                node,
                format,
                image,
            } => {
                self.heard(&prompt_id);
                let Some(id) = self.prompts.get(&prompt_id).cloned() else {
                    return;
                };
                if self.jobs.previews.load(Ordering::Relaxed) > 0 {
                    let media_type = match format {
                        ImageFormat::Jpeg => "image/jpeg",
                        ImageFormat::Png => "image/png",
                    };
                    self.tell(
                        &id,
                        What::Preview {
                            node,
                            media_type,
                            image,
                        },
                    );
                }
            }
            Event::Cached { prompt_id, .. }
            | Event::Failed { prompt_id, .. }
            | Event::Interrupted { prompt_id } => self.heard(&prompt_id),
            Event::Executing {
                prompt_id: None, ..
            }
            | Event::Step { .. }
            | Event::Ended { prompt_id: None }
            | Event::Preview {
                prompt_id: None, ..
            }
            | Event::Text { .. }
            | Event::Logs { .. }
            | Event::Other { .. } => {}
        }
    }

    fn heard(&mut self, prompt_id: &str) {
        if let Some(live) = self.job_of(prompt_id) {
            live.heard = Instant::now();
            live.nowhere = None;
        }
    }

    /// The instance executes it. Written down, so that a daemon after this one knows whom an instance died of.
    fn started(&mut self, prompt_id: &str) {
        let Some(live) = self.job_of(prompt_id) else {
            return;
        };
        live.heard = Instant::now();
        (live.taken, live.nowhere) = (true, None);
        // That it is still executed is no progress.
        if live.record.state() != JobState::Placed {
            return;
        }
        live.moved = Instant::now();
        live.record.job.step(JobEvent::Started);
        if let Some(attempt) = live.record.attempts.last_mut() {
            attempt.started_ms = Some(now_ms());
        }
        let id = live.record.id.clone();
        self.keep(&id);
        self.tell_state(&id);
    }

    /// Writes a job down and does not wait for it: what is lost by a failure is found out anew.
    pub(super) fn keep(&self, id: &str) {
        let Some(record) = self.live.get(id).map(|live| live.record.clone()) else {
            return;
        };
        let store = self.store.clone();
        self.tasks.spawn(async move {
            if let Ok(written) = store.put(record).await {
                // The store has logged why.
                drop(written.await);
            }
        });
    }

    fn progress(&mut self, prompt_id: &str, progress: Progress) {
        self.started(prompt_id);
        let Some(live) = self.job_of(prompt_id) else {
            return;
        };
        if live.last_progress.as_ref() == Some(&progress) {
            return;
        }
        live.moved = Instant::now();
        live.last_progress = Some(progress.clone());
        let id = live.record.id.clone();
        self.tell(&id, What::Progress(progress));
    }

    /// Looks for a prompt, unless that is being done.
    pub(super) fn look(&mut self, prompt_id: &str) {
        let machine = self
            .machines
            .values()
            .find(|machine| machine.prompts.contains(prompt_id));
        let Some(link) = machine.map(|machine| machine.link.clone()) else {
            return;
        };
        let Some(live) = self.job_of(prompt_id).filter(|live| !live.looking) else {
            return;
        };
        live.looking = true;
        live.heard = Instant::now();
        let prompt_id = prompt_id.to_owned();
        self.spawn(async move {
            let found = tokio::select! {
                found = link::look(&link, &prompt_id) => found,
                () = link.over.cancelled() => Found::Unanswered("its instance ended".to_owned()),
            };
            Report::Found { prompt_id, found }
        });
    }

    /// Looks for one that has ended while something else was under way: nothing more will be told of it.
    pub(super) fn look_after_end(&mut self, prompt_id: &str) {
        let live = self.job_of(prompt_id);
        if live.is_some_and(|live| std::mem::take(&mut live.ended)) {
            self.look(prompt_id);
        }
    }

    pub(super) fn found(&mut self, prompt_id: &str, found: Found) {
        let Some(live) = self.job_of(prompt_id) else {
            return;
        };
        live.looking = false;
        live.heard = Instant::now();
        let id = live.record.id.clone();
        match found {
            Found::Ended(entry) => self.entry(&id, *entry),
            Found::Running => {
                live.nowhere = None;
                self.started(prompt_id);
                self.look_after_end(prompt_id);
            }
            Found::Waiting => {
                (live.nowhere, live.taken) = (None, true);
                self.look_after_end(prompt_id);
            }
            Found::Nowhere => {
                // One that was just submitted by a daemon that died may still be on its way.
                let first = *live.nowhere.get_or_insert_with(Instant::now);
                let sure = live.taken || first.elapsed() >= LOOK_AGAIN;
                if live.succeeded && live.giving_up.is_none() {
                    // It has said so, and was restarted before it was asked.
                    self.end_attempt(&id, AttemptEnd::Success, String::new());
                } else if let Some((end, _)) = live.giving_up.clone().filter(|_| sure) {
                    self.end_attempt(&id, end, "taken back before it began".to_owned());
                } else if sure {
                    let words = "its instance does not know it any more".to_owned();
                    self.end_attempt(&id, AttemptEnd::Lost, words);
                }
            }
            Found::Unanswered(why) => {
                tracing::debug!(job = id, why, "an instance could not be asked about a job");
            }
        }
    }

    /// A prompt's history is there.
    fn entry(&mut self, id: &str, entry: HistoryEntry) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        let given_up = live.giving_up.take();
        match entry.outcome() {
            Outcome::Success => {
                // A part that was not wanted has been done before it could be taken back.
                if let Some((AttemptEnd::Partial, _)) = given_up {
                    self.end_attempt(
                        id,
                        AttemptEnd::Partial,
                        "a part of the workflow was refused".to_owned(),
                    );
                    return;
                }
                live.told = entry.outputs;
                self.end_attempt(id, AttemptEnd::Success, String::new());
            }
            Outcome::Interrupted => match given_up {
                Some((end, _)) => self.end_attempt(id, end, "taken back".to_owned()),
                None => {
                    let words = "somebody interrupted it at its instance".to_owned();
                    self.end_attempt(id, AttemptEnd::Interrupted, words);
                }
            },
            Outcome::Failed {
                node_id,
                node_type,
                exception_type,
                exception_message,
            } => {
                let words =
                    format!("node {node_id} ({node_type}): {exception_type}: {exception_message}");
                let words: String = words.chars().take(2000).collect();
                let end = if exception_type.contains("OutOfMemory") {
                    AttemptEnd::OutOfMemory
                } else {
                    AttemptEnd::NodeFailed
                };
                self.end_attempt(id, end, words);
            }
        }
    }
}
