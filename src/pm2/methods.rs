//! The RPC methods of PM2 7.0.4 (spec 3.3) and ours beside them, in one table.

use super::server::error_reply;
use super::{node_version, report};
use crate::core::ids::PmId;
use crate::core::signal::Signal;
use crate::core::spec::fornax::LogRotation;
use crate::daemon::command::{Command, CommandError};
use crate::daemon::handle::Handle;
use crate::daemon::launch::log_config;
use crate::daemon::settings::Settings;
use crate::daemon::snapshot::InstanceView;
use crate::daemon::wire;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// The version whose behaviour is kept: other clients nag about any other.
pub const PM2_VERSION: &str = "7.0.4";

/// Every method, and its parameters as `methods` tells them.
const METHODS: [(&str, &[&str]); 31] = [
    ("ping", &["env", "cb"]),
    ("getVersion", &["env", "cb"]),
    ("getReport", &["arg", "cb"]),
    ("getMonitorData", &["env", "cb"]),
    ("getSystemData", &["env", "cb"]),
    ("prepare", &["env", "cb"]),
    ("startProcessId", &["id", "cb"]),
    ("stopProcessId", &["id", "cb"]),
    ("restartProcessId", &["opts", "cb"]),
    ("reloadProcessId", &["opts", "cb"]),
    ("softReloadProcessId", &["opts", "cb"]),
    ("deleteProcessId", &["id", "cb"]),
    ("duplicateProcessId", &["id", "cb"]),
    ("resetMetaProcessId", &["id", "cb"]),
    ("sendLineToStdin", &["packet", "cb"]),
    ("sendDataToProcessId", &["packet", "cb"]),
    ("msgProcess", &["cmd", "cb"]),
    ("sendSignalToProcessId", &["opts", "cb"]),
    ("sendSignalToProcessName", &["opts", "cb"]),
    ("stopWatch", &["method", "value", "fn"]),
    ("startWatch", &["method", "value", "fn"]),
    ("toggleWatch", &["method", "value", "fn"]),
    ("notifyByProcessId", &["opts", "cb"]),
    ("notifyKillPM2", &[]),
    ("killMe", &["env", "cb"]),
    ("monitor", &["pm_id", "cb"]),
    ("unmonitor", &["pm_id", "cb"]),
    ("reloadLogs", &["opts", "cb"]),
    ("fornaxStatus", &["opts", "cb"]),
    ("fornaxListen", &["opts", "cb"]),
    ("fornaxReloadSettings", &["opts", "cb"]),
];

/// What a method gives: the JSON text of its results, or an error's words; `Silent` where PM2 never replies.
enum Outcome {
    Results(String),
    Error(String),
    Silent,
}

use Outcome::{Error, Results, Silent};

