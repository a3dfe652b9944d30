//! `/comfyui/rollout`: the instances of a workspace to another build, one by one, and how that stands.

use super::answer;
use super::app::App;
use super::problem::Problem;
use crate::core::rollout::{Kind, Rollout};
use crate::fleet::{RollError, Wanted};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long an instance may have jobs before that ends a rollout, in seconds: by default, and at most.
const WAIT: (u64, u64) = (3_600, 7 * 24 * 3_600);

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    kind: Kind,
    workspace: PathBuf,
    #[serde(default)]
    build: Option<String>,
    #[serde(default)]
    wait_seconds: Option<u64>,
}

/// `POST /comfyui/rollout`: begins one. 202 and how it stands.
pub(super) async fn begin(State(app): State<Arc<App>>, body: Bytes) -> Result<Response, Problem> {
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|error| Problem::Body(format!("cannot be read: {error}")))?;
    let wait = asked.wait_seconds.unwrap_or(WAIT.0);
    if wait > WAIT.1 {
        return Err(Problem::Body(format!(
            "has `wait_seconds` {wait}; the most is {}",
            WAIT.1
        )));
    }
    let wanted = Wanted {
        kind: asked.kind,
        workspace: asked.workspace,
        build: asked.build,
        wait: Duration::from_secs(wait),
    };
    match app.fleet.roll(wanted).await {
        Ok(state) => Ok(answer::json(StatusCode::ACCEPTED, &told(&state))),
        Err(error @ RollError::Nobody(_)) => Err(Problem::Nobody(error.to_string())),
        Err(error @ (RollError::Refused(_) | RollError::Later)) => {
            Err(Problem::Refused(error.to_string()))
        }
    }
}

/// `GET /comfyui/rollout`: the one at work, or the last one; `null` when none is known of.
pub(super) async fn state(State(app): State<Arc<App>>) -> Response {
    let view = app.fleet.view();
    let body = view.rollout.as_deref().map_or(Value::Null, told);
    answer::json(StatusCode::OK, &body)
}

/// How it stands.
pub(super) fn told(state: &Rollout) -> Value {
    json!({
        "kind": state.kind,
        "state": state.phase,
        "over": state.phase.is_over(),
        "workspace": state.workspace,
        "from": state.from,
        "to": state.to,
        "canary": state.canary,
        "renewed": state.renewed,
        "drained": state.drained,
        "message": state.message,
        "error": state.error,
        "began_at": answer::iso(state.began_ms),
        "updated_at": answer::iso(state.updated_ms),
    })
}
