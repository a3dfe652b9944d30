//! The RPC methods of PM2 7.0.4 (spec 3.3) and ours beside them, in one table.

mod act;
mod ident;
mod talk;

use super::report;
use super::rpc::{error_reply, transport_error};
use crate::core::spec::fornax::LogRotation;
use crate::daemon::command::Command;
use crate::daemon::handle::Handle;
use crate::daemon::launch::log_config;
use crate::daemon::settings::{self, Settings};
use crate::daemon::snapshot::InstanceView;
use crate::daemon::wire;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The version whose behaviour is kept: other clients nag about any other.
pub const PM2_VERSION: &str = "7.0.4";

/// Every method, and its parameters as `methods` tells them: PM2's in its order, then ours.
const METHODS: [(&str, &[&str]); 34] = [
    ("killMe", &[]),
    ("profileCPU", &[]),
    ("profileMEM", &[]),
    ("prepare", &["env", "cb"]),
    ("getMonitorData", &["env", "cb"]),
    ("getSystemData", &["env", "cb"]),
    ("startProcessId", &["id", "cb"]),
    ("stopProcessId", &["id", "cb"]),
    ("restartProcessId", &["opts", "cb"]),
    ("deleteProcessId", &["id", "cb"]),
    ("sendLineToStdin", &["packet", "cb"]),
    ("softReloadProcessId", &["opts", "cb"]),
    ("reloadProcessId", &["opts", "cb"]),
    ("duplicateProcessId", &["id", "cb"]),
    ("resetMetaProcessId", &["id", "cb"]),
    ("stopWatch", &["method", "value", "fn"]),
    ("startWatch", &["method", "value", "fn"]),
    ("toggleWatch", &["method", "value", "fn"]),
    ("notifyByProcessId", &["opts", "cb"]),
    ("notifyKillPM2", &[]),
    ("monitor", &["pm_id", "cb"]),
    ("unmonitor", &["pm_id", "cb"]),
    ("msgProcess", &["cmd", "cb"]),
    ("sendDataToProcessId", &["packet", "cb"]),
    ("sendSignalToProcessId", &["opts", "cb"]),
    ("sendSignalToProcessName", &["opts", "cb"]),
    ("ping", &["env", "cb"]),
    ("getVersion", &["env", "cb"]),
    ("getReport", &["arg", "cb"]),
    ("reloadLogs", &["opts", "cb"]),
    ("fornaxStatus", &["opts", "cb"]),
    ("fornaxListen", &["opts", "cb"]),
    ("fornaxHandOver", &["opts", "cb"]),
    ("fornaxReloadSettings", &["opts", "cb"]),
];

