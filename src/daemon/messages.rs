//! What apps say over Node's channel: readiness, agent data, and messages for the bus (pm2 7.0.4, spec 7.1).

use super::bus::Bus;
use super::table::Instance;
use super::wire;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Actions kept of one app.
const ACTIONS: usize = 256;
/// Metrics and options kept of one app.
const ENTRIES: usize = 256;

/// PM2's `"ready"`.
pub fn is_ready(message: &Value) -> bool {
    message.as_str() == Some("ready")
}

/// Takes a message: agent data is kept, everything else goes to the bus.
pub fn take(instance: &mut Instance, bus: &Bus, message: Value, at: u64) {
    if let (Some(version), None) = (
        message.get("node_version").and_then(Value::as_str),
        message.get("type"),
    ) {
        instance.node_version = Some(version.into());
        return;
    }
    let head = || wire::bus_process(instance);
    let kind = message
        .get("type")
        .and_then(Value::as_str)
        .filter(|kind| !kind.is_empty());
    let data = message.get("data").filter(|data| truthy(data));
    match (kind, data) {
        (
            Some(
                kind @ ("axm:action"
                | "axm:monitor"
                | "axm:option:configuration"
                | "axm:option:setPID"),
            ),
            Some(data),
        ) => {
            let data = data.clone();
            let kind = kind.to_owned();
            keep(instance, &kind, data);
        }
        (Some(kind), Some(data)) => bus.publish(kind, || {
            format!(r#"{{"at":{at},"data":{data},"process":{}}}"#, head())
        }),
        _ => bus.publish("process:msg", || {
            format!(r#"{{"at":{at},"raw":{message},"process":{}}}"#, head())
        }),
    }
}

fn keep(instance: &mut Instance, kind: &str, data: Value) {
    let axm = Arc::make_mut(&mut instance.axm);
    match (kind, data) {
        ("axm:action", action) => {
            let name = action.get("action_name").cloned();
            axm.actions
                .retain(|known| known.get("action_name") != name.as_ref());
            if axm.actions.len() < ACTIONS {
                axm.actions.push(action);
            }
        }
        ("axm:monitor", Value::Object(metrics)) => merge(&mut axm.monitor, metrics),
        ("axm:option:configuration", Value::Object(options)) => merge(&mut axm.options, options),
        ("axm:option:setPID", data) => {
            merge(&mut axm.options, Map::from_iter([("pid".to_owned(), data)]));
        }
        // Metrics and options come by name; anything else is of no use.
        _ => {}
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        if into.len() < ENTRIES || into.contains_key(&key) {
            into.insert(key, value);
        }
    }
}

/// As JavaScript sees it.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
