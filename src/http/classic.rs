//! The routes that the web monitor of the machine before this one asks (comfyui-facts 2.3): the same names and shapes, bounded
//! and checked; what changes something wants the token.

use super::answer::shown;
use super::app::{App, Caller};
use super::problem::Problem;
use super::query::LogQuery;
use super::services::{self, Found};
use super::sources::Scope;
use super::{answer, follow, logs};
use crate::core::ids::Stream;
use crate::daemon::command::Command;
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Lines where no number is given: `/pm2/logs`, `/comfyui/logs`.
const LINES: (usize, usize) = (50, 100);
/// The most lines told at once.
const MOST: usize = 10_000;

/// Parameters by name; one that is not known, or given twice, is an error.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|rejection| Problem::parameter("?", rejection.body_text()))?;
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let why = format!("it is not known; there are {}", known.join(", "));
                return Err(Problem::parameter(name, why));
            }
            if pairs[..at].iter().any(|(before, _)| before == name) {
                return Err(Problem::parameter(name, "it is given twice; give it once"));
            }
        }
        Ok(Self(pairs))
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    fn lines(&self, default: usize) -> Result<usize, Problem> {
        let Some(text) = self.get("lines") else {
            return Ok(default);
        };
        let number = text.parse::<usize>().ok();
        number
            .filter(|lines| (1..=MOST).contains(lines))
            .ok_or_else(|| {
                Problem::parameter(
                    "lines",
                    format!("it must be a whole number from 1 to {MOST}"),
                )
            })
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name) {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(Problem::parameter(name, "it must be true or false")),
        }
    }
}

/// `GET /pm2/list`: what PM2's list has of each app, less its environment and its arguments.
pub(super) async fn list(State(app): State<Arc<App>>) -> Response {
    let snapshot = app.handle.snapshot();
    let told: Vec<Value> = snapshot
        .instances
        .iter()
        .map(|view| {
            let usage = app.handle.usage(view);
            json!({
                "pid": view.pid.unwrap_or(0),
                "name": &*view.spec.name,
                "pm_id": view.id,
                "monit": {"memory": usage.memory, "cpu": usage.cpu},
                "pm2_env": {
                    "name": &*view.spec.name,
                    "namespace": &*view.spec.namespace,
                    "version": &*view.version,
                    "status": view.status,
                    "pm_id": view.id,
                    "pm_uptime": view.started_at_ms,
                    "created_at": view.created_at_ms,
                    "restart_time": view.restarts,
                    "unstable_restarts": view.unstable_restarts,
                    "exit_code": view.exit_code,
                    "exec_mode": if view.spec.cluster { "cluster_mode" } else { "fork_mode" },
                },
            })
        })
        .collect();
    answer::json(StatusCode::OK, &Value::from(told))
}

/// `GET /pm2/logs?service=&lines=50&stream=false`: text.
pub(super) async fn service_logs(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Parameters::read(&uri, &["service", "lines", "stream"])?;
    let Some(name) = asked.get("service") else {
        let why = "it is needed: the name of a service, as /services lists them";
        return Err(Problem::parameter("service", why));
    };
    let found = services::find(&app.handle.snapshot(), name)?;
    let (lines, follow) = (asked.lines(LINES.0)?, asked.flag("stream", false)?);
    tell(&app, caller, found, None, lines, follow, &method, &headers).await
}

/// `GET /comfyui/logs?gpu=0&type=server&lines=100`: text, and what comes later too unless `stream=false`.
pub(super) async fn comfyui_logs(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Parameters::read(&uri, &["gpu", "type", "lines", "stream"])?;
    let gpu = asked.get("gpu").unwrap_or("0");
    let name = match gpu.parse::<u32>() {
        Ok(index) => format!("comfyui-gpu{index}"),
        Err(_) => {
            let why = "it must be the index of a GPU, from 0";
            return Err(Problem::parameter("gpu", why));
        }
    };
    let stream = match asked.get("type") {
        None | Some("server") => None,
        Some("output") => Some(Stream::Out),
        Some("error") => Some(Stream::Err),
        Some(_) => {
            let why = "it must be server, output or error";
            return Err(Problem::parameter("type", why));
        }
    };
    let found = services::find(&app.handle.snapshot(), &name)?;
    let (lines, follow) = (asked.lines(LINES.1)?, asked.flag("stream", true)?);
    tell(
        &app, caller, found, stream, lines, follow, &method, &headers,
    )
    .await
}

#[allow(clippy::too_many_arguments)] // what a request is made of
async fn tell(
    app: &App,
    caller: Caller,
    found: Found,
    stream: Option<Stream>,
    lines: usize,
    follow: bool,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let query = LogQuery {
        limit: lines,
        stream,
        since_ms: None,
        grep: None,
        text: true,
        follow,
    };
    let scope = Scope::of(found, stream);
    if follow {
        return follow::plain(app, caller, scope, query, method).await;
    }
    logs::answer(app, caller, scope, query, method, headers).await
}

/// `POST /restart/service?service=`: restarts it, as `pm2 restart` does. Answers once that has begun.
pub(super) async fn restart_service(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Response, Problem> {
    let asked = Parameters::read(&uri, &["service"])?;
    let Some(name) = asked.get("service") else {
        let why = "it is needed: the name of a service, as /services lists them";
        return Err(Problem::parameter("service", why));
    };
    let found = services::find(&app.handle.snapshot(), name)?;
    for service in &found.services {
        restart(&app, service.view.id).await;
    }
    let body = json!({
        "message": format!("{} is being restarted", shown(&found.name)),
        "service": found.name,
        "timestamp": answer::timestamp(),
    });
    Ok(answer::json(StatusCode::OK, &body))
}

/// `POST /restart/machine`: restarts every service that is enabled and was not stopped by a person. The daemon goes on, and
/// with it this port: what the machine before did, ending the container, is for whoever runs the container.
pub(super) async fn restart_machine(
    State(app): State<Arc<App>>,
    uri: Uri,
) -> Result<Response, Problem> {
    Parameters::read(&uri, &[])?;
    let all = services::list(&app.handle.snapshot());
    let running = all
        .iter()
        .filter(|service| service.counts() && service.view.pid.is_some());
    let mut names = Vec::new();
    for service in running {
        restart(&app, service.view.id).await;
        names.push(service.name.clone());
    }
    let body = json!({
        "message": format!("{} services are being restarted", names.len()),
        "services": names,
        "timestamp": answer::timestamp(),
    });
    Ok(answer::json(StatusCode::OK, &body))
}

async fn restart(app: &App, id: crate::core::ids::PmId) {
    // It may have been deleted meanwhile; its state tells what came of it.
    let command = Command::Restart {
        id,
        env: Map::new(),
    };
    let _ = app.handle.begin(command).await;
}

/// `GET` and `POST /refresh-status`: states are told as they are at any time, so there is nothing to be refreshed.
pub(super) async fn refresh(State(app): State<Arc<App>>) -> Response {
    let body = json!({
        "message": "every state is told as it is now",
        "machine_id": app.machine_id,
        "timestamp": answer::timestamp(),
    });
    answer::json(StatusCode::OK, &body)
}
