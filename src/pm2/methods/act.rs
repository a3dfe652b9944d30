//! Methods that start, stop and change instances.

use super::Outcome::{self, Error, Results};
use super::{id_of, record, records};
use crate::core::ids::PmId;
use crate::daemon::command::{Command, CommandError};
use crate::daemon::handle::Handle;
use crate::pm2::{node_version, versioning};
use serde_json::{Map, Value, json};
use std::path::Path;

/// One prepare after the other reaches the loop, so that the apps of a file get their ids in its order. An async lock, since
/// it is fair; held while a file is read and until the command is queued, never until it is answered.
static PREPARES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A command on one instance, answered with its record.
pub(super) async fn one(
    handle: &Handle,
    id: Option<PmId>,
    command: fn(PmId) -> Command,
    unknown: impl Fn(String) -> String,
) -> Outcome {
    let Some(id) = id else {
        return Error(unknown("undefined".to_owned()));
    };
    match handle.call(command(id)).await {
        Ok(views) => Results(
            views
                .first()
                .map_or_else(|| "null".to_owned(), |view| record(view)),
        ),
        Err(CommandError::UnknownId(id)) => Error(unknown(id.to_string())),
        Err(error) => Error(error.to_string()),
    }
}

pub(super) async fn stop(arg: &Value, handle: &Handle) -> Outcome {
    let id = id_of(arg);
    let had_pid = id.and_then(|id| handle.snapshot().get(id).map(|view| view.pid.is_some()));
    let outcome = one(handle, id, Command::Stop, |id| format!("{id} : id unknown")).await;
    match (outcome, had_pid) {
        (Results(_), Some(false)) => {
            Results(r#"{"error":true,"message":"could not kill process w/o pid"}"#.to_owned())
        }
        (outcome, _) => outcome,
    }
}

pub(super) async fn restart(arg: &Value, handle: &Handle, unknown: &str) -> Outcome {
    anew(arg, handle, unknown, |id, env| Command::Restart { id, env }).await
}

pub(super) async fn reload(arg: &Value, handle: &Handle, unknown: &str) -> Outcome {
    anew(arg, handle, unknown, |id, env| Command::Reload { id, env }).await
}

async fn anew(
    arg: &Value,
    handle: &Handle,
    unknown: &str,
    command: impl FnOnce(PmId, Map<String, Value>) -> Command,
) -> Outcome {
    let Some(id) = arg.get("id").and_then(id_of) else {
        return Error("opts.id not passed to restartProcessId".to_owned());
    };
    let env = arg["env"].as_object().cloned().unwrap_or_default();
    match handle.call(command(id, env)).await {
        Ok(views) => {
            versioning::find_out(&views, handle);
            let record = views.first().map(|view| record(view));
            Results(record.unwrap_or_else(|| "null".to_owned()))
        }
        Err(CommandError::UnknownId(_)) => Error(unknown.to_owned()),
        Err(error) => Error(error.to_string()),
    }
}

pub(super) async fn prepare(arg: &Value, handle: &Handle) -> Outcome {
    let Some(conf) = arg.as_object().cloned() else {
        return Error("prepare takes an app's configuration".to_owned());
    };
    if !conf.get("env").is_some_and(Value::is_object) {
        return Error("`env` is missing from the app's configuration".to_owned());
    }
    let script = conf
        .get("pm_exec_path")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let answer = {
        let _turn = PREPARES.lock().await;
        let version =
            tokio::task::spawn_blocking(move || package_version(Path::new(&script))).await;
        let version = version.unwrap_or_else(|_| "N/A".to_owned());
        handle.begin(Command::Prepare { conf, version }).await
    };
    let answered = match answer {
        Ok(answer) => answer.await.unwrap_or(Err(CommandError::Gone)),
        Err(error) => Err(error),
    };
    match answered {
        Ok(views) => {
            node_version::find_out(&views, handle);
            versioning::find_out(&views, handle);
            Results(records(&views))
        }
        Err(error) => Error(error.to_string()),
    }
}

/// `version` of the nearest package.json above the script (spec 4.3).
pub(super) fn package_version(script: &Path) -> String {
    let read = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("package.json")).ok()?;
        let package: Value = serde_json::from_str(&text).ok()?;
        package["version"].as_str().map(str::to_owned)
    };
    let nearest = script
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("package.json").is_file());
    nearest.and_then(read).unwrap_or_else(|| "N/A".to_owned())
}

pub(super) async fn reset(arg: &Value, handle: &Handle) -> Outcome {
    let Some(id) = id_of(arg) else {
        return Error(format!("{arg} id unknown"));
    };
    match handle.call(Command::Reset(id)).await {
        Ok(_) => Results(records(&handle.snapshot().instances)),
        Err(error) => Error(error.to_string()),
    }
}

pub(super) async fn flag(arg: &Value, handle: &Handle, on: bool) -> Outcome {
    let Some(id) = id_of(arg) else {
        return Error("Unknown pm_id".to_owned());
    };
    match handle
        .call(Command::SetFlag {
            id,
            key: "_km_monitored",
            value: Value::Bool(on),
        })
        .await
    {
        Ok(_) => Results(json!({"success": true, "pm_id": id}).to_string()),
        Err(_) => Error("Unknown pm_id".to_owned()),
    }
}

/// `stopWatch(method, id)`, `startWatch` and `toggleWatch(method, {id})`. A method that is for all is for all. An id that
/// nobody has is no error, as in PM2: the client sends it before the action that will tell.
pub(super) async fn watch(args: &[Value], handle: &Handle, on: Option<bool>) -> Outcome {
    let method = args.first().and_then(Value::as_str).unwrap_or_default();
    let ids: Vec<PmId> = if method.contains("All") {
        let snapshot = handle.snapshot();
        snapshot.instances.iter().map(|view| view.id).collect()
    } else {
        args.get(1).and_then(id_of).into_iter().collect()
    };
    for id in ids {
        match handle.call(Command::Watch { id, on }).await {
            Ok(_) | Err(CommandError::UnknownId(_)) => {}
            Err(error) => return Error(error.to_string()),
        }
    }
    Results(r#"{"success":true}"#.to_owned())
}
