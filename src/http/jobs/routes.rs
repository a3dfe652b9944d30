//! New jobs, questions about them, cancels; and instances that are to take no more.

use super::super::answer::{self, shown};
use super::super::app::App;
use super::super::health::service_name;
use super::super::problem::Problem;
use super::super::services;
use super::intake;
use crate::core::job::JobState;
use crate::daemon::command::Command;
use crate::jobs::{self, Cancelled, EngineStatus, Record};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// Jobs of one list where no number is given, and at most.
const LISTED: u32 = 100;
const MOST_LISTED: u32 = 1000;

/// `POST /jobs`.
pub(in crate::http) async fn submit(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    let Ok(_turn) = app.intake.acquire().await else {
        return Err(Problem::Busy);
    };
    let new = intake::read(&app, request).await?;
    let accepted = app.jobs.submit(new).await?;
    let status = if accepted.known {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut body = jobs::told(&accepted.record);
    body["known"] = Value::from(accepted.known);
    let mut response = answer::json(status, &body);
    if let Ok(place) = HeaderValue::from_str(&format!("/jobs/{}", accepted.record.id)) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// The id in the path: one of ours, else there is no such job.
pub(super) fn job_id(id: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let id = id
        .map(|Path(id)| id)
        .map_err(|rejection| Problem::parameter("id", rejection.body_text()))?;
    known_form(&id)?;
    Ok(id)
}

/// Ids are lower-case UUIDs: nothing else is looked for, in the store or among files.
pub(super) fn known_form(id: &str) -> Result<(), Problem> {
    let is_id = uuid::Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id);
    if is_id {
        Ok(())
    } else {
        Err(Problem::Job { id: shown(id) })
    }
}

/// A job that there must be.
pub(super) async fn find(app: &App, id: &str) -> Result<Record, Problem> {
    let none = || Problem::Job { id: shown(id) };
    if !app.jobs.has_store() {
        return Err(none());
    }
    app.jobs.get(id).await?.ok_or_else(none)
}

/// `GET /jobs/{id}`.
pub(in crate::http) async fn one(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let record = find(&app, &job_id(id)?).await?;
    let mut body = jobs::told(&record);
    if record.state() == JobState::Queued
        && let Some(status) = app.jobs.status().await
    {
        body["waits_for"] = Value::from(waits_for(&status));
    }
    Ok(answer::json(StatusCode::OK, &body))
}

/// Why a job waits, in words.
fn waits_for(status: &EngineStatus) -> String {
    if let Some(trouble) = &status.trouble {
        return trouble.clone();
    }
    let all = &status.instances;
    let (mut free, mut draining) = (0, 0);
    for instance in all {
        free += usize::from(instance.placeable);
        draining += usize::from(instance.draining);
    }
    match (all.len(), free) {
        (0, _) => "no ComfyUI runs on this machine; start one with `fornax up`".to_owned(),
        (count, 0) if draining == count => format!(
            "all {count} ComfyUI instances are draining; `fornax drain --undo NAME` ends that"
        ),
        (count, 0) => {
            format!("none of the {count} ComfyUI instances that run is healthy and takes jobs")
        }
        (_, _) => format!(
            "its turn: {} jobs wait, {} are out",
            status.queued, status.out
        ),
    }
}

/// `GET /jobs?state=queued,running&limit=100&before=MS`.
pub(in crate::http) async fn list(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Response, Problem> {
    let (mut states, mut limit, mut before) = (Vec::new(), LISTED, u64::MAX);
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(&uri)
        .map_err(|rejection| Problem::parameter("?", rejection.body_text()))?;
    for (name, value) in pairs.0 {
        match name.as_str() {
            "state" => {
                for word in value.split(',').filter(|word| !word.is_empty()) {
                    states.push(JobState::parse(word).ok_or_else(|| {
                        let words: Vec<&str> =
                            JobState::ALL.iter().map(|state| state.as_str()).collect();
                        Problem::parameter("state", format!("there are {}", words.join(", ")))
                    })?);
                }
            }
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MOST_LISTED).contains(limit))
                    .ok_or_else(|| {
                        Problem::parameter(
                            "limit",
                            format!("it is a number from 1 to {MOST_LISTED}"),
                        )
                    })?;
            }
            "before" => {
                before = value.parse().map_err(|_| {
                    Problem::parameter("before", "it is a moment in milliseconds since 1970")
                })?;
            }
            other => {
                return Err(Problem::parameter(
                    other,
                    "it is not known; there are state, limit, before",
                ));
            }
        }
    }
    let records = if app.jobs.has_store() {
        app.jobs.list(states, before, limit).await?
    } else {
        Vec::new()
    };
    let told: Vec<Value> = records.iter().map(jobs::told).collect();
    let body = json!({"count": told.len(), "jobs": told, "timestamp": answer::timestamp()});
    Ok(answer::json(StatusCode::OK, &body))
}

/// `DELETE /jobs/{id}`.
pub(in crate::http) async fn cancel(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = job_id(id)?;
    if !app.jobs.has_store() {
        return Err(Problem::Job { id });
    }
    let (status, state, message) = match app.jobs.cancel(&id).await? {
        Cancelled::Unknown => return Err(Problem::Job { id }),
        Cancelled::Yes(state) if state.is_settled() => (StatusCode::OK, state, "cancelled"),
        Cancelled::Yes(state) => (
            StatusCode::ACCEPTED,
            state,
            "it is being taken back from its instance",
        ),
        Cancelled::TooLate(state) => (StatusCode::CONFLICT, state, "it was done with before"),
    };
    let body =
        json!({"id": id, "state": state, "message": message, "timestamp": answer::timestamp()});
    Ok(answer::json(status, &body))
}

/// `POST /services/{name}/drain`: it finishes what it has and takes no more.
pub(in crate::http) async fn drain(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    set_drain(&app, &service_name(name)?, true).await
}

/// `DELETE /services/{name}/drain`: it takes jobs again.
pub(in crate::http) async fn undrain(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    set_drain(&app, &service_name(name)?, false).await
}

async fn set_drain(app: &App, name: &str, on: bool) -> Result<Response, Problem> {
    let found = services::find(&app.handle.snapshot(), name)?;
    for service in &found.services {
        let flag = Command::SetFlag {
            id: service.view.id,
            key: crate::core::spec::app::DRAINING,
            value: Value::from(on),
        };
        app.handle
            .call(flag)
            .await
            .map_err(|error| Problem::Refused(error.to_string()))?;
    }
    let depth = match app.jobs.has_store() {
        true => app.jobs.status().await,
        false => None,
    };
    let ours: u32 = depth
        .map(|status| {
            let of = |name: &str| found.services.iter().any(|service| service.name == name);
            let instances = status
                .instances
                .iter()
                .filter(|instance| of(&instance.name));
            instances.map(|instance| instance.ours).sum()
        })
        .unwrap_or_default();
    let body = json!({
        "service": found.name,
        "draining": on,
        "jobs": ours,
        "timestamp": answer::timestamp(),
    });
    Ok(answer::json(StatusCode::OK, &body))
}
