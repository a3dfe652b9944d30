//! What everybody but the engine holds of the jobs. Cheap to clone.

use super::feed::{JobNews, Since, WAITING};
use super::settings::JobSettings;
use super::store::{Folders, Input, Record, StoreError, Webhook};
use crate::core::job::{JobLimits, JobState};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Requests waiting for the engine; whoever asks waits when it is full.
pub(super) const REQUESTS: usize = 256;

/// A job that somebody wants done.
#[derive(Debug)]
pub struct NewJob {
    /// A lower-case UUID; its inputs lie under it already.
    pub id: String,
    /// The same key is the same job.
    pub key: Option<String>,
    /// Who wants it.
    pub caller: String,
    /// Higher is sooner.
    pub priority: i32,
    /// What it allows.
    pub limits: JobLimits,
    /// The graph, as JSON.
    pub workflow: String,
    /// Models that it names.
    pub models: Vec<String>,
    /// Files to upload.
    pub inputs: Vec<Input>,
    /// Whom to tell.
    pub webhook: Option<Webhook>,
    /// SHA-256 of graph and inputs.
    pub digest: String,
}

/// A job that is on disk.
#[derive(Debug)]
pub struct Accepted {
    /// As it is.
    pub record: Record,
    /// It was there already, by its key.
    pub known: bool,
}

/// Why a job was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// Too many are not settled.
    #[error(
        "the queue is full: {0} jobs are not settled; try again later, or raise FORNAX_JOBS_QUEUE"
    )]
    Full(usize),
    /// Its key is another job's.
    #[error(
        "the idempotency key is that of job {0}, whose workflow or inputs are others; take a new key"
    )]
    OtherJob(String),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is ending.
    #[error("the daemon is ending")]
    Ending,
}

/// What became of the wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled, or will be as soon as its instance lets go.
    Yes(JobState),
    /// It had been settled before.
    TooLate(JobState),
    /// There is no such job.
    Unknown,
}

/// How the engine stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EngineStatus {
    /// Jobs that wait for an instance.
    pub queued: usize,
    /// Jobs that an instance has.
    pub out: usize,
    /// Jobs that may be unsettled at once.
    pub most: usize,
    /// The ComfyUIs, as placement sees them.
    pub instances: Vec<InstanceStatus>,
    /// What is wrong with the store, if anything is.
    pub trouble: Option<String>,
}

/// One ComfyUI as placement sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceStatus {
    /// The service.
    pub name: String,
    /// It may be given jobs.
    pub placeable: bool,
    /// It takes no more.
    pub draining: bool,
    /// Prompts that wait or run there.
    pub depth: u32,
    /// Of these, ours.
    pub ours: u32,
    /// Free memory of its device, in bytes.
    pub free_vram: u64,
}

/// A job, and what was told of it after some event.
#[derive(Debug)]
pub struct Watched {
    /// As it is now.
    pub record: Record,
    /// What was told meanwhile, as far as it is kept.
    pub past: Vec<Arc<JobNews>>,
    /// The number of the event told last, of any job.
    pub seq: u64,
}

/// What the engine can be asked.
#[derive(Debug)]
pub(super) enum Request {
    Submit(Box<NewJob>, oneshot::Sender<Result<Accepted, Refused>>),
    Get(String, oneshot::Sender<Result<Option<Record>, StoreError>>),
    List {
        states: Vec<JobState>,
        before_ms: u64,
        limit: u32,
        reply: oneshot::Sender<Result<Vec<Record>, StoreError>>,
    },
    Cancel(String, oneshot::Sender<Result<Cancelled, StoreError>>),
    Watch(
        String,
        u64,
        oneshot::Sender<Result<Option<Watched>, StoreError>>,
    ),
    Status(oneshot::Sender<EngineStatus>),
    Since(u64, oneshot::Sender<Since>),
}

/// The jobs, from outside.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) news: broadcast::Sender<Arc<JobNews>>,
    pub(super) settings: Arc<JobSettings>,
    /// Followers that want previews: without one they are not passed on.
    pub(super) previews: Arc<AtomicUsize>,
}

/// The other end: for [`super::serve`].
pub struct Inbox(pub(super) mpsc::Receiver<Request>);

impl Jobs {
    /// Both ends. Nothing runs before the inbox is served.
    pub fn new(settings: JobSettings) -> (Self, Inbox) {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let jobs = Self {
            requests,
            news: broadcast::channel(WAITING).0,
            settings: Arc::new(settings),
            previews: Arc::default(),
        };
        (jobs, Inbox(inbox))
    }

    /// Where inputs and outputs lie.
    pub fn folders(&self) -> &Folders {
        &self.settings.folders
    }

    /// The only hosts that webhooks may go to; `None`: any but link-local ones.
    pub fn webhook_hosts(&self) -> Option<&[String]> {
        self.settings.webhook_hosts.as_deref()
    }

    /// Whether there is a store: without one there are no jobs, and a question need not make one.
    pub fn has_store(&self) -> bool {
        self.settings.folders.database().exists()
    }

    /// Accepts a job: when this returns, it is on disk.
    pub async fn submit(&self, job: NewJob) -> Result<Accepted, Refused> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Submit(Box::new(job), reply);
        self.requests
            .send(request)
            .await
            .map_err(|_| Refused::Ending)?;
        answer.await.map_err(|_| Refused::Ending)?
    }

    /// A job as it is.
    pub async fn get(&self, id: &str) -> Result<Option<Record>, StoreError> {
        self.ask(|reply| Request::Get(id.to_owned(), reply)).await
    }

    /// The newest jobs first, of these states (empty: of all), accepted before a moment.
    pub async fn list(
        &self,
        states: Vec<JobState>,
        before_ms: u64,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        self.ask(|reply| Request::List {
            states,
            before_ms,
            limit,
            reply,
        })
        .await
    }

    /// Cancels one job and no other.
    pub async fn cancel(&self, id: &str) -> Result<Cancelled, StoreError> {
        self.ask(|reply| Request::Cancel(id.to_owned(), reply))
            .await
    }

    /// A job, and what was told of it after event `seq`. Subscribe by [`Jobs::news`] first: then nothing is missed.
    pub async fn watch(&self, id: &str, seq: u64) -> Result<Option<Watched>, StoreError> {
        self.ask(|reply| Request::Watch(id.to_owned(), seq, reply))
            .await
    }

    /// How the engine stands.
    pub async fn status(&self) -> Option<EngineStatus> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Status(reply)).await.ok()?;
        answer.await.ok()
    }

    /// States of all jobs told after event `seq`, as far as they are kept. Subscribe by [`Jobs::news`] first.
    pub async fn since(&self, seq: u64) -> Option<Since> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Since(seq, reply)).await.ok()?;
        answer.await.ok()
    }

    /// What is told from now on, of all jobs.
    pub fn news(&self) -> broadcast::Receiver<Arc<JobNews>> {
        self.news.subscribe()
    }

    /// Previews are passed on as long as this lives.
    pub fn want_previews(&self) -> WantsPreviews {
        self.previews.fetch_add(1, Ordering::Relaxed);
        WantsPreviews(Arc::clone(&self.previews))
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| StoreError::Ended)?;
        answer.await.map_err(|_| StoreError::Ended)?
    }
}

/// A follower's wish for previews.
#[derive(Debug)]
pub struct WantsPreviews(Arc<AtomicUsize>);

impl Drop for WantsPreviews {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
