//! A job as callers are told of it: over HTTP, and to webhooks. No secret is in it.

use super::store::Record;
use crate::core::job::JobState;
use serde_json::{Value, json};

/// A moment in milliseconds since the Unix epoch as ISO 8601 in UTC.
fn iso(at_ms: u64) -> String {
    let moment = i64::try_from(at_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or(jiff::Timestamp::MAX);
    format!("{moment:.3}")
}

/// A job. `position` is told by whoever knows it.
pub fn job(record: &Record) -> Value {
    let attempts: Vec<Value> = record
        .attempts
        .iter()
        .map(|attempt| {
            json!({
                "number": attempt.number,
                "prompt_id": attempt.prompt_id,
                "instance": attempt.instance,
                "pid": attempt.pid,
                "placed_at": iso(attempt.placed_ms),
                "started_at": attempt.started_ms.map(iso),
                "ended_at": attempt.ended_ms.map(iso),
                "outcome": attempt.end,
                "message": attempt.message,
            })
        })
        .collect();
    let outputs: Vec<Value> = record
        .outputs
        .iter()
        .map(|output| {
            json!({
                "name": output.name,
                "node": output.node,
                "type": output.kind,
                "bytes": output.bytes,
                "url": format!("/jobs/{}/outputs/{}", record.id, escaped(&output.name)),
            })
        })
        .collect();
    let mut told = json!({
        "id": record.id,
        "state": record.state(),
        "idempotency_key": record.key,
        "caller": record.caller,
        "priority": record.priority,
        "created_at": iso(record.created_ms),
        "ended_at": record.ended_ms.map(iso),
        "attempts": attempts,
        "outputs": outputs,
        "error": record.error,
    });
    if record
        .node_errors
        .as_object()
        .is_some_and(|errors| !errors.is_empty())
    {
        told["node_errors"] = record.node_errors.clone();
    }
    if record
        .results
        .as_object()
        .is_some_and(|results| !results.is_empty())
    {
        told["results"] = record.results.clone();
    }
    if record.job.cancelling && !record.state().is_settled() {
        told["cancelling"] = Value::from(true);
    }
    told
}

/// What a webhook is told.
pub(super) fn hook_body(record: &Record) -> String {
    let kind = match record.state() {
        JobState::Done => "job.done",
        JobState::Cancelled => "job.cancelled",
        JobState::Dead => "job.dead",
        JobState::Failed
        | JobState::Queued
        | JobState::Placed
        | JobState::Running
        | JobState::Fetching => "job.failed",
    };
    json!({"type": kind, "timestamp": record.ended_ms.map(iso), "data": job(record)}).to_string()
}

/// A name as part of a URL's path.
fn escaped(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
