//! Instances as PM2's clients read them: `pm2_env` records and bus payloads, written straight to JSON text.

use super::snapshot::InstanceView;
use super::table::Instance;
use crate::adapters::sampler::Usage;
use serde_json::{Value, json};
use std::fmt::Write;

/// `pm2_env` of an instance, with its environment twice, as PM2 gives it.
pub fn pm2_env(view: &InstanceView, out: &mut String) {
    out.push('{');
    out.push_str(&view.conf.head);
    let unique = Value::from(&*view.unique_id);
    let env = view.conf.env.strip_suffix('}').unwrap_or(&view.conf.env);
    out.push_str(",\"env\":");
    out.push_str(env);
    if env != "{" {
        out.push(',');
    }
    if !view.conf.own.is_empty() {
        out.push_str(&view.conf.own);
        out.push(',');
    }
    // Writing to a String cannot fail.
    let _ = write!(out, r#""unique_id":{unique}}}"#);
    for part in [&*view.conf.flat, &*view.conf.own]
        .into_iter()
        .filter(|part| !part.is_empty())
    {
        out.push(',');
        out.push_str(part);
    }
    let _ = write!(out, r#","unique_id":{unique}"#);
    runtime(view, out);
    out.push('}');
}

/// The runtime keys, each beginning with a comma.
fn runtime(view: &InstanceView, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#","vizion_running":false,"status":"{}","pm_uptime":{},"axm_actions":{},"axm_monitor":{},"axm_options":{},"axm_dynamic":{{}},"created_at":{},"pm_id":{},"restart_time":{},"unstable_restarts":{},"prev_restart_delay":{},"version":{}"#,
        view.status.as_str(),
        view.started_at_ms,
        Value::Array(view.axm.actions.clone()),
        Value::Object(view.axm.monitor.clone()),
        Value::Object(view.axm.options.clone()),
        view.created_at_ms
            .map_or_else(|| "null".to_owned(), |at| at.to_string()),
        pm_id(view),
        view.restarts,
        view.unstable_restarts,
        view.last_backoff_ms,
        Value::from(&*view.version),
    );
    if let Some(version) = &view.node_version {
        let _ = write!(out, r#","node_version":{}"#, Value::from(&**version));
    }
    if let Some(code) = view.exit_code {
        let _ = write!(out, r#","exit_code":{code}"#);
    }
    let _ = write!(out, r#","fornax_state":{}"#, state(view));
}

/// PM2's id of a run that is being replaced is a text.
fn pm_id(view: &InstanceView) -> String {
    if view.retiring {
        format!("\"_old_{}\"", view.id)
    } else {
        view.id.to_string()
    }
}

/// What Fornax knows beyond PM2.
pub fn state(view: &InstanceView) -> Value {
    json!({
        "service_status": view.service.status,
        "message": view.service.message,
        "since_ms": view.service.since_ms,
        "completed": view.service.completed,
        "dependencies": view.dependencies,
        "last_exit": view.last_exit.as_ref().map(|exit| json!({
            "cause": exit.cause.to_string(),
            "at_ms": exit.at_ms,
            "uptime_ms": exit.uptime_ms,
            "stderr_tail": exit.stderr_tail,
            "why": exit.why,
        })),
    })
}

/// An item of `getMonitorData`: what `jlist` prints.
pub fn monitor_item(view: &InstanceView, usage: Usage, with_env: bool, out: &mut String) {
    let _ = write!(
        out,
        r#"{{"pid":{},"name":{},"pm2_env":"#,
        view.pid.unwrap_or(0),
        Value::from(&*view.spec.name)
    );
    if with_env {
        pm2_env(view, out);
    } else {
        out.push('{');
        out.push_str(&view.conf.head);
        runtime(view, out);
        out.push('}');
    }
    let _ = write!(
        out,
        r#","pm_id":{},"monit":{{"memory":{},"cpu":{}}}}}"#,
        view.id, usage.memory, usage.cpu
    );
}

/// An item of a list that is only to be looked at: a tenth of `monitor_item`.
pub fn list_item(view: &InstanceView, usage: Usage, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#"{{"pid":{},"name":{},"pm2_env":{{{}{}"status":"{}","pm_uptime":{},"created_at":{},"restart_time":{},"unstable_restarts":{},"version":{}"#,
        view.pid.unwrap_or(0),
        Value::from(&*view.spec.name),
        view.conf.listed,
        if view.conf.listed.is_empty() { "" } else { "," },
        view.status.as_str(),
        view.started_at_ms,
        Value::from(view.created_at_ms),
        view.restarts,
        view.unstable_restarts,
        Value::from(&*view.version),
    );
    if let Some(pid) = view.axm.options.get("pid") {
        let _ = write!(out, r#","axm_options":{{"pid":{pid}}}"#);
    }
    let _ = write!(
        out,
        r#"}},"pm_id":{},"monit":{{"memory":{},"cpu":{}}}}}"#,
        view.id, usage.memory, usage.cpu
    );
}

/// A process record as action methods answer it.
pub fn record(view: &InstanceView, out: &mut String) {
    let pid = view.pid.unwrap_or(0);
    let _ = write!(
        out,
        r#"{{"pid":{pid},"name":{},"process":{{"pid":{pid}}},"pm_id":{},"pm2_env":"#,
        Value::from(&*view.spec.name),
        view.id
    );
    pm2_env(view, out);
    out.push('}');
}

/// A process as PM2 describes one that it lists, has stopped or has deleted.
pub fn described(view: &InstanceView, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        r#"{{"pid":{},"name":{},"pm2_env":"#,
        view.pid.unwrap_or(0),
        Value::from(&*view.spec.name)
    );
    pm2_env(view, out);
    let _ = write!(out, r#","pm_id":{}}}"#, pm_id(view));
}

/// Payload of `process:event`. The environment stays out of it.
pub fn process_event(view: &InstanceView, event: &str, manually: bool, at: u64) -> String {
    let mut process = format!("{{{}", view.conf.head);
    runtime(view, &mut process);
    process.push('}');
    format!(
        r#"{{"event":{},"manually":{manually},"process":{process},"at":{at}}}"#,
        Value::from(event)
    )
}

/// Who an app message is from.
pub fn bus_process(instance: &Instance) -> String {
    json!({"pm_id": instance.id, "name": &*instance.spec.name, "namespace": &*instance.spec.namespace}).to_string()
}
