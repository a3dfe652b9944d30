//! Methods that talk to a running app: lines, messages, signals, and notices about it.

use super::Outcome::{self, Error, Results};
use super::{id_of, records};
use crate::core::ids::PmId;
use crate::core::signal::Signal;
use crate::daemon::command::{Command, CommandError};
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use crate::daemon::wire;
use crate::pm2::report;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn send_line(arg: &Value, handle: &Handle) -> Outcome {
    let (Some(id), Some(line)) = (arg.get("pm_id").and_then(id_of), arg["line"].as_str()) else {
        return Error("pm_id or line field missing".to_owned());
    };
    if handle.snapshot().get(id).is_none() {
        return Error(format!("Process with ID <{id}> unknown."));
    }
    match handle.run(id).map(|run| run.write_stdin(line.as_bytes())) {
        None => Error(format!("Process with ID <{id}> offline.")),
        Some(Err(error)) => Error(format!(
            "Process with ID <{id}> does not read its input: {error}"
        )),
        Some(Ok(())) => Results(json!({"pm_id": id, "line": line}).to_string()),
    }
}

pub(super) fn send_data(arg: &Value, handle: &Handle) -> Outcome {
    let missing = |key: &str| arg.get(key).is_none_or(Value::is_null);
    let Some(id) = arg
        .get("id")
        .and_then(id_of)
        .filter(|_| !missing("data") && !missing("topic"))
    else {
        return Error("ID, DATA or TOPIC field is missing".to_owned());
    };
    if handle.snapshot().get(id).is_none() {
        return Error(format!("Process with ID <{id}> unknown."));
    }
    match handle.run(id) {
        Some(run) if run.send(arg.clone()) => {
            Results(json!({"success": true, "data": arg}).to_string())
        }
        Some(_) | None => Error(format!("Process with ID <{id}> offline.")),
    }
}

pub(super) fn send_message(arg: &Value, handle: &Handle) -> Outcome {
    let snapshot = handle.snapshot();
    let message = || {
        if arg["opts"].is_null() && arg["uuid"].is_null() {
            arg["msg"].clone()
        } else {
            arg.clone()
        }
    };
    if let Some(id) = arg.get("id").and_then(id_of) {
        if snapshot.get(id).is_none() {
            return Error(format!("{id} id unknown"));
        }
        return match handle.run(id) {
            Some(run) if run.send(message()) => {
                Results(r#"{"process_count":1,"success":true}"#.to_owned())
            }
            Some(_) | None => Error(format!("{id} : id offline")),
        };
    }
    let Some(name) = arg["name"].as_str() else {
        return Error("method requires name or id field".to_owned());
    };
    let offers = |view: &InstanceView| {
        view.axm
            .actions
            .iter()
            .any(|action| action["action_name"] == arg["msg"])
    };
    let named = snapshot
        .instances
        .iter()
        .filter(|view| &*view.spec.name == name || name == "all");
    let sent = named
        .filter(|view| offers(view))
        .filter_map(|view| handle.run(view.id))
        .filter(|run| run.send(message()))
        .count();
    match sent {
        0 => Error(format!(
            "Action doesn't exist {} for {name}",
            arg["msg"].as_str().unwrap_or_default()
        )),
        count => Results(json!({"process_count": count, "success": true}).to_string()),
    }
}

pub(super) fn signal_of(value: &Value) -> Option<Signal> {
    match value {
        Value::String(name) => Signal::parse(name),
        Value::Number(number) => Signal::parse(&number.to_string()),
        _ => None,
    }
}

pub(super) async fn signal_id(arg: &Value, handle: &Handle) -> Outcome {
    let Some(id) = arg
        .get("process_id")
        .and_then(id_of)
        .filter(|id| handle.snapshot().get(*id).is_some())
    else {
        let id = arg["process_id"]
            .as_str()
            .map_or_else(|| arg["process_id"].to_string(), str::to_owned);
        return Error(format!("{id} id unknown"));
    };
    let Some(signal) = signal_of(&arg["signal"]) else {
        return Error("Error when sending signal (signal unknown)".to_owned());
    };
    match handle.call(Command::Signal(id, signal)).await {
        Ok(_) | Err(CommandError::Offline(_)) => Results(records(&handle.snapshot().instances)),
        Err(error) => Error(error.to_string()),
    }
}

pub(super) async fn signal_name(arg: &Value, handle: &Handle) -> Outcome {
    let name = arg["process_name"].as_str().unwrap_or_default();
    let Some(signal) = signal_of(&arg["signal"]) else {
        return Error(format!(
            "Unknown signal: {}",
            arg["signal"].as_str().unwrap_or_default()
        ));
    };
    let snapshot = handle.snapshot();
    let named = |view: &&Arc<InstanceView>| {
        name == "all" || &*view.spec.name == name || view.spec.exec_path == name
    };
    let ids: Vec<PmId> = snapshot
        .instances
        .iter()
        .filter(named)
        .map(|view| view.id)
        .collect();
    if ids.is_empty() {
        return Error("Unknown process name".to_owned());
    }
    for id in ids {
        // One that is offline is passed over, as by PM2.
        let _ = handle.call(Command::Signal(id, signal)).await;
    }
    Results(records(&handle.snapshot().instances))
}

pub(super) fn notify(arg: &Value, handle: &Handle) -> Outcome {
    let Some(id) = arg.get("id").and_then(id_of) else {
        return Error("process id missing".to_owned());
    };
    let snapshot = handle.snapshot();
    let Some(view) = snapshot.get(id) else {
        return Error("process id doesnt exists".to_owned());
    };
    let action = arg["action_name"].as_str().unwrap_or_default();
    let manually = arg["manually"].as_bool().unwrap_or(false);
    handle.bus.publish("process:event", || {
        wire::process_event(view, action, manually, report::wall_ms())
    });
    Results(String::new())
}