/// Carries out a call. `None`: no reply.
pub(super) async fn call(call: Value, handle: &Handle) -> Option<String> {
    if call["type"] == "methods" {
        let methods: Map<String, Value> = METHODS
            .iter()
            .map(|(name, params)| ((*name).to_owned(), json!({"name": name, "params": params})))
            .collect();
        return Some(json!({"methods": methods}).to_string());
    }
    let Some(method) = call["method"].as_str() else {
        return Some(error_reply(".method required"));
    };
    if !METHODS.iter().any(|(name, _)| *name == method) {
        return Some(error_reply(&format!("method \"{method}\" does not exist")));
    }
    let Some(args) = call["args"].as_array() else {
        return Some(error_reply(".args required"));
    };
    match dispatch(method, args, handle).await {
        Results(results) => Some(format!(r#"{{"args":[{results}]}}"#)),
        Error(message) => Some(error_reply(&message)),
        Silent => None,
    }
}

async fn dispatch(method: &str, args: &[Value], handle: &Handle) -> Outcome {
    let null = Value::Null;
    let arg = args.first().unwrap_or(&null);
    match method {
        "ping" => Results(r#"{"msg":"pong"}"#.to_owned()),
        "getVersion" => Results(format!("\"{PM2_VERSION}\"")),
        "getReport" => Results(report::report(handle).to_string()),
        "getMonitorData" => monitor_data(arg, handle).await,
        "getSystemData" => Results(handle.host.borrow().to_string()),
        "prepare" => prepare(arg, handle).await,
        "startProcessId" => {
            one(handle, id_of(arg), Command::Start, |id| {
                format!("{id} id unknown")
            })
            .await
        }
        "stopProcessId" => stop(arg, handle).await,
        "restartProcessId" => restart(arg, handle, "God db process id unknown").await,
        "reloadProcessId" => restart(arg, handle, "PM2 ID unknown").await,
        "softReloadProcessId" => {
            let unknown = format!("pm_id {0} not available in {0}", arg["id"]);
            restart(arg, handle, &unknown).await
        }
        "deleteProcessId" => {
            one(handle, id_of(arg), Command::Delete, |id| {
                format!("{id} : id unknown")
            })
            .await
        }
        "duplicateProcessId" => {
            one(handle, id_of(arg), Command::Duplicate, |id| {
                format!("{id} id unknown")
            })
            .await
        }
        "resetMetaProcessId" => reset(arg, handle).await,
        "sendLineToStdin" => send_line(arg, handle),
        "sendDataToProcessId" => send_data(arg, handle),
        "msgProcess" => send_message(arg, handle),
        "sendSignalToProcessId" => signal_id(arg, handle).await,
        "sendSignalToProcessName" => signal_name(arg, handle).await,
        "stopWatch" | "startWatch" | "toggleWatch" => Results(r#"{"success":true}"#.to_owned()),
        "notifyByProcessId" => notify(arg, handle),
        "notifyKillPM2" => {
            // Nobody waits for the answer.
            let _ = handle.call(Command::StopRestarting).await;
            Silent
        }
        "killMe" => {
            kill_me(arg, handle);
            Silent
        }
        "monitor" => flag(arg, handle, true).await,
        "unmonitor" => flag(arg, handle, false).await,
        "reloadLogs" => {
            tracing::info!(target: "pm2", "Reloading logs...");
            // An error means that the plane is shutting down.
            let _ = handle.plane.reopen_all().await;
            Results("{}".to_owned())
        }
        "fornaxStatus" => Results(report::status(handle).to_string()),
        "fornaxListen" => match handle
            .listen(arg["address"].as_str().unwrap_or_default().to_owned())
            .await
        {
            Ok(_) => Results(report::status(handle).to_string()),
            Err(error) => Error(error.to_string()),
        },
        "fornaxReloadSettings" => {
            reload_settings(handle);
            Results(r#"{"success":true}"#.to_owned())
        }
        _ => Error(format!("method \"{method}\" does not exist")),
    }
}

/// An id as clients send it: a number, text that is one, or `{id}`.
fn id_of(value: &Value) -> Option<PmId> {
    let id = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Object(object) => return object.get("id").and_then(id_of),
        _ => None,
    };
    id.and_then(|id| u32::try_from(id).ok()).map(PmId)
}

fn record(view: &InstanceView) -> String {
    let mut out = String::new();
    wire::record(view, &mut out);
    out
}

fn records(views: &[Arc<InstanceView>]) -> String {
    format!(
        "[{}]",
        views
            .iter()
            .map(|view| record(view))
            .collect::<Vec<_>>()
            .join(",")
    )
}

/// A command on one instance, answered with its record.
async fn one(
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

async fn stop(arg: &Value, handle: &Handle) -> Outcome {
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

async fn restart(arg: &Value, handle: &Handle, unknown: &str) -> Outcome {
    let Some(id) = arg.get("id").and_then(id_of) else {
        return Error("opts.id not passed to restartProcessId".to_owned());
    };
    let env = arg["env"].as_object().cloned().unwrap_or_default();
    match handle.call(Command::Restart { id, env }).await {
        Ok(views) => Results(
            views
                .first()
                .map_or_else(|| "null".to_owned(), |view| record(view)),
        ),
        Err(CommandError::UnknownId(_)) => Error(unknown.to_owned()),
        Err(error) => Error(error.to_string()),
    }
}

/// One prepare after the other reaches the loop, so that the apps of a file get their ids in its order. An async lock, since
/// it is fair; held while a file is read and until the command is queued, never until it is answered.
static PREPARES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn prepare(arg: &Value, handle: &Handle) -> Outcome {
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
            Results(records(&views))
        }
        Err(error) => Error(error.to_string()),
    }
}

/// `version` of the nearest package.json above the script (spec 4.3).
fn package_version(script: &Path) -> String {
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

async fn reset(arg: &Value, handle: &Handle) -> Outcome {
    let Some(id) = id_of(arg) else {
        return Error(format!("{arg} id unknown"));
    };
    match handle.call(Command::Reset(id)).await {
        Ok(_) => Results(records(&handle.snapshot().instances)),
        Err(error) => Error(error.to_string()),
    }
}

/// PM2's list. `{"env": false}` (ours; PM2's daemon takes no notice) leaves the environments out: a list needs none of them.
async fn monitor_data(arg: &Value, handle: &Handle) -> Outcome {
    handle.refresh_usages().await;
    let with_env = arg["env"] != Value::Bool(false);
    let mut out = String::from("[");
    for (at, view) in handle.snapshot().instances.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        wire::monitor_item(view, handle.usage(view), with_env, &mut out);
    }
    out.push(']');
    Results(out)
}

fn send_line(arg: &Value, handle: &Handle) -> Outcome {
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

fn send_data(arg: &Value, handle: &Handle) -> Outcome {
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

fn send_message(arg: &Value, handle: &Handle) -> Outcome {
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

fn signal_of(value: &Value) -> Option<Signal> {
    match value {
        Value::String(name) => Signal::parse(name),
        Value::Number(number) => Signal::parse(&number.to_string()),
        _ => None,
    }
}

async fn signal_id(arg: &Value, handle: &Handle) -> Outcome {
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

async fn signal_name(arg: &Value, handle: &Handle) -> Outcome {
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

fn notify(arg: &Value, handle: &Handle) -> Outcome {
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

/// The daemon ends, and says so to the client that asked, by SIGQUIT as PM2 does (spec 2.3).
fn kill_me(arg: &Value, handle: &Handle) {
    handle.bus.publish("pm2:kill", || {
        r#"{"status":"killed","msg":"pm2 has been killed via CLI"}"#.to_owned()
    });
    let client = arg
        .get("pid")
        .and_then(Value::as_i64)
        .and_then(|pid| i32::try_from(pid).ok())
        .filter(|pid| *pid > 1);
    if let Some(pid) = client {
        // It may have gone, which is as good.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGQUIT,
        );
    }
    handle.shutdown.cancel();
}

async fn flag(arg: &Value, handle: &Handle, on: bool) -> Outcome {
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

/// `pm2 set` has changed module_conf.json: apply it to the daemon and to every log file.
fn reload_settings(handle: &Handle) {
    let conf = std::fs::read_to_string(handle.info.home.join("module_conf.json")).ok();
    let settings = Settings::load(conf.as_deref(), |name| std::env::var(name).ok());
    let rotation: LogRotation = settings.rotation;
    handle.settings.send_replace(settings);
    for view in handle
        .snapshot()
        .instances
        .iter()
        .filter(|view| view.spec.fornax.logs.is_none())
    {
        let config = Arc::new(log_config(&view.spec.logs, rotation));
        // An error means that the plane is shutting down.
        let _ = handle.plane.set_config(view.id, config);
    }
}