/// Why there is nothing to profile.
const NO_PROFILE: &str = "this daemon is no Node process, so there is nothing of it to profile; start the app with --node-args=--cpu-prof instead";

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
        return Some(transport_error(".method required"));
    };
    if !METHODS.iter().any(|(name, _)| *name == method) {
        return Some(transport_error(&format!(
            "method \"{method}\" does not exist"
        )));
    }
    let Some(args) = call["args"].as_array() else {
        return Some(transport_error(".args required"));
    };
    match dispatch(method, args, handle).await {
        Results(results) => Some(format!(r#"{{"args":[{results}]}}"#)),
        Error(message) => Some(error_reply(&message)),
        Silent => None,
    }
}

async fn dispatch(method: &str, args: &[Value], handle: &Handle) -> Outcome {
    let null = Value::Null;
    let given = args.first();
    let arg = given.unwrap_or(&null);
    let unknown = |id: &str| format!("{id} id unknown");
    match method {
        "ping" => Results(r#"{"msg":"pong"}"#.to_owned()),
        "getVersion" => Results(format!("\"{PM2_VERSION}\"")),
        "getReport" => Results(report::report(handle).to_string()),
        "getMonitorData" => monitor_data(arg, handle).await,
        "getSystemData" => Results(handle.host.borrow().to_string()),
        "prepare" => act::prepare(arg, handle).await,
        "startProcessId" => act::one(given, handle, Command::Start, unknown, record).await,
        "stopProcessId" => act::stop(given, handle).await,
        "restartProcessId" => act::restart(arg, handle).await,
        "reloadProcessId" => act::reload(arg, handle, false).await,
        "softReloadProcessId" => act::reload(arg, handle, true).await,
        "deleteProcessId" => {
            let unknown = |id: &str| format!("{id} : id unknown");
            let given = ident::unwrapped(given);
            act::one(given, handle, Command::Delete, unknown, described).await
        }
        "duplicateProcessId" => act::one(given, handle, Command::Duplicate, unknown, record).await,
        "resetMetaProcessId" => act::reset(given, handle).await,
        "sendLineToStdin" => talk::send_line(arg, handle),
        "sendDataToProcessId" => talk::send_data(arg, handle),
        "msgProcess" => talk::send_message(arg, handle),
        "sendSignalToProcessId" => talk::signal_id(arg, handle).await,
        "sendSignalToProcessName" => talk::signal_name(arg, handle).await,
        "stopWatch" => act::watch(args, handle, Some(false)).await,
        "startWatch" => act::watch(args, handle, Some(true)).await,
        "toggleWatch" => act::watch(args, handle, None).await,
        "notifyByProcessId" => talk::notify(arg, handle),
        "notifyKillPM2" => {
            // Nobody waits for the answer.
            let _ = handle.call(Command::StopRestarting).await;
            Silent
        }
        "killMe" => {
            kill_me(arg, handle);
            Silent
        }
        "monitor" => act::flag(given, handle, true).await,
        "unmonitor" => act::flag(given, handle, false).await,
        "profileCPU" | "profileMEM" => Error(NO_PROFILE.to_owned()),
        "reloadLogs" => {
            tracing::info!(target: "pm2", "Reloading logs...");
            for view in &handle.snapshot().instances {
                tracing::info!(target: "pm2", "Reloading logs for process id {}", view.id);
            }
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
        "fornaxHandOver" => {
            let program = arg["program"].as_str().unwrap_or_default();
            match handle.succession.hand_over(program.into()).await {
                Ok(()) => Results(r#"{"success":true}"#.to_owned()),
                Err(why) => Error(why),
            }
        }
        "fornaxReloadSettings" => {
            reload_settings(handle);
            Results(r#"{"success":true}"#.to_owned())
        }
        _ => Error(format!("method \"{method}\" does not exist")),
    }
}

fn record(view: &InstanceView) -> String {
    let mut out = String::new();
    wire::record(view, &mut out);
    out
}

fn described(view: &InstanceView) -> String {
    let mut out = String::new();
    wire::described(view, &mut out);
    out
}

/// All instances, described: what a signal or a reset is answered with.
fn all(handle: &Handle) -> String {
    let all = handle.snapshot();
    let described: Vec<String> = all.instances.iter().map(|view| described(view)).collect();
    format!("[{}]", described.join(","))
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

/// PM2's list. Ours, of which PM2's daemon takes no notice: `{"env": false}` leaves the environments out, and `{"brief": true}`
/// all that a table does not show.
async fn monitor_data(arg: &Value, handle: &Handle) -> Outcome {
    handle.refresh_usages().await;
    let with_env = arg["env"] != Value::Bool(false);
    let brief = arg["brief"] == Value::Bool(true);
    let mut out = String::from("[");
    for (at, view) in handle.snapshot().instances.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if brief {
            wire::list_item(view, handle.usage(view), &mut out);
        } else {
            wire::monitor_item(view, handle.usage(view), with_env, &mut out);
        }
    }
    out.push(']');
    Results(out)
}

/// The daemon ends, and will say so to the client that asked.
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
        // Who asks first is told.
        let _ = handle.mourner.set(pid);
    }
    handle.shutdown.cancel();
}

/// `pm2 set` has changed module_conf.json: apply it to the daemon and to every log file.
fn reload_settings(handle: &Handle) {
    let conf = settings::stored(&handle.info.home.join("module_conf.json"));
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
