//! Who is watched: a monitor for each run of a monitored app, on a thread of the fleet's own.

use super::book::{Book, FleetServer, Order, incident, now_ms};
use super::facts;
use super::rollout::workspace_of;
use super::rollout_begin;
use super::rollout_file::RollError;
use super::view::{Ended, IncidentKind, Report};
use super::watch::{self, RunOrder, Watching};
use crate::core::exit::{ExitCause, LastExit};
use crate::core::ids::{Generation, PmId};
use crate::core::monitor::cause::{self, Cause};
use crate::core::monitor::facts::Carried;
use crate::core::spec::monitor::Monitor as Settings;
use crate::core::status::Status;
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::{InstanceView, Snapshot};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// Threads for reading counters and logs.
const BLOCKING: usize = 2;
/// Orders waiting for one monitor; further ones are dropped: a report of progress is soon followed by the next.
const ORDERS: usize = 32;

/// Watches whoever is to be watched, until the daemon ends. Costs nothing while nobody is.
pub async fn serve(server: FleetServer, handle: Handle) {
    let mut snapshots = handle.snapshots.clone();
    while !snapshots
        .borrow_and_update()
        .instances
        .iter()
        .any(|view| is_monitored(view))
    {
        tokio::select! {
            () = handle.shutdown.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
    let shutdown = handle.shutdown.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING)
        .thread_stack_size(256 << 10)
        .build();
    let begun = runtime.and_then(|runtime| {
        std::thread::Builder::new()
            .name("fornax-fleet".to_owned())
            .spawn(move || runtime.block_on(Supervisor::new(server, handle).run()))
    });
    if let Err(error) = begun {
        tracing::error!(%error, "comfyui instances are not watched: no thread for it");
    }
    shutdown.cancelled().await;
}

fn is_monitored(view: &InstanceView) -> bool {
    view.spec.fornax.monitor.is_some() && view.spec.fornax.port.is_some() && !view.retiring
}

struct Watched {
    generation: Generation,
    task: AbortHandle,
    orders: mpsc::Sender<RunOrder>,
}

struct Supervisor {
    handle: Handle,
    book: Book,
    orders: mpsc::Receiver<Order>,
    watched: HashMap<PmId, Watched>,
    tasks: JoinSet<()>,
    /// When the last end was that has been looked at.
    ends: HashMap<PmId, u64>,
    began_ms: u64,
    /// Workspaces that have been looked into for a rollout that was broken off.
    workspaces: HashSet<PathBuf>,
    /// The rollout at work.
    rolling: Option<AbortHandle>,
}

impl Supervisor {
    fn new(server: FleetServer, handle: Handle) -> Self {
        Self {
            handle,
            book: Book::new(server.views),
            orders: server.orders,
            watched: HashMap::new(),
            tasks: JoinSet::new(),
            ends: HashMap::new(),
            began_ms: now_ms(),
            workspaces: HashSet::new(),
            rolling: None,
        }
    }

    async fn run(mut self) {
        let mut snapshots = self.handle.snapshots.clone();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.reconcile(&snapshot);
            tokio::select! {
                () = self.handle.shutdown.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
                Some(order) = self.orders.recv() => self.order(order),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a monitor has failed; its instance is watched anew");
                    }
                    self.watched.retain(|_, watched| !watched.task.is_finished());
                }
            }
        }
    }

    fn reconcile(&mut self, snapshot: &Snapshot) {
        let mut known = HashSet::new();
        for view in snapshot.instances.iter().filter(|view| is_monitored(view)) {
            let Some(settings) = view.spec.fornax.monitor else {
                continue;
            };
            known.insert(view.id);
            self.book.with(view.id, || Carried::new(&settings), |_| ());
            self.see_end(view);
            self.see_workspace(view);
            let watched = self.watched.get(&view.id);
            match (
                view.pid.is_some(),
                watched.map(|watched| watched.generation),
            ) {
                (true, Some(generation)) if generation == view.generation => {}
                (true, _) => self.watch(view, settings),
                (false, Some(_)) => {
                    self.unwatch(view.id);
                    self.publish_down(view);
                }
                (false, None) => {
                    if self.book.report(view.id).is_none() {
                        self.publish_down(view);
                    }
                }
            }
        }
        for id in self.book.ids() {
            if !known.contains(&id) {
                self.unwatch(id);
                self.ends.remove(&id);
                self.book.forget(id);
            }
        }
    }

    fn watch(&mut self, view: &Arc<InstanceView>, settings: Settings) {
        self.unwatch(view.id);
        let (orders, receiver) = mpsc::channel(ORDERS);
        let task = self.tasks.spawn(watch::run(Watching {
            handle: self.handle.clone(),
            book: self.book.clone(),
            view: Arc::clone(view),
            settings,
            orders: receiver,
        }));
        self.watched.insert(
            view.id,
            Watched {
                generation: view.generation,
                task,
                orders,
            },
        );
    }

    fn unwatch(&mut self, id: PmId) {
        if let Some(watched) = self.watched.remove(&id) {
            watched.task.abort();
        }
    }

    /// Looks at its files, and goes on with a rollout of a daemon before this one.
    fn see_workspace(&mut self, view: &InstanceView) {
        let Some(root) = workspace_of(view).filter(|root| !self.workspaces.contains(root)) else {
            return;
        };
        self.workspaces.insert(root.clone());
        let watched = facts::watch(self.handle.clone(), self.book.clone(), root.clone());
        self.tasks.spawn(watched);
        let resumed = rollout_begin::resume(self.handle.clone(), self.book.clone(), root);
        let task = self.tasks.spawn(resumed);
        if self.rolls().is_none() {
            self.rolling = Some(task);
        }
    }

    /// The rollout at work.
    fn rolls(&self) -> Option<&AbortHandle> {
        self.rolling.as_ref().filter(|task| !task.is_finished())
    }

    fn order(&mut self, order: Order) {
        let (id, order) = match order {
            Order::Roll(wanted, reply) => {
                if self.rolls().is_some() {
                    let busy = "another rollout is at work; wait for it".to_owned();
                    // Whoever asked may have gone.
                    let _ = reply.send(Err(RollError::Refused(busy)));
                } else {
                    let (handle, book) = (self.handle.clone(), self.book.clone());
                    let begun = rollout_begin::begun(handle, book, wanted, reply);
                    self.rolling = Some(self.tasks.spawn(begun));
                }
                return;
            }
            Order::Drain(id, on) => {
                self.book.drain(id, on);
                return;
            }
            Order::Progress(id, step) => (id, RunOrder::Progress(step)),
            Order::Canary(id) => (id, RunOrder::Canary),
        };
        if let Some(watched) = self.watched.get(&id) {
            // See the bound.
            let _ = watched.orders.try_send(order);
        }
    }

    /// Names the end of a run, once.
    fn see_end(&mut self, view: &InstanceView) {
        let Some(exit) = view.last_exit.as_deref() else {
            return;
        };
        if self.ends.insert(view.id, exit.at_ms) == Some(exit.at_ms) {
            return;
        }
        // What ended before this daemon, and what the fleet itself has ended, is told already.
        if exit.at_ms < self.began_ms || exit.why.is_some() {
            return;
        }
        let cause = cause_of(exit);
        let unasked = matches!(view.status, Status::WaitingRestart | Status::Errored);
        if cause.is_none() && !unasked {
            return;
        }
        let message = match cause {
            Some(cause) => format!("{} ({})", cause.meaning(), exit.cause),
            None => exit.cause.to_string(),
        };
        let note = incident(view.generation, IncidentKind::Exit, cause, message);
        self.book.note(view.id, &view.spec.name, note);
        if let Some(cause) = cause {
            let message = format!("{}: {}", cause.meaning(), last_words(exit));
            self.book.amend(view.id, |report| {
                report.ended = Some(Ended { cause, message })
            });
        }
    }

    /// An instance that does not run.
    fn publish_down(&self, view: &InstanceView) {
        let exit = view.last_exit.as_deref().filter(|exit| exit.why.is_none());
        let ended = exit.and_then(|exit| {
            let cause = cause_of(exit)?;
            let message = format!("{}: {}", cause.meaning(), last_words(exit));
            Some(Ended { cause, message })
        });
        let before = self.book.report(view.id);
        self.book.publish(Report {
            ended,
            import_failures: before
                .as_ref()
                .map_or_else(Vec::new, |report| report.import_failures.clone()),
            restarts_left: before.map_or(0, |report| report.restarts_left),
            ..Report::of(view)
        });
    }
}

