//! Lists: node classes, models, extensions, and the front end's storage, which is empty.

use crate::comfyui::simulate::shared::Shared;
use crate::comfyui::simulate::{models, nodes};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Every node class, with what lies in the directories right now.
pub(super) fn catalogue(shared: &Shared) -> Map<String, Value> {
    nodes::catalogue(
        &models::list(&shared.places.models, "checkpoints"),
        &shared.places.pictures(),
    )
}

pub(super) async fn object_info(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(Value::Object(catalogue(&shared)))
}

pub(super) async fn object_info_of(
    State(shared): State<Arc<Shared>>,
    Path(class): Path<String>,
) -> Json<Value> {
    let mut catalogue = catalogue(&shared);
    Json(
        catalogue
            .remove(&class)
            .map_or_else(|| json!({}), |info| json!({class: info})),
    )
}

pub(super) async fn model_folders() -> Json<Value> {
    Json(json!(models::FOLDERS))
}

pub(super) async fn models(
    State(shared): State<Arc<Shared>>,
    Path(folder): Path<String>,
) -> Response {
    if !models::FOLDERS.contains(&folder.as_str()) {
        return StatusCode::NOT_FOUND.into_response();
    }
    Json(models::list(&shared.places.models, &folder)).into_response()
}

/// Embeddings go by their names without the extension.
pub(super) async fn embeddings(State(shared): State<Arc<Shared>>) -> Json<Vec<String>> {
    let files = models::list(&shared.places.models, "embeddings");
    Json(
        files
            .iter()
            .map(|name| {
                name.rsplit_once('.')
                    .map_or(name.as_str(), |(stem, _)| stem)
                    .to_owned()
            })
            .collect(),
    )
}

pub(super) async fn extensions() -> Json<Value> {
    Json(json!([]))
}

pub(super) async fn settings() -> Json<Value> {
    Json(json!({}))
}

pub(super) async fn users() -> Json<Value> {
    Json(json!({"storage": "server", "migrated": true}))
}
