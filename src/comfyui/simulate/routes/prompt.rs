//! `POST /prompt`: checks a graph and queues it. `GET /prompt`: how many are queued or running.

use super::body::{self, Denied};
use super::lists;
use crate::comfyui::simulate::jobs::{Job, QueueRefusal};
use crate::comfyui::simulate::refusal::Refusal;
use crate::comfyui::simulate::shared::Shared;
use crate::comfyui::simulate::validate;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Number, Value, json};
use std::sync::Arc;

pub(super) async fn remaining(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"exec_info": {"queue_remaining": shared.jobs.remaining()}}))
}

pub(super) async fn submit(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
) -> Result<Response, Denied> {
    let (submission, bytes) = body::json(request, shared.options.body_limit()).await?;
    shared.console.line("got prompt");
    // Failed submissions count too: the number is taken before the check.
    let number = number(&shared, &submission)?;
    let Some(prompt) = submission.get("prompt") else {
        return refused(&shared, Refusal::no_prompt());
    };
    let Value::Object(mut prompt) = prompt.clone() else {
        return Err(Denied::Broken);
    };
    let targets = submission
        .get("partial_execution_targets")
        .and_then(Value::as_array);
    let targets: Option<Vec<String>> = targets.map(|ids| {
        ids.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    });
    let valid =
        match validate::validate(&mut prompt, &lists::catalogue(&shared), targets.as_deref()) {
            Ok(valid) => valid,
            Err(refusal) => return refused(&shared, refusal),
        };
    let id = match submission.get("prompt_id") {
        Some(Value::String(id)) => id.clone(),
        Some(other) => other.to_string(),
        None => uuid::Uuid::new_v4().to_string(),
    };
    let job = Job {
        number: number.clone(),
        id: id.clone(),
        prompt,
        extra: extra(&submission),
        outputs: valid.outputs,
        bytes,
    };
    let tell = |remaining| shared.clients.broadcast_status(remaining);
    match shared.jobs.push(job, tell) {
        Ok(()) => Ok(Json(
            json!({"prompt_id": id, "number": number, "node_errors": valid.node_errors}),
        )
        .into_response()),
        Err(QueueRefusal::Clash) => Err(Denied::Broken),
        Err(QueueRefusal::Full) => Err(Denied::QueueFull),
    }
}

/// The number asked for, as a float, or the next one.
fn number(shared: &Shared, submission: &Value) -> Result<Number, Denied> {
    match submission.get("number") {
        Some(wanted) => wanted
            .as_f64()
            .and_then(Number::from_f64)
            .ok_or(Denied::Broken),
        None => Ok(shared
            .jobs
            .next_number(submission.get("front").is_some_and(|front| front == true))),
    }
}

/// What came with the prompt, and the client's id.
fn extra(submission: &Value) -> Map<String, Value> {
    let mut extra = submission
        .get("extra_data")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    if let Some(client) = submission.get("client_id") {
        extra.insert("client_id".into(), client.clone());
    }
    extra
}

fn refused(shared: &Shared, refusal: Refusal) -> Result<Response, Denied> {
    match refusal {
        Refusal::Answer(answer) => {
            shared
                .console
                .line(format!("invalid prompt: {}", answer["error"]));
            Ok((StatusCode::BAD_REQUEST, Json(answer)).into_response())
        }
        Refusal::Malformed => Err(Denied::Broken),
    }
}
