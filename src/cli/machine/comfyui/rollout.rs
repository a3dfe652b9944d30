//! Handing a build over to the daemon, whose instances take it one by one, and following how that goes.

use super::install::{Found, told};
use crate::cli::machine::http::{self, Api};
use crate::cli::session::{Session, Told, print, wall_ms};
use crate::comfyui::install::{self as installer, Build};
use crate::core::units::Millis;
use anyhow::bail;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where the daemon tells.
const PATH: &str = "/comfyui/rollout";
/// How often it is asked.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a daemon that is being replaced may be silent.
const SILENT: Duration = Duration::from_secs(60);

/// How it is to be done.
pub struct How<'a> {
    /// `update` or `rollback`.
    pub kind: &'a str,
    /// How long an instance may have jobs.
    pub wait: Option<&'a str>,
    /// Print JSON.
    pub json: bool,
}

/// What came of asking.
enum Asked {
    /// The daemon has begun.
    Begun(Value),
    /// No daemon runs, or none of its instances is of this workspace.
    Nobody,
}

/// Whether instances of this workspace are known to a daemon that can be asked; then they take `build` one by one. `None`:
/// nobody is there to take it.
pub fn by_daemon(
    session: &mut Session,
    found: &Found,
    build: &Build,
    how: &How<'_>,
) -> anyhow::Result<Option<ExitCode>> {
    let wait = how.wait.map(seconds).transpose()?;
    if session.running_daemon()?.is_none() || !has_instances(session)? {
        return Ok(None);
    }
    let api = match Api::of(session) {
        Ok(api) => api,
        Err(error) => bail!(
            "build {} is ready, and the daemon cannot be asked to try it: {error}; or use --no-canary",
            build.id
        ),
    };
    let body = json!({
        "kind": how.kind,
        "workspace": found.layout.workspace().root(),
        "build": build.id,
        "wait_seconds": wait,
    });
    http::block(async {
        match begin(&api, &body).await? {
            Asked::Nobody => Ok(None),
            Asked::Begun(began) => follow(&api, began, how).await.map(Some),
        }
    })
}

/// A daemon without a ComfyUI need not serve HTTP.
fn has_instances(session: &mut Session) -> anyhow::Result<bool> {
    let services: Value = session
        .daemon(true)?
        .call("getMonitorData", &[json!({"env": false})])?;
    let mut all = services.as_array().into_iter().flatten();
    Ok(all.any(|service| service["pm2_env"]["fornax"]["type"] == "comfyui"))
}

async fn begin(api: &Api, body: &Value) -> anyhow::Result<Asked> {
    let body = Bytes::from(body.to_string());
    let answer = api
        .ask(Method::POST, PATH, "application/json", body)
        .await?;
    match answer.status {
        404 => Ok(Asked::Nobody),
        _ => answer.json().await.map(Asked::Begun),
    }
}

/// Tells every step until it is over. Whoever ends this command does not end the rollout.
async fn follow(api: &Api, began: Value, how: &How<'_>) -> anyhow::Result<ExitCode> {
    let (since, mut said) = (wall_ms(), String::new());
    let (mut state, mut heard) = (began, Instant::now());
    loop {
        let message = state["message"].as_str().unwrap_or_default();
        if message != said && !how.json {
            let seconds = wall_ms().saturating_sub(since) as f64 / 1000.0;
            eprintln!(
                "{seconds:>6.1}s {:<8} {message}",
                state["state"].as_str().unwrap_or_default()
            );
            message.clone_into(&mut said);
        }
        if state["over"] == true {
            return ended(&state, how);
        }
        tokio::time::sleep(PERIOD).await;
        let asked = api.ask(Method::GET, PATH, "", Bytes::new()).await;
        let told = match asked {
            Ok(answer) => answer.json().await,
            Err(error) => Err(error),
        };
        match told {
            Ok(told) if told.is_object() => (state, heard) = (told, Instant::now()),
            // A daemon that follows another has not read it yet, or does not serve yet.
            Ok(_) => {}
            Err(error) if heard.elapsed() > SILENT => return Err(error),
            Err(_) => {}
        }
    }
}

fn ended(state: &Value, how: &How<'_>) -> anyhow::Result<ExitCode> {
    if how.json {
        print(&format!("{state:#}\n"));
    }
    let (message, error) = (&state["message"], state["error"].as_str());
    if let Some(error) = error {
        if !how.json {
            eprintln!("error: {} failed: {error}", how.kind);
            eprintln!("error: {}", message.as_str().unwrap_or_default());
        }
        return Err(Told.into());
    }
    if !how.json {
        print(&format!(
            "ComfyUI: {}\n",
            message.as_str().unwrap_or_default()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes it the build that runs, for nobody runs.
pub fn at_once(found: &Found, build: &Build) -> anyhow::Result<()> {
    let _lock = installer::lock(&found.layout).map_err(|error| told(&error))?;
    installer::activate(&found.layout, build).map_err(|error| told(&error))
}

fn seconds(text: &str) -> anyhow::Result<u64> {
    let time = Millis::parse(text).map(|time| time.0.div_ceil(1000));
    time.ok_or_else(|| anyhow::anyhow!("`{text}` is no time; write 60s, 10m or 1h"))
}
