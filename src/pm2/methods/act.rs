//! Methods that start, stop and change instances.

use super::Outcome::{self, Error, Results};
use super::{all, described, ident, record, records};
use crate::core::ids::PmId;
use crate::core::status::Status;
use crate::daemon::command::{Command, CommandError};
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use crate::pm2::{node_version, versioning};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// One prepare after the other reaches the loop, so that the apps of a file get their ids in its order. An async lock, since
/// it is fair; held while a file is read and until the command is queued, never until it is answered.
static PREPARES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How an instance is told: a process with what belongs to it, or as a list describes one.
type Shape = fn(&InstanceView) -> String;

/// A command on one instance, answered with it.
pub(super) async fn one(
    arg: Option<&Value>,
    handle: &Handle,
    command: fn(PmId) -> Command,
    unknown: impl Fn(&str) -> String,
    shape: Shape,
) -> Outcome {
    let unknown = || Error(unknown(&ident::text(arg)));
    let Some(id) = ident::id(arg) else {
        return unknown();
    };
    match handle.call(command(id)).await {
        Ok(views) => Results(first(&views, shape)),
        Err(CommandError::UnknownId(_)) => unknown(),
        Err(error) => Error(error.to_string()),
    }
}

fn first(views: &[Arc<InstanceView>], shape: Shape) -> String {
    views
        .first()
        .map_or_else(|| "null".to_owned(), |view| shape(view))
}

/// One that has failed has no process to stop, which PM2 tells as a result.
pub(super) async fn stop(arg: Option<&Value>, handle: &Handle) -> Outcome {
    let arg = ident::unwrapped(arg);
    let id = ident::id(arg);
    let errored = id.and_then(|id| Some(handle.snapshot().get(id)?.status == Status::Errored));
    let unknown = |id: &str| format!("{id} : id unknown");
    match one(arg, handle, Command::Stop, unknown, described).await {
        Results(_) if errored == Some(true) => {
            Results(r#"{"error":true,"message":"could not kill process w/o pid"}"#.to_owned())
        }
        outcome => outcome,
    }
}

pub(super) async fn restart(arg: &Value, handle: &Handle) -> Outcome {
    let Some(id) = arg.get("id").filter(|id| !id.is_null()) else {
        return Error("opts.id not passed to restartProcessId".to_owned());
    };
    let unknown = || Error("God db process id unknown".to_owned());
    let Some(id) = ident::id(Some(id)) else {
        return unknown();
    };
    look_at_version(id, handle).await;
    let env = env_of(arg);
    match handle.call(Command::Restart { id, env }).await {
        Ok(views) => {
            versioning::find_out(&views, handle);
            Results(first(&views, record))
        }
        Err(CommandError::UnknownId(_)) => unknown(),
        Err(error) => Error(error.to_string()),
    }
}

/// `softly`: the predecessor is told to end by PM2's message. Answered, as by PM2, with the predecessor of a worker that was
/// replaced, and else as a restart is.
pub(super) async fn reload(arg: &Value, handle: &Handle, softly: bool) -> Outcome {
    let asked = arg.get("id");
    let unknown = || {
        let id = ident::text(asked);
        Error(if softly {
            format!("pm_id {id} not available in {id}")
        } else {
            "PM2 ID unknown".to_owned()
        })
    };
    let Some(id) = ident::id(asked) else {
        return unknown();
    };
    let replaced = handle
        .snapshot()
        .get(id)
        .filter(|view| view.spec.workers.is_some() && view.status == Status::Online)
        .cloned();
    look_at_version(id, handle).await;
    let (env, by_message) = (env_of(arg), softly);
    let command = Command::Reload {
        id,
        env,
        by_message,
    };
    let answer = handle.call(command).await;
    if let Ok(views) = &answer {
        versioning::find_out(views, handle);
    }
    match (answer, replaced) {
        (Ok(_), Some(old)) => Results(described(&InstanceView {
            retiring: true,
            status: Status::Stopped,
            pid: None,
            ..(*old).clone()
        })),
        (Ok(views), None) => Results(first(&views, record)),
        (Err(CommandError::UnknownId(_)), _) => unknown(),
        (Err(error), _) => Error(error.to_string()),
    }
}

fn env_of(arg: &Value) -> Map<String, Value> {
    arg["env"].as_object().cloned().unwrap_or_default()
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

/// What is started anew may be of another version by now.
async fn look_at_version(id: PmId, handle: &Handle) {
    let Some(view) = handle.snapshot().get(id).cloned() else {
        return;
    };
    let script = view.spec.exec_path.clone();
    let read = tokio::task::spawn_blocking(move || package_version(Path::new(&script))).await;
    if let Ok(version) = read
        && *version != *view.version
    {
        // It may be gone by now, which the restart will tell.
        let _ = handle.call(Command::Version { id, version }).await;
    }
}

/// `version` of the nearest package.json above the script, or in it where it is a folder (spec 4.3).
pub(super) fn package_version(script: &Path) -> String {
    let read = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("package.json")).ok()?;
        let package: Value = serde_json::from_str(&text).ok()?;
        package["version"].as_str().map(str::to_owned)
    };
    let nearest = script
        .ancestors()
        .skip(usize::from(!script.is_dir()))
        .find(|folder| folder.join("package.json").is_file());
    nearest.and_then(read).unwrap_or_else(|| "N/A".to_owned())
}

pub(super) async fn reset(arg: Option<&Value>, handle: &Handle) -> Outcome {
    let unknown = |id: &str| format!("{id} id unknown");
    match one(arg, handle, Command::Reset, unknown, described).await {
        Results(_) => Results(all(handle)),
        outcome => outcome,
    }
}

/// `monitor` and `unmonitor`.
pub(super) async fn flag(arg: Option<&Value>, handle: &Handle, on: bool) -> Outcome {
    let unknown = || Error("Unknown pm_id".to_owned());
    let Some(id) = ident::id(arg) else {
        return unknown();
    };
    let command = Command::SetFlag {
        id,
        key: "_km_monitored",
        value: Value::Bool(on),
    };
    match handle.call(command).await {
        Ok(_) => Results(json!({"success": true, "pm_id": arg}).to_string()),
        Err(_) => unknown(),
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
        ident::id(ident::unwrapped(args.get(1)))
            .into_iter()
            .collect()
    };
    for id in ids {
        match handle.call(Command::Watch { id, on }).await {
            Ok(_) | Err(CommandError::UnknownId(_)) => {}
            Err(error) => return Error(error.to_string()),
        }
    }
    Results(r#"{"success":true}"#.to_owned())
}