impl Report {
    /// Of a run that nothing is known of yet.
    pub(super) fn of(view: &InstanceView) -> Self {
        Self {
            id: view.id,
            app: Arc::clone(&view.spec.name),
            generation: view.generation,
            port: view.spec.fornax.port.unwrap_or(0),
            diagnosis: None,
            activity: None,
            ended: None,
            queue: 0,
            quiet_ms: None,
            quiet_limit_ms: 0,
            answered_in_ms: None,
            looked_at_ms: now_ms(),
            draining: false,
            import_failures: Vec::new(),
            loaded: Vec::new(),
            canary: None,
            devices: None,
            restarts_left: 0,
            incidents: VecDeque::new(),
        }
    }
}

fn cause_of(exit: &LastExit) -> Option<Cause> {
    match &exit.cause {
        ExitCause::Code(0) | ExitCause::Unknown => None,
        ExitCause::Code(_) => cause::of_exit(None, false, &exit.stderr_tail),
        ExitCause::Signal(signal) => cause::of_exit(Some(signal.0), false, &exit.stderr_tail),
        ExitCause::OomKilled => Some(Cause::OutOfRam),
        ExitCause::CouldNotStart { reason } => cause::told_by(reason),
    }
}

/// What it said last, or why it did not come to say anything.
fn last_words(exit: &LastExit) -> String {
    if let ExitCause::CouldNotStart { reason } = &exit.cause {
        return reason.clone();
    }
    let line = exit
        .stderr_tail
        .iter()
        .rev()
        .find(|line| !line.trim().is_empty());
    line.map_or_else(|| exit.cause.to_string(), |line| line.trim().to_owned())
}
