//! Requests: a new job, questions, a cancel; and what a daemon before this one has left.

use super::super::handle::{Accepted, Cancelled, NewJob, Refused, Request, Watched};
use super::super::machine::RunId;
use super::super::report::Report;
use super::super::store::{Inserted, Record, StoreError};
use super::{Engine, Live, now_ms};
use crate::core::ids::{Generation, PmId};
use crate::core::job::{AttemptEnd, Job, JobEvent, JobState, Next};
use tokio::sync::oneshot;

impl Engine {
    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Submit(job, reply) => self.submit(*job, reply),
            Request::Get(id, reply) => match self.live.get(&id) {
                // Whoever asked may have gone; so below.
                Some(live) => drop(reply.send(Ok(Some(live.told())))),
                None => {
                    let store = self.store.clone();
                    self.tasks
                        .spawn(async move { drop(reply.send(store.get(&id).await)) });
                }
            },
            Request::List {
                states,
                before_ms,
                limit,
                reply,
            } => {
                let store = self.store.clone();
                let list =
                    async move { drop(reply.send(store.list(states, before_ms, limit).await)) };
                self.tasks.spawn(list);
            }
            Request::Cancel(id, reply) => self.cancel(id, reply),
            Request::Watch(id, seq, reply) => {
                let now = self.seq;
                match self.live.get(&id) {
                    Some(live) => {
                        let past = live.past.after(seq);
                        let record = live.told();
                        drop(reply.send(Ok(Some(Watched {
                            record,
                            past,
                            seq: now,
                        }))));
                    }
                    None => {
                        let store = self.store.clone();
                        self.tasks.spawn(async move {
                            let found = store.get(&id).await;
                            let watched = found.map(|record| {
                                record.map(|record| Watched {
                                    record,
                                    past: Vec::new(),
                                    seq: now,
                                })
                            });
                            drop(reply.send(watched));
                        });
                    }
                }
            }
            Request::Status(reply) => drop(reply.send(self.status())),
            Request::Since(seq, reply) => drop(reply.send(self.recent.after(seq))),
        }
    }

    fn submit(&mut self, new: NewJob, reply: oneshot::Sender<Result<Accepted, Refused>>) {
        if self.live.len() >= self.settings.queue {
            drop(reply.send(Err(Refused::Full(self.live.len()))));
            return;
        }
        let record = Record {
            id: new.id.clone(),
            key: new.key,
            caller: new.caller,
            priority: new.priority,
            created_ms: now_ms(),
            ended_ms: None,
            job: Job::new(new.limits),
            attempts: Vec::new(),
            outputs: Vec::new(),
            results: serde_json::Value::Null,
            error: None,
            node_errors: serde_json::Value::Null,
            models: new.models,
            inputs: new.inputs,
            webhook: new.webhook,
            digest: new.digest,
        };
        let mut live = Live::new(record);
        live.inserting = Some(reply);
        self.live.insert(new.id.clone(), live);
        // With an instance free and nobody before it, its first attempt is written down with it.
        if self.line.is_empty() {
            self.assign(&new.id);
        }
        let Some(live) = self.live.get_mut(&new.id) else {
            return;
        };
        live.workflow = Some(new.workflow.clone());
        let (store, record, id) = (self.store.clone(), live.record.clone(), new.id);
        let reports = self.reports.clone();
        let Some(reply) = live.inserting.take() else {
            return;
        };
        let (confirm, confirmed) = oneshot::channel();
        live.inserting = Some(confirm);
        self.tasks.spawn(async move {
            let written = match store.insert(record, new.workflow).await {
                Ok((written, durable)) => match written.await {
                    Ok(written) => Ok((written, durable)),
                    Err(_) => Err(StoreError::Ended),
                },
                Err(error) => Err(error),
            };
            let (result, durable) = match written {
                Ok((result, durable)) => (result, Some(durable)),
                Err(error) => (Err(error), None),
            };
            // An error means that the engine has ended.
            let _ = reports.send(Report::Inserted { job: id, result }).await;
            let Ok(answer) = confirmed.await else {
                drop(reply.send(Err(Refused::Ending)));
                return;
            };
            let durable = match durable {
                Some(durable) => durable.await.unwrap_or(Err(StoreError::Ended)),
                None => Ok(()),
            };
            drop(reply.send(answer.and_then(|accepted| {
                durable.map_err(Refused::Store)?;
                Ok(accepted)
            })));
        });
    }

    pub(super) fn inserted(&mut self, id: &str, result: Result<Inserted, StoreError>) {
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        let Some(confirm) = live.inserting.take() else {
            return;
        };
        match result {
            Ok(Inserted::Known(known)) if known.id != id => {
                let answer = if known.digest == live.record.digest {
                    Ok(Accepted {
                        record: *known,
                        known: true,
                    })
                } else {
                    Err(Refused::OtherJob(known.id.clone()))
                };
                drop(confirm.send(answer));
                self.forget(id);
                self.remove_files(id);
            }
            // Its own row may be there already: written by an attempt that ended at once.
            Ok(Inserted::New | Inserted::Known(_)) => {
                drop(confirm.send(Ok(Accepted {
                    record: live.record.clone(),
                    known: false,
                })));
                let attempt = live.attempt().map(|attempt| attempt.prompt_id.clone());
                self.tell_state(id);
                match attempt {
                    Some(prompt_id) => self.deliver(id, &prompt_id),
                    None => self.queue(id, false),
                }
            }
            Err(error) => {
                self.store_failed(&error);
                drop(confirm.send(Err(Refused::Store(error))));
                self.forget(id);
                self.remove_files(id);
            }
        }
    }

    /// A job that never came to be.
    fn forget(&mut self, id: &str) {
        let attempt = self.live.get(id).and_then(Live::attempt).cloned();
        if let Some(attempt) = attempt {
            self.let_go(&attempt.prompt_id);
        }
        self.live.remove(id);
    }

    fn remove_files(&self, id: &str) {
        let (folders, id) = (self.settings.folders.clone(), id.to_owned());
        self.tasks.spawn_blocking(move || folders.remove(&id));
    }

    fn cancel(&mut self, id: String, reply: oneshot::Sender<Result<Cancelled, StoreError>>) {
        let Some(live) = self.live.get_mut(&id) else {
            let store = self.store.clone();
            self.spawn(async move {
                Report::Stored {
                    found: store.get(&id).await.map(|found| found.map(Box::new)),
                    reply,
                }
            });
            return;
        };
        if live.settling || live.record.state() == JobState::Fetching {
            drop(reply.send(Ok(Cancelled::TooLate(live.record.state()))));
            return;
        }
        let was_queued = live.record.state() == JobState::Queued;
        let next = live.record.job.step(JobEvent::Cancel);
        if was_queued {
            self.line.remove(|queued| *queued == id);
        }
        match next {
            Next::TakeBack => self.take_back(&id, AttemptEnd::Cancelled),
            Next::Settle => self.settle(&id),
            Next::Wait | Next::Place | Next::Fetch => {}
        }
        let state = self
            .live
            .get(&id)
            .map_or(JobState::Cancelled, |live| live.record.state());
        drop(reply.send(Ok(Cancelled::Yes(state))));
    }

    /// Goes on with what a daemon before this one has left.
    pub(super) async fn resume(&mut self) {
        let left = match self.store.unsettled().await {
            Ok(left) => left,
            Err(error) => {
                tracing::error!(%error, "cannot read the jobs that are not settled");
                self.trouble = Some(error.to_string());
                return;
            }
        };
        if !left.is_empty() {
            tracing::info!(jobs = left.len(), "jobs go on");
        }
        for mut record in left {
            let id = record.id.clone();
            if record.job.state == JobState::Fetching {
                // Whether it ended well is asked once more: nothing but the outputs is missing.
                record.job.state = JobState::Running;
            }
            let attempt = record.attempts.last().cloned();
            let is_out = record.state().is_out();
            self.live.insert(id.clone(), Live::new(record));
            let Some(attempt) = attempt.filter(|_| is_out) else {
                self.queue(&id, false);
                continue;
            };
            let run = RunId {
                generation: Generation(attempt.generation),
                pid: attempt.pid,
            };
            self.prompts.insert(attempt.prompt_id.clone(), id.clone());
            match self
                .machines
                .get_mut(&PmId(attempt.pm_id))
                .filter(|machine| machine.run == run)
            {
                Some(machine) => {
                    machine.prompts.insert(attempt.prompt_id.clone());
                    self.look(&attempt.prompt_id);
                }
                None => {
                    // What it died of nobody saw: a person may have stopped everything.
                    let running = false;
                    let words = "its instance ended while there was no daemon";
                    self.end_attempt(&id, AttemptEnd::InstanceLost { running }, words.to_owned());
                }
            }
        }
    }
}
