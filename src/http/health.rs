//! `/health`, `/ready` and `/services/{name}/health`.
//!
//! The machine is healthy, and ready, when every enabled service is healthy; a one-shot that has completed is. What is switched
//! off does not count. What is enabled and does not run counts against it, even if a person stopped it: work sent here would
//! not be done. A machine without an enabled service is healthy, and its answer says that there is none.

use super::answer;
use super::app::{App, Caller};
use super::gate::Access;
use super::problem::Problem;
use super::services::{self, Service};
use super::view;
use super::wait::Wait;
use crate::core::service::ServiceStatus;
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;

/// 200 or 503.
fn code(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// The machine in one sentence.
fn summary(all: &[Service]) -> String {
    let counting = all.iter().filter(|service| service.counts());
    let (count, bad): (usize, Vec<&Service>) =
        counting.fold((0, Vec::new()), |(count, mut bad), service| {
            if !service.is_healthy() {
                bad.push(service);
            }
            (count + 1, bad)
        });
    match (count, bad.as_slice()) {
        (0, _) => "no service is enabled on this machine".to_owned(),
        (count, []) => format!("every enabled service is healthy ({count})"),
        (count, bad) => {
            let names: Vec<String> = bad
                .iter()
                .take(10)
                .map(|service| format!("{} is {}", service.name, service.status().as_str()))
                .collect();
            let more = if bad.len() > 10 { ", …" } else { "" };
            format!(
                "{} of {count} enabled services not healthy: {}{more}",
                bad.len(),
                names.join(", ")
            )
        }
    }
}

fn all_healthy(all: &[Service]) -> bool {
    all.iter()
        .all(|service| !service.counts() || service.is_healthy())
}

/// `GET /health`.
pub(super) async fn health(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let all = services::list(&app.handle.snapshot());
    let healthy = all_healthy(&all);
    let word = if healthy { "healthy" } else { "unhealthy" };
    if caller.access == Access::Words {
        let body = json!({"healthy": healthy, "status": word, "timestamp": answer::timestamp()});
        return answer::json(code(healthy), &body);
    }
    let told: Vec<Value> = all
        .iter()
        .map(|service| {
            let mut told = json!({
                "service": service.name,
                "healthy": service.is_healthy(),
                "status": service.status(),
                "enabled": service.view.spec.fornax.enabled,
            });
            if service.counts() && !service.is_healthy() {
                told["error"] = Value::from(&*service.view.service.message);
            }
            told
        })
        .collect();
    let body = json!({
        "healthy": healthy,
        "status": word,
        "message": summary(&all),
        "timestamp": answer::timestamp(),
        "machine_version": env!("CARGO_PKG_VERSION"),
        "services": told,
    });
    answer::json(code(healthy), &body)
}

/// `GET /ready`.
pub(super) async fn ready(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let all = services::list(&app.handle.snapshot());
    let ready = all_healthy(&all);
    let mut body = json!({"ready": ready, "timestamp": answer::timestamp()});
    if caller.access == Access::Full {
        let waiting: Vec<Value> = all
            .iter()
            .filter(|service| service.counts() && !service.is_healthy())
            .map(|service| {
                json!({
                    "service": service.name,
                    "status": service.status(),
                    "message": service.view.service.message,
                })
            })
            .collect();
        body["message"] = Value::from(summary(&all));
        body["waiting_for"] = Value::from(waiting);
    }
    answer::json(code(ready), &body)
}

/// `GET /services/{name}/health`.
pub(super) async fn service(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let wanted = service_name(name)?;
    if let Some(wait) = Wait::read(&uri)? {
        wait.until(&app, &caller, &wanted).await?;
    }
    let found = services::find(&app.handle.snapshot(), &wanted)?;
    let Some(worst) = found.worst() else {
        // A name that is found has an instance.
        return Err(Problem::Route { path: wanted });
    };
    let now_ms = answer::now_ms();
    let healthy = worst.status() == ServiceStatus::Healthy;
    let mut body = json!({
        "service": found.name,
        "healthy": healthy,
        "status": worst.status(),
        "timestamp": answer::iso(now_ms),
    });
    match found.services.as_slice() {
        [one] => {
            for (key, value) in view::service(one, &app.handle, now_ms) {
                body[key] = value;
            }
        }
        several => {
            let told = several
                .iter()
                .map(|service| Value::Object(view::service(service, &app.handle, now_ms)));
            body["message"] = Value::from(format!(
                "{}: {} (the worst of {} instances)",
                worst.name,
                worst.view.service.message,
                several.len()
            ));
            body["instances"] = told.collect();
        }
    }
    Ok(answer::json(code(healthy), &body))
}

/// The name in the path.
pub(super) fn service_name(name: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    name.map(|Path(name)| name)
        .map_err(|rejection| Problem::parameter("name", rejection.body_text()))
}
