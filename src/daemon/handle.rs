//! What everybody but the loop holds of the daemon. Cheap to clone.

use super::bus::Bus;
use super::command::{Answer, Command, CommandError};
use super::run::Request;
use super::settings::Settings;
use super::snapshot::{InstanceView, Snapshot, Usages};
use super::succession::Succession;
use crate::adapters::logs::LogPlane;
use crate::adapters::runner::RunHandle;
use crate::adapters::runs::Runs;
use crate::adapters::sampler::Usage;
use crate::adapters::tree::Roots;
use crate::core::ids::PmId;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How long a list waits for the first figures of a run that has just begun.
const FIRST_SAMPLE: Duration = Duration::from_millis(40);

/// Facts about this daemon that never change.
#[derive(Debug)]
pub struct DaemonInfo {
    /// Its pid.
    pub pid: u32,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// In which life its lines of logs are numbered: when the first of the daemons started that have gone on from each other, in
    /// milliseconds since the Unix epoch.
    pub life: u64,
    /// PM2_HOME.
    pub home: PathBuf,
    /// Who runs it.
    pub user: String,
}

/// Where port 9090 is, or why it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpState {
    /// Switched off.
    Off,
    /// Not tried yet.
    Pending,
    /// It listens here.
    Listening(SocketAddr),
    /// It could not bind.
    Failed {
        /// To where.
        address: String,
        /// Why, with the remedy.
        reason: String,
    },
}

/// A request to listen somewhere else.
pub type HttpRequest = (String, oneshot::Sender<HttpState>);

/// The daemon, from outside its loop.
#[derive(Debug, Clone)]
pub struct Handle {
    /// To the loop.
    pub commands: mpsc::Sender<Request>,
    /// The latest views.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The latest figures.
    pub usages: watch::Receiver<Arc<Usages>>,
    /// The machine's own figures.
    pub host: watch::Receiver<Arc<serde_json::Value>>,
    /// Asks the sampler to look now.
    pub sample: Arc<Notify>,
    /// Events.
    pub bus: Bus,
    /// Logs.
    pub plane: LogPlane,
    /// Root processes, so that a helper of ours is told from an orphan.
    pub roots: Arc<Roots>,
    /// Runs in progress, for messages and standard input.
    pub runs: Arc<Runs>,
    /// Settings of the daemon.
    pub settings: watch::Sender<Settings>,
    /// Where HTTP is.
    pub http: watch::Receiver<HttpState>,
    /// To whoever serves HTTP.
    pub http_requests: mpsc::Sender<HttpRequest>,
    /// What comes before and after us.
    pub succession: Arc<Succession>,
    /// Facts.
    pub info: Arc<DaemonInfo>,
    /// The client to be told, by SIGQUIT as PM2 does it (spec 2.3), once nobody can mistake the daemon that ends for one that serves.
    pub mourner: Arc<OnceLock<i32>>,
    /// Cancelled when the daemon is to end.
    pub shutdown: CancellationToken,
}

impl Handle {
    /// Asks the loop and waits for its answer.
    pub async fn call(&self, command: Command) -> Answer {
        let answer = self.begin(command).await?;
        answer.await.map_err(|_| CommandError::Gone)?
    }

    /// Puts a command into the loop's queue, waiting while it is full; its answer comes when it comes.
    pub async fn begin(&self, command: Command) -> Result<oneshot::Receiver<Answer>, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send((command, reply))
            .await
            .map_err(|_| CommandError::Gone)?;
        Ok(answer)
    }

    /// The latest views. Never waits.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// The figures of an instance's latest run; zeros when it does not run or has not been measured yet.
    pub fn usage(&self, view: &InstanceView) -> Usage {
        let usages = self.usages.borrow();
        let of_this_run = usages
            .get(&view.id)
            .filter(|(generation, _)| view.pid.is_some() && *generation == view.generation);
        of_this_run.map_or_else(Usage::default, |(_, usage)| *usage)
    }

    /// Whether a run has no figures at all. Of an app that crashes again and again none are waited for: each list would wait.
    pub fn has_unmeasured(&self) -> bool {
        let usages = self.usages.borrow();
        let measured = |view: &InstanceView| {
            usages
                .get(&view.id)
                .is_some_and(|(generation, _)| *generation == view.generation)
        };
        self.snapshot()
            .instances
            .iter()
            .any(|view| view.pid.is_some() && !crashes(view) && !measured(view))
    }

    /// Asks for fresh figures, and waits a moment if a run has none at all.
    pub async fn refresh_usages(&self) {
        let mut usages = self.usages.clone();
        usages.mark_unchanged();
        self.sample.notify_one();
        if self.has_unmeasured() {
            // Late figures are zeros, as PM2's are at first.
            let _ = tokio::time::timeout(FIRST_SAMPLE, usages.changed()).await;
        }
    }

    /// The run of an instance, if it runs.
    pub fn run(&self, id: PmId) -> Option<Arc<RunHandle>> {
        let snapshot = self.snapshot();
        // A run whose process has ended is kept for what it may have left behind, not for talking to.
        let view = snapshot.get(id).filter(|view| view.pid.is_some())?;
        self.runs.get(id, view.generation)
    }

    /// Runs a helper program to its end; see [`Roots::run_helper`]. Blocking.
    pub fn run_helper(
        &self,
        command: &mut std::process::Command,
        limit: Duration,
    ) -> std::io::Result<Option<std::process::Output>> {
        self.roots.run_helper(command, limit)
    }

    /// Moves HTTP to another address (`off` for none), and tells where it is then.
    pub async fn listen(&self, address: String) -> Result<HttpState, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.http_requests
            .send((address, reply))
            .await
            .map_err(|_| CommandError::Gone)?;
        answer.await.map_err(|_| CommandError::Gone)
    }
}

/// Whether the run before this one was short, and nobody's wish.
fn crashes(view: &InstanceView) -> bool {
    let last = view.last_exit.as_deref();
    view.restarts > 0
        && last.is_some_and(|exit| exit.uptime_ms < view.spec.policy.restart.min_uptime.0)
}
