//! Jobs on disk: one thread owns the SQLite connection, and another one its log's way to the disk.
//!
//! A commit is in the system's hands at once, so it outlives the daemon, however that dies. Only what is told to be on disk is
//! waited for (`durable`), and many such waits share one sync. What a sync would protect from, the end of the machine, ends
//! its ComfyUIs too: so a job may be given to one before it is on disk, and cannot be run twice for it.

mod error;
mod files;
mod record;
mod schema;
mod thread;
mod work;

pub use error::StoreError;
pub use files::Folders;
pub use files::safe;
pub use record::{Attempt, Input, Output, Record, Webhook};

use crate::core::job::JobState;
use thread::Order;
use tokio::sync::{mpsc, oneshot};

/// Orders waiting for the store's thread; whoever asks waits when it is full.
const ORDERS: usize = 1024;

/// What became of a job that was to be inserted.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// It is new.
    New,
    /// Its key is known: this is the job.
    Known(Box<Record>),
}

/// A webhook that is due.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Of which job.
    pub job: String,
    /// Failed deliveries so far.
    pub tries: u32,
    /// Whom to tell.
    pub webhook: Webhook,
    /// What to tell.
    pub body: String,
}

/// How long settled jobs are kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// None that ended before this, in milliseconds since the Unix epoch.
    pub ended_after_ms: u64,
    /// At most so many bytes of outputs; the oldest go first.
    pub bytes: u64,
    /// At most so many.
    pub jobs: u64,
}

/// A reply of the store.
pub type Reply<T> = oneshot::Receiver<Result<T, StoreError>>;

/// To the store. Cheap to clone; the thread ends with the last one.
#[derive(Debug, Clone)]
pub struct Store {
    orders: mpsc::Sender<Order>,
}

impl Store {
    /// Opens the store and starts its threads. Blocking.
    pub fn open(folders: &Folders) -> Result<Self, StoreError> {
        folders.make()?;
        let (orders, inbox) = mpsc::channel(ORDERS);
        thread::start(folders, inbox)?;
        Ok(Self { orders })
    }

    async fn ask<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Order,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.orders
            .send(order(reply))
            .await
            .map_err(|_| StoreError::Ended)?;
        answer.await.map_err(|_| StoreError::Ended)?
    }

    /// A new job with its graph, or the one that has its key. The first reply: it outlives the daemon; the second: the machine.
    pub async fn insert(
        &self,
        record: Record,
        workflow: String,
    ) -> Result<(Reply<Inserted>, Reply<()>), StoreError> {
        let ((written, first), (durable, second)) = (oneshot::channel(), oneshot::channel());
        let order = Order::Insert {
            record: Box::new(record),
            workflow,
            written,
            durable,
        };
        self.orders
            .send(order)
            .await
            .map_err(|_| StoreError::Ended)?;
        Ok((first, second))
    }

    /// The job as it is now. The reply: it outlives the daemon.
    pub async fn put(&self, record: Record) -> Result<Reply<()>, StoreError> {
        let (written, reply) = oneshot::channel();
        let order = Order::Put {
            record: Box::new(record),
            hook: None,
            written,
            durable: None,
        };
        self.orders
            .send(order)
            .await
            .map_err(|_| StoreError::Ended)?;
        Ok(reply)
    }

    /// A settled job, and whom to tell what about it. Returns when it is on disk.
    pub async fn settle(
        &self,
        record: Record,
        hook: Option<(Webhook, String)>,
    ) -> Result<(), StoreError> {
        let ((written, first), (durable, second)) = (oneshot::channel(), oneshot::channel());
        let order = Order::Put {
            record: Box::new(record),
            hook,
            written,
            durable: Some(durable),
        };
        self.orders
            .send(order)
            .await
            .map_err(|_| StoreError::Ended)?;
        first.await.map_err(|_| StoreError::Ended)??;
        second.await.map_err(|_| StoreError::Ended)?
    }

    /// A job's graph.
    pub async fn workflow(&self, id: &str) -> Result<Option<String>, StoreError> {
        let id = id.to_owned();
        self.ask(|reply| Order::Workflow { id, reply }).await
    }

    /// A job.
    pub async fn get(&self, id: &str) -> Result<Option<Record>, StoreError> {
        let id = id.to_owned();
        self.ask(|reply| Order::Get { id, reply }).await
    }

    /// The newest jobs first, of these states (empty: of all), created before a moment.
    pub async fn list(
        &self,
        states: Vec<JobState>,
        before_ms: u64,
        limit: u32,
    ) -> Result<Vec<Record>, StoreError> {
        self.ask(|reply| Order::List {
            states,
            before_ms,
            limit,
            reply,
        })
        .await
    }

    /// All that are not settled, oldest first.
    pub async fn unsettled(&self) -> Result<Vec<Record>, StoreError> {
        self.ask(Order::Unsettled).await
    }

    /// Webhooks that are due by then, at most so many; and when the next one is.
    pub async fn hooks(
        &self,
        by_ms: u64,
        limit: u32,
    ) -> Result<(Vec<Hook>, Option<u64>), StoreError> {
        self.ask(|reply| Order::Hooks {
            by_ms,
            limit,
            reply,
        })
        .await
    }

    /// A webhook was delivered or given up (`None`), or is to be tried again then.
    pub async fn hook_tried(&self, job: &str, again_ms: Option<u64>) -> Result<(), StoreError> {
        let job = job.to_owned();
        self.ask(|reply| Order::HookTried {
            job,
            again_ms,
            reply,
        })
        .await
    }

    /// Forgets settled jobs that are not to be kept; tells which.
    pub async fn prune(&self, retention: Retention) -> Result<Vec<String>, StoreError> {
        self.ask(|reply| Order::Prune { retention, reply }).await
    }
}
