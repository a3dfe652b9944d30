//! A service as JSON. Neither its environment nor its arguments are ever told.

use super::answer;
use super::services::Service;
use crate::core::exit::LastExit;
use crate::core::service::ServiceStatus;
use crate::daemon::handle::Handle;
use serde_json::{Map, Value, json};

/// Everything that is told of a service (comfyui-facts 2.2, and what PM2 knows).
pub(super) fn service(service: &Service, handle: &Handle, now_ms: u64) -> Map<String, Value> {
    let view = &service.view;
    let fornax = &view.spec.fornax;
    let usage = handle.usage(view);
    let running = view.pid.is_some();
    let status = service.status();
    let kind = fornax
        .kind
        .as_deref()
        .unwrap_or(if view.spec.module { "module" } else { "app" });
    let value = json!({
        "name": service.name,
        "app": &*view.spec.name,
        "type": kind,
        "status": status,
        "health": health_word(status),
        "message": view.service.message,
        "since": answer::iso(view.service.since_ms),
        "enabled": fornax.enabled,
        "installed": installed(status),
        "completed": view.service.completed,
        "draining": view.spec.draining,
        "gpu": fornax.gpu.as_ref().map(|gpu| json!({"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name})),
        "port": fornax.port,
        "endpoint": fornax.port.map(|port| format!("http://127.0.0.1:{port}")),
        "dependencies": view.dependencies,
        "pm_id": view.id,
        "pm2_status": view.status,
        "pid": view.pid,
        "generation": view.generation.number(),
        "restarts": view.restarts,
        "unstable_restarts": view.unstable_restarts,
        "started_at": running.then(|| answer::iso(view.started_at_ms)),
        "uptime_ms": running.then(|| now_ms.saturating_sub(view.started_at_ms)),
        "memory": usage.memory,
        "cpu": usage.cpu,
        "last_exit": view.last_exit.as_deref().map(last_exit),
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn last_exit(exit: &LastExit) -> Value {
    json!({
        "cause": exit.cause.to_string(),
        "at": answer::iso(exit.at_ms),
        "uptime_ms": exit.uptime_ms,
        "stderr_tail": exit.stderr_tail,
        "why": exit.why,
    })
}

/// The source's second word for a state (comfyui-facts 2.2). While it starts, nobody knows yet.
fn health_word(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::NotConfigured => "not_applicable",
        ServiceStatus::NotInstalled | ServiceStatus::Stopped | ServiceStatus::Starting => "unknown",
        ServiceStatus::Unhealthy => "unhealthy",
        ServiceStatus::Healthy => "healthy",
    }
}

/// `None`: what is switched off is not looked at.
fn installed(status: ServiceStatus) -> Option<bool> {
    match status {
        ServiceStatus::NotConfigured => None,
        ServiceStatus::NotInstalled => Some(false),
        ServiceStatus::Stopped
        | ServiceStatus::Starting
        | ServiceStatus::Unhealthy
        | ServiceStatus::Healthy => Some(true),
    }
}
