//! `/jobs/{id}/events` and `/events`: what happens, as server-sent events.

use super::super::answer;
use super::super::app::{App, Caller};
use super::super::problem::Problem;
use super::super::services;
use super::routes::job_id;
use crate::core::service::ServiceStatus;
use crate::daemon::snapshot::Snapshot;
use crate::jobs::{JobNews, WantsPreviews, What, state_news};
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A comment is sent when nothing else was for so long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client is told to wait before it connects again, in milliseconds.
const RETRY: &str = "retry: 1000\n\n";

/// Names an event: which daemon, and its number there.
fn id_of(life: u64, seq: u64) -> String {
    format!("{life}.{seq}")
}

/// How far a client has come, if that was with this daemon.
fn last_seq(headers: &HeaderMap, life: u64) -> u64 {
    let text = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok());
    let parsed = text.and_then(|text| text.split_once('.'));
    match parsed {
        Some((of, seq)) if of == life.to_string() => seq.parse().unwrap_or(0),
        _ => 0,
    }
}

fn stream_of(body: Body) -> Response {
    answer::with_type(StatusCode::OK, "text/event-stream", body)
}

/// One event as text; `None` for what is not wanted.
fn text(life: u64, news: &JobNews, previews: bool) -> Option<(String, bool)> {
    let (name, mut data, last) = match &news.what {
        What::State(state) => (
            state.state.as_str(),
            serde_json::to_value(state).unwrap_or_default(),
            state.state.is_settled(),
        ),
        What::Progress(progress) => (
            "progress",
            serde_json::to_value(progress).unwrap_or_default(),
            false,
        ),
        What::Preview {
            node,
            media_type,
            image,
        } if previews => {
            let data = json!({"node": node, "type": media_type, "data": STANDARD.encode(image)});
            ("preview", data, false)
        }
        What::Preview { .. } => return None,
    };
    data["job"] = Value::from(&*news.job);
    data["at"] = Value::from(answer::iso(news.at_ms));
    let id = id_of(life, news.seq);
    Some((format!("id: {id}\nevent: {name}\ndata: {data}\n\n"), last))
}

/// A follower of one job.
struct JobFeed {
    app: Arc<App>,
    job: String,
    life: u64,
    seq: u64,
    news: broadcast::Receiver<Arc<JobNews>>,
    ready: VecDeque<String>,
    over: bool,
    sent_at: Instant,
    closing: CancellationToken,
    previews: Option<WantsPreviews>,
    _seat: OwnedSemaphorePermit,
}

/// `GET /jobs/{id}/events`: its state now, then whatever happens, until it is settled.
pub(in crate::http) async fn of_job(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = job_id(id)?;
    let previews = wants_previews(&uri)?;
    if !app.jobs.has_store() {
        return Err(Problem::Job { id: job });
    }
    let seat = Arc::clone(&app.followers)
        .try_acquire_owned()
        .map_err(|_| Problem::Busy)?;
    let life = app.handle.info.started_at_ms;
    // First of all, so that nothing falls between.
    let news = app.jobs.news();
    let mut feed = JobFeed {
        life,
        seq: last_seq(&headers, life),
        news,
        ready: VecDeque::from([RETRY.to_owned()]),
        over: false,
        sent_at: Instant::now(),
        closing: caller.closing,
        previews: previews.then(|| app.jobs.want_previews()),
        app,
        job,
        _seat: seat,
    };
    if !feed.catch_up().await? {
        return Err(Problem::Job { id: feed.job });
    }
    if method == Method::HEAD {
        return Ok(stream_of(Body::empty()));
    }
    let chunks = futures_util::stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Some((Ok::<String, Infallible>(chunk), feed))
    });
    Ok(stream_of(Body::from_stream(chunks)))
}

fn wants_previews(uri: &Uri) -> Result<bool, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|rejection| Problem::parameter("?", rejection.body_text()))?;
    let mut previews = false;
    for (name, value) in pairs.0 {
        match (name.as_str(), value.as_str()) {
            ("preview", "true") => previews = true,
            ("preview", "false") => previews = false,
            ("preview", _) => return Err(Problem::parameter("preview", "it is true or false")),
            (other, _) => {
                return Err(Problem::parameter(
                    other,
                    "it is not known; there is preview",
                ));
            }
        }
    }
    Ok(previews)
}

impl JobFeed {
    /// What was missed, or the state as it is now. `false`: there is no such job.
    async fn catch_up(&mut self) -> Result<bool, Problem> {
        let Some(watched) = self.app.jobs.watch(&self.job, self.seq).await? else {
            return Ok(false);
        };
        let resumed = self.seq > 0 && !watched.past.is_empty();
        if resumed {
            for news in &watched.past {
                self.take(news);
            }
        } else {
            let now = JobNews {
                seq: watched.seq.max(1),
                job: self.job.as_str().into(),
                at_ms: answer::now_ms(),
                what: What::State(state_news(&watched.record)),
            };
            self.take(&now);
        }
        self.seq = self.seq.max(watched.seq);
        Ok(true)
    }

