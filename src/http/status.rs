//! `/services`, `/status` and `/version`.

use super::app::App;
use super::{answer, services, view};
use crate::adapters::logs::PlaneStats;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The log plane's counters are left out if they take longer than this.
const COUNTERS_WITHIN: Duration = Duration::from_millis(100);

/// `GET /services`.
pub(super) async fn services(State(app): State<Arc<App>>) -> Response {
    let now_ms = answer::now_ms();
    let told: Vec<Value> = services::list(&app.handle.snapshot())
        .iter()
        .map(|service| Value::Object(view::service(service, &app.handle, now_ms)))
        .collect();
    let body = json!({"count": told.len(), "services": told, "timestamp": answer::iso(now_ms)});
    answer::json(StatusCode::OK, &body)
}

/// `GET /status`.
pub(super) async fn status(State(app): State<Arc<App>>) -> Response {
    let logs = counters(&app).await;
    let now_ms = answer::now_ms();
    let told: Map<String, Value> = services::list(&app.handle.snapshot())
        .iter()
        .map(|service| {
            let told = view::service(service, &app.handle, now_ms);
            (service.name.clone(), Value::Object(told))
        })
        .collect();
    let body = json!({
        "machine_id": app.machine_id,
        "timestamp": answer::iso(now_ms),
        "uptime_ms": app.uptime_ms(),
        "services": told,
        "logs": logs.map(|stats| json!({
            "written_lines": stats.total.lines,
            "written_bytes": stats.total.bytes,
            "dropped_lines": stats.total.dropped_lines,
            "dropped_bytes": stats.total.dropped_bytes,
            "missed_lines": stats.missed_lines,
            "followers": stats.followers,
            "files_in_trouble": stats.sinks.iter().filter(|sink| sink.trouble.is_some()).count(),
        })),
    });
    answer::json(StatusCode::OK, &body)
}

/// What the log plane has written and lost; `None` when it is too busy to tell.
pub(super) async fn counters(app: &App) -> Option<PlaneStats> {
    // Asking waits while the plane is behind with a full queue, so it is done where that is allowed, and by few at once.
    let permit = Arc::clone(&app.readers).try_acquire_owned().ok()?;
    let plane = app.handle.plane.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        plane.stats().blocking_recv()
    });
    let stats = tokio::time::timeout(COUNTERS_WITHIN, asked).await;
    stats.ok()?.ok()?.ok()
}

/// `GET /version`.
pub(super) async fn version(State(app): State<Arc<App>>) -> Response {
    let development = cfg!(debug_assertions);
    // Node's word, which the clients of the source know.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let body = json!({
        "machine_version": env!("CARGO_PKG_VERSION"),
        "program": "fornax",
        "build_date": option_env!("FORNAX_BUILD_DATE"),
        "node_version": null,
        "platform": std::env::consts::OS,
        "arch": arch,
        "container": app.container,
        "environment": if development { "development" } else { "production" },
        "is_development": development,
        "is_release": !development,
        "uptime_seconds": app.uptime_ms() / 1000,
        "timestamp": answer::timestamp(),
    });
    answer::json(StatusCode::OK, &body)
}
