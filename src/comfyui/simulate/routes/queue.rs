//! The queue and the history: reading, deleting, interrupting, freeing.

use super::body::{self, Denied};
use crate::comfyui::simulate::jobs::FreeWish;
use crate::comfyui::simulate::shared::Shared;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let (running, waiting) = shared.jobs.queue();
    let items = |jobs: &mut dyn Iterator<Item = Value>| jobs.collect::<Vec<_>>();
    Json(json!({
        "queue_running": items(&mut running.iter().map(|job| job.item())),
        "queue_pending": items(&mut waiting.iter().map(|job| job.item())),
    }))
}

pub(super) async fn change(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
) -> Result<Response, Denied> {
    let (wish, _) = body::json(request, shared.options.body_limit()).await?;
    if wish["clear"] == true {
        shared.jobs.delete_waiting(None);
        shared.tell_queue();
    }
    if let Some(ids) = ids(&wish["delete"]) {
        shared.jobs.delete_waiting(Some(&ids));
        shared.tell_queue();
    }
    Ok(StatusCode::OK.into_response())
}

/// Always 200. A body that names another prompt than the running one changes nothing; no body means whatever runs.
pub(super) async fn interrupt(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
) -> Result<Response, Denied> {
    let bytes = body::bytes(request, shared.options.body_limit()).await?;
    let wish: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match wish["prompt_id"].as_str().filter(|id| !id.is_empty()) {
        Some(id) if shared.jobs.interrupt(Some(id)) => {
            shared.console.line(format!("Interrupting prompt {id}"))
        }
        Some(id) => shared.console.line(format!(
            "Prompt {id} is not currently running, skipping interrupt"
        )),
        None => {
            shared
                .console
                .line("Global interrupt (no prompt_id specified)");
            shared.jobs.interrupt(None);
        }
    }
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn free(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
) -> Result<Response, Denied> {
    let (wish, _) = body::json(request, shared.options.body_limit()).await?;
    shared.jobs.wish_free(FreeWish {
        models: wish["unload_models"] == true,
        memory: wish["free_memory"] == true,
    });
    Ok(StatusCode::OK.into_response())
}

pub(super) async fn history(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Denied> {
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => text
            .parse::<i64>()
            .map(|number| usize::try_from(number).ok())
            .map_err(|_| Denied::Broken),
    };
    let (most, offset) = (number("max_items")?, number("offset")?);
    Ok(Json(Value::Object(
        shared.jobs.history(|history| history.list(most, offset)),
    )))
}

pub(super) async fn history_of(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Json<Value> {
    Json(Value::Object(
        shared.jobs.history(|history| history.one(&id)),
    ))
}

pub(super) async fn change_history(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
) -> Result<Response, Denied> {
    let (wish, _) = body::json(request, shared.options.body_limit()).await?;
    shared.jobs.history(|history| {
        if wish["clear"] == true {
            history.clear();
        }
        for id in ids(&wish["delete"]).into_iter().flatten() {
            history.delete(id);
        }
    });
    Ok(StatusCode::OK.into_response())
}

/// The ids in a list; `None` if it is no list.
fn ids(list: &Value) -> Option<HashSet<&str>> {
    Some(list.as_array()?.iter().filter_map(Value::as_str).collect())
}