    fn take(&mut self, news: &JobNews) {
        self.seq = self.seq.max(news.seq);
        if let Some((text, last)) = text(self.life, news, self.previews.is_some()) {
            self.ready.push_back(text);
            self.over |= last;
        }
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                self.sent_at = Instant::now();
                return Some(text);
            }
            if self.over {
                return None;
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                () = tokio::time::sleep_until(self.sent_at + HEARTBEAT) => {
                    self.sent_at = Instant::now();
                    return Some(": heartbeat\n\n".to_owned());
                }
                news = self.news.recv() => match news {
                    Ok(news) if *news.job == *self.job && news.seq > self.seq => self.take(&news),
                    Ok(_) => {}
                    // Slower than the news: told anew where it is.
                    Err(RecvError::Lagged(_)) => {
                        if !self.catch_up().await.unwrap_or(false) {
                            return None;
                        }
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}

/// A follower of the machine.
struct MachineFeed {
    app: Arc<App>,
    life: u64,
    /// The job event told last.
    seq: u64,
    told: BTreeMap<String, (ServiceStatus, String)>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    news: broadcast::Receiver<Arc<JobNews>>,
    ready: VecDeque<String>,
    sent_at: Instant,
    closing: CancellationToken,
    _seat: OwnedSemaphorePermit,
}

/// `GET /events`: every service's state now, then changes of services and of jobs. `Last-Event-ID` brings the states of jobs that
/// were told since, or `missed` where they are not kept: it is of another daemon, or too long ago.
pub(in crate::http) async fn of_machine(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let seat = Arc::clone(&app.followers)
        .try_acquire_owned()
        .map_err(|_| Problem::Busy)?;
    if method == Method::HEAD {
        return Ok(stream_of(Body::empty()));
    }
    let life = app.handle.info.started_at_ms;
    let mut feed = MachineFeed {
        life,
        seq: last_seq(&headers, life),
        told: BTreeMap::new(),
        snapshots: app.handle.snapshots.clone(),
        news: app.jobs.news(),
        ready: VecDeque::from([RETRY.to_owned()]),
        sent_at: Instant::now(),
        closing: caller.closing,
        app,
        _seat: seat,
    };
    feed.compare();
    if headers.contains_key("last-event-id") {
        if feed.seq > 0 {
            feed.catch_up().await;
        } else {
            feed.missed();
        }
    }
    let chunks = futures_util::stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Some((Ok::<String, Infallible>(chunk), feed))
    });
    Ok(stream_of(Body::from_stream(chunks)))
}

impl MachineFeed {
    /// Tells what is not as it was told last.
    fn compare(&mut self) {
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        let mut now = BTreeMap::new();
        for service in services::list(&snapshot) {
            let state = &service.view.service;
            let draining = service.view.spec.draining;
            let told = (
                state.status,
                format!(
                    "{}{}",
                    state.message,
                    if draining { " (draining)" } else { "" }
                ),
            );
            if self.told.get(&service.name) != Some(&told) {
                let data = json!({
                    "service": service.name,
                    "status": state.status,
                    "healthy": state.status == ServiceStatus::Healthy,
                    "draining": draining,
                    "message": state.message,
                    "since": answer::iso(state.since_ms),
                    "at": answer::timestamp(),
                });
                self.ready
                    .push_back(format!("event: service\ndata: {data}\n\n"));
            }
            now.insert(service.name, told);
        }
        for name in self.told.keys().filter(|name| !now.contains_key(*name)) {
            let data = json!({"service": name, "at": answer::timestamp()});
            self.ready
                .push_back(format!("event: removed\ndata: {data}\n\n"));
        }
        self.told = now;
    }

    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                self.sent_at = Instant::now();
                return Some(text);
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                () = tokio::time::sleep_until(self.sent_at + HEARTBEAT) => {
                    self.sent_at = Instant::now();
                    return Some(": heartbeat\n\n".to_owned());
                }
                changed = self.snapshots.changed() => match changed {
                    Ok(()) => self.compare(),
                    Err(_) => return None,
                },
                news = self.news.recv() => match news {
                    Ok(news) => self.take(&news),
                    // Slower than the news: told what is kept of it.
                    Err(RecvError::Lagged(_)) => self.catch_up().await,
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    /// A job's state, unless it has been told.
    fn take(&mut self, news: &JobNews) {
        let What::State(state) = &news.what else {
            return;
        };
        if news.seq <= self.seq {
            return;
        }
        self.seq = news.seq;
        let mut data = serde_json::to_value(state).unwrap_or_default();
        data["job"] = Value::from(&*news.job);
        data["at"] = Value::from(answer::iso(news.at_ms));
        let id = id_of(self.life, news.seq);
        self.ready
            .push_back(format!("id: {id}\nevent: job\ndata: {data}\n\n"));
    }

    /// What was told since the last one.
    async fn catch_up(&mut self) {
        let since = match self.app.jobs.has_store() {
            true => self.app.jobs.since(self.seq).await.unwrap_or_default(),
            false => return,
        };
        if since.missed {
            self.missed();
        }
        for news in &since.states {
            self.take(news);
        }
    }

    fn missed(&mut self) {
        let data = json!({"at": answer::timestamp()});
        self.ready
            .push_back(format!("event: missed\ndata: {data}\n\n"));
    }
}
