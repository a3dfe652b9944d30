//! The log over HTTP: as text, as entries, and as websocket messages for those who ask.

use super::body::{self, Denied};
use crate::comfyui::simulate::console::Console;
use crate::comfyui::simulate::shared::Shared;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn text(State(shared): State<Arc<Shared>>) -> Json<String> {
    Json(shared.console.text())
}

pub(super) async fn raw(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({"entries": shared.console.entries(), "size": Console::size()}))
}

pub(super) async fn subscribe(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
) -> Result<Response, Denied> {
    let (wish, _) = body::json(request, shared.options.body_limit()).await?;
    let (Some(client), Some(enabled)) = (wish["clientId"].as_str(), wish["enabled"].as_bool())
    else {
        return Err(Denied::Broken);
    };
    shared.clients.follow_logs(client, enabled);
    Ok(StatusCode::OK.into_response())
}
