//! Methods that talk to a running app: lines, messages, signals, and notices about it.

use super::Outcome::{self, Error, Results};
use super::{all, ident};
use crate::core::ids::PmId;
use crate::core::signal::Signal;
use crate::daemon::command::{Command, CommandError};
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use crate::daemon::wire;
use crate::pm2::report;
use serde_json::{Value, json};
use std::sync::Arc;

/// PM2 takes what it is sent for true or false as JavaScript does.
fn given(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value != ""
}

pub(super) fn send_line(arg: &Value, handle: &Handle) -> Outcome {
    let (asked, line) = (&arg["pm_id"], &arg["line"]);
    if asked.is_null() || !given(line) {
        return Error("pm_id or line field missing".to_owned());
    }
    let id = ident::text(Some(asked));
    let snapshot = handle.snapshot();
    let Some(view) = ident::id(Some(asked)).and_then(|id| snapshot.get(id)) else {
        return Error(format!("Process with ID <{id}> unknown."));
    };
    if view.pid.is_none() {
        return Error(format!("Process with ID <{id}> offline."));
    }
    if view.spec.cluster {
        return Error("Cannot send line to processes in cluster mode".to_owned());
    }
    let text = ident::text(Some(line));
    match handle
        .run(view.id)
        .map(|run| run.write_stdin(text.as_bytes()))
    {
        None => Error(format!("Process with ID <{id}> offline.")),
        Some(Err(error)) => Error(format!(
            "Process with ID <{id}> does not read its input: {error}"
        )),
        Some(Ok(())) => Results(json!({"pm_id": asked, "line": line}).to_string()),
    }
}

pub(super) fn send_data(arg: &Value, handle: &Handle) -> Outcome {
    if ["id", "data", "topic"]
        .iter()
        .any(|key| arg.get(*key).is_none_or(Value::is_null))
    {
        return Error("ID, DATA or TOPIC field is missing".to_owned());
    }
    let asked = ident::text(arg.get("id"));
    let Some(id) = ident::id(arg.get("id")).filter(|id| handle.snapshot().get(*id).is_some())
    else {
        return Error(format!("Process with ID <{asked}> unknown."));
    };
    match handle.run(id) {
        Some(run) if run.send(arg.clone()) => {
            Results(json!({"success": true, "data": arg}).to_string())
        }
        Some(_) | None => Error(format!("Process with ID <{asked}> offline.")),
    }
}

/// `msgProcess`: an action of one instance, or of all of a name. It must have announced the action.
pub(super) fn send_message(arg: &Value, handle: &Handle) -> Outcome {
    let snapshot = handle.snapshot();
    let message = || {
        if arg["opts"].is_null() && arg["uuid"].is_null() {
            arg["msg"].clone()
        } else {
            arg.clone()
        }
    };
    let offers = |view: &InstanceView| {
        view.axm
            .actions
            .iter()
            .any(|action| action["action_name"] == arg["msg"])
    };
    if let Some(asked) = arg.get("id").filter(|id| !id.is_null()) {
        let id = ident::text(Some(asked));
        let Some(view) = ident::id(Some(asked)).and_then(|id| snapshot.get(id)) else {
            return Error(format!("{id} id unknown"));
        };
        if !offers(view) {
            return Error(format!(
                "Action doesn't exist {} for {}",
                ident::text(arg.get("msg")),
                view.spec.name
            ));
        }
        return match handle.run(view.id) {
            Some(run) if run.send(message()) => {
                Results(r#"{"process_count":1,"success":true}"#.to_owned())
            }
            Some(_) | None => Error(format!("{id} : id offline")),
        };
    }
    let Some(name) = arg["name"].as_str() else {
        return Error("method requires name or id field".to_owned());
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
    Results(json!({"process_count": sent, "success": true}).to_string())
}

pub(super) fn signal_of(value: &Value) -> Option<Signal> {
    match value {
        // Node's own default.
        Value::Null => Signal::parse("SIGTERM"),
        Value::String(name) => Signal::parse(name),
        Value::Number(number) => Signal::parse(&number.to_string()),
        _ => None,
    }
}

pub(super) async fn signal_id(arg: &Value, handle: &Handle) -> Outcome {
    let asked = arg.get("process_id");
    let Some(id) = ident::id(asked).filter(|id| handle.snapshot().get(*id).is_some()) else {
        return Error(format!("{} id unknown", ident::text(asked)));
    };
    let Some(signal) = signal_of(&arg["signal"]) else {
        return Error("Error when sending signal (signal unknown)".to_owned());
    };
    match handle.call(Command::Signal(id, signal)).await {
        Ok(_) | Err(CommandError::Offline(_)) => Results(all(handle)),
        Err(error) => Error(error.to_string()),
    }
}

pub(super) async fn signal_name(arg: &Value, handle: &Handle) -> Outcome {
    let name = arg["process_name"].as_str().unwrap_or_default();
    let Some(signal) = signal_of(&arg["signal"]) else {
        return Error(format!(
            "Unknown signal: {}",
            ident::text(arg.get("signal"))
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
    Results(all(handle))
}

pub(super) fn notify(arg: &Value, handle: &Handle) -> Outcome {
    let asked = arg.get("id").filter(|id| !id.is_null());
    if asked.is_none() {
        return Error("process id missing".to_owned());
    }
    let snapshot = handle.snapshot();
    let Some(view) = ident::id(asked).and_then(|id| snapshot.get(id)) else {
        return Error("process id doesnt exists".to_owned());
    };
    let action = ident::text(arg.get("action_name"));
    let manually = arg["manually"].as_bool().unwrap_or(false);
    handle.bus.publish("process:event", || {
        wire::process_event(view, &action, manually, report::wall_ms())
    });
    Results(String::new())
}
