//! The fleet's handle, and its book: what is known of each instance, over its runs.

use super::rollout_file::{RollError, Wanted};
use super::view::{Facts, INCIDENTS, Incident, IncidentKind, Report, View};
use crate::core::ids::{Generation, PmId};
use crate::core::monitor::cause::Cause;
use crate::core::monitor::facts::Carried;
use crate::core::rollout::Rollout;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Orders waiting for the fleet; further ones are refused, and a report of progress is then simply not counted.
const ORDERS: usize = 256;

/// What may be asked of the fleet.
#[derive(Debug)]
pub(super) enum Order {
    /// Give it no new jobs, or give it some again.
    Drain(PmId, bool),
    /// A job of it goes on: its worker has seen a step (done, of so many) or another event.
    Progress(PmId, Option<(u64, u64)>),
    /// Run the canary job now.
    Canary(PmId),
    /// Bring the instances of a workspace to another build; answered once that has begun, or why it has not.
    Roll(Wanted, oneshot::Sender<Result<Rollout, RollError>>),
}

/// The fleet, from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fleet {
    views: watch::Receiver<Arc<View>>,
    orders: mpsc::Sender<Order>,
}

impl Fleet {
    /// The latest reports. Never waits, and never causes a probe.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.views.borrow())
    }

    /// To be woken up when a report changes.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// Marks an instance as one that takes no new jobs, or takes them again. What it runs, it finishes. `false`: the fleet has
    /// too much to do; ask again.
    pub fn drain(&self, id: PmId, on: bool) -> bool {
        self.orders.try_send(Order::Drain(id, on)).is_ok()
    }

    /// Tells that a job of an instance goes on: a worker sees the events of its own jobs, which ComfyUI tells nobody else.
    pub fn progress(&self, id: PmId, step: Option<(u64, u64)>) {
        // One report less is nothing: the next one comes with the next step.
        let _ = self.orders.try_send(Order::Progress(id, step));
    }

    /// Begins to bring the instances of a workspace to another build. Answers when it has begun; [`View::rollout`] tells how it
    /// goes on.
    ///
    /// # Errors
    /// It is refused, and nothing has been changed.
    pub async fn roll(&self, wanted: Wanted) -> Result<Rollout, RollError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.try_send(Order::Roll(wanted, reply));
        sent.map_err(|_| RollError::Later)?;
        answer.await.map_err(|_| RollError::Later)?
    }

    /// Has the canary job run soon, if nothing else runs. `false`: ask again.
    pub fn canary(&self, id: PmId) -> bool {
        self.orders.try_send(Order::Canary(id)).is_ok()
    }
}

/// What serving takes.
#[derive(Debug)]
pub struct FleetServer {
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) orders: mpsc::Receiver<Order>,
}

/// A fleet that is not served yet.
pub fn open() -> (Fleet, FleetServer) {
    let (views, seen) = watch::channel(Arc::<View>::default());
    let (sender, orders) = mpsc::channel(ORDERS);
    let fleet = Fleet {
        views: seen,
        orders: sender,
    };
    (fleet, FleetServer { views, orders })
}

/// What is kept of an instance over its runs.
#[derive(Debug)]
pub(super) struct Kept {
    pub carried: Carried,
    pub draining: bool,
    pub incidents: VecDeque<Incident>,
}

/// What is known of all. A lock and not a task: it is held for map accesses, by tasks of one thread.
#[derive(Debug, Clone)]
pub(super) struct Book {
    /// What all monitors count from: what a run leaves to the next has its times.
    epoch: Instant,
    kept: Arc<Mutex<BTreeMap<PmId, Kept>>>,
    views: watch::Sender<Arc<View>>,
}

impl Book {
    pub fn new(views: watch::Sender<Arc<View>>) -> Self {
        Self {
            epoch: Instant::now(),
            kept: Arc::default(),
            views,
        }
    }

    /// What the clocks of all monitors count from.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Does something with what is kept of an instance.
    pub fn with<T>(
        &self,
        id: PmId,
        new: impl FnOnce() -> Carried,
        work: impl FnOnce(&mut Kept) -> T,
    ) -> T {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.entry(id).or_insert_with(|| Kept {
            carried: new(),
            draining: false,
            incidents: VecDeque::new(),
        });
        work(kept)
    }

    /// Writes down what happened; the oldest goes. Told to the daemon's log too.
    pub fn note(&self, id: PmId, app: &str, incident: Incident) {
        let (instance, generation) = (id.0, incident.generation.number());
        let cause = incident.cause.map(Cause::as_str);
        let (what, said) = (incident.kind.as_str(), &incident.message);
        match incident.kind {
            IncidentKind::Ill | IncidentKind::GivenUp => {
                tracing::error!(app, instance, generation, what, cause, said, "comfyui");
            }
            IncidentKind::Cure | IncidentKind::Import | IncidentKind::Job | IncidentKind::Exit => {
                tracing::warn!(app, instance, generation, what, cause, said, "comfyui");
            }
            IncidentKind::Start | IncidentKind::Cured => {
                tracing::info!(app, instance, generation, what, cause, said, "comfyui");
            }
        }
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get_mut(&id) {
            kept.incidents.push_back(incident);
            while kept.incidents.len() > INCIDENTS {
                kept.incidents.pop_front();
            }
        }
    }

    /// Replaces the report of an instance.
    pub fn publish(&self, mut report: Report) {
        {
            let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = all.get(&report.id) {
                report.draining = kept.draining;
                report.incidents = kept.incidents.clone();
            }
        }
        self.views.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.instances.insert(report.id, Arc::new(report));
        });
    }

    /// Changes the report of an instance that has one.
    pub fn amend(&self, id: PmId, change: impl FnOnce(&mut Report)) {
        let Some(report) = self.views.borrow().instances.get(&id).cloned() else {
            return;
        };
        let mut report = Report::clone(&report);
        change(&mut report);
        self.publish(report);
    }

    /// Tells everybody how a rollout stands.
    pub fn rollout(&self, state: &Rollout) {
        let state = Some(Arc::new(state.clone()));
        self.views
            .send_modify(|view| Arc::make_mut(view).rollout = state);
    }

    /// Tells everybody what the files of a workspace tell.
    pub fn facts(&self, facts: &Facts) {
        let facts = Some(Arc::new(facts.clone()));
        self.views
            .send_modify(|view| Arc::make_mut(view).facts = facts);
    }

    /// The report of an instance.
    pub fn report(&self, id: PmId) -> Option<Arc<Report>> {
        self.views.borrow().instances.get(&id).cloned()
    }

    /// Marks an instance as draining, or not.
    pub fn drain(&self, id: PmId, on: bool) {
        {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(kept) = all.get_mut(&id) else {
                return;
            };
            kept.draining = on;
        }
        self.amend(id, |_| ());
    }

    /// Forgets an instance that is no longer known.
    pub fn forget(&self, id: PmId) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&id);
        drop(all);
        self.views.send_modify(|view| {
            Arc::make_mut(view).instances.remove(&id);
        });
    }

    /// Who is known.
    pub fn ids(&self) -> Vec<PmId> {
        let all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().copied().collect()
    }
}

/// An incident of now.
pub(super) fn incident(
    generation: Generation,
    kind: IncidentKind,
    cause: Option<Cause>,
    message: String,
) -> Incident {
    Incident {
        at_ms: now_ms(),
        generation,
        kind,
        cause,
        message,
    }
}

/// Now, in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
