//! The HTTP routes of ComfyUI 0.3.64, each also under `/api`.

mod body;
mod guard;
mod lists;
mod logs;
mod prompt;
mod queue;
mod system;
mod upload;
mod view;
mod ws;

use super::shared::Shared;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, patch, post};
use axum::{Router, middleware};
use std::sync::Arc;

pub(super) use system::{FRONTEND, PYTHON, PYTORCH, device};

/// All routes of one instance.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .route("/system_stats", get(system::stats))
        .route("/features", get(system::features))
        .route("/prompt", get(prompt::remaining).post(prompt::submit))
        .route("/queue", get(queue::list).post(queue::change))
        .route("/interrupt", post(queue::interrupt))
        .route("/free", post(queue::free))
        .route("/history", get(queue::history).post(queue::change_history))
        .route("/history/{id}", get(queue::history_of))
        .route("/object_info", get(lists::object_info))
        .route("/object_info/{class}", get(lists::object_info_of))
        .route("/models", get(lists::model_folders))
        .route("/models/{folder}", get(lists::models))
        .route("/embeddings", get(lists::embeddings))
        .route("/extensions", get(lists::extensions))
        .route("/settings", get(lists::settings))
        .route("/users", get(lists::users))
        .route("/view", get(view::view))
        .route("/upload/image", post(upload::image))
        .route("/internal/logs", get(logs::text))
        .route("/internal/logs/raw", get(logs::raw))
        .route("/internal/logs/subscribe", patch(logs::subscribe))
        .route("/ws", get(ws::connect));
    Router::new()
        .route("/", get(system::front))
        .nest("/api", routes.clone())
        .merge(routes)
        .fallback(async || (StatusCode::NOT_FOUND, "404: Not Found"))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
        })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(shared.clone(), guard::guard))
        .with_state(shared)
}
