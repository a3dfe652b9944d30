//! Waiting until services are ready, and telling every step of it; or why they will not be.

use crate::cli::session::{Session, wall_ms};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the daemon is asked.
const PERIOD: Duration = Duration::from_millis(50);

/// A service as our own commands look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    /// Its app's name.
    pub name: String,
    /// Its id.
    pub pm_id: u32,
    /// Its process, 0 for none.
    #[serde(default)]
    pub pid: u32,
    /// The rest.
    pub pm2_env: ServiceEnv,
    /// Figures.
    #[serde(default)]
    pub monit: Monit,
}

/// What is looked at of `pm2_env`.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceEnv {
    /// PM2's word.
    pub status: String,
    /// Restarts so far.
    #[serde(default)]
    pub restart_time: u32,
    /// The app's own block.
    #[serde(default)]
    pub fornax: Block,
    /// What Fornax knows.
    pub fornax_state: ServiceState,
    /// Standard error's file.
    #[serde(default)]
    pub pm_err_log_path: String,
}

/// What is looked at of the `fornax` block.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Block {
    /// Its port.
    #[serde(default)]
    pub port: Option<u16>,
}

/// What Fornax knows of a service.
#[derive(Debug, Clone, Deserialize)]
pub struct ServiceState {
    /// One of the six words.
    pub service_status: String,
    /// Why.
    pub message: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// A one-shot that is done.
    #[serde(default)]
    pub completed: bool,
    /// How its last run ended.
    #[serde(default)]
    pub last_exit: Option<LastExit>,
}

/// The end of a run.
#[derive(Debug, Clone, Deserialize)]
pub struct LastExit {
    /// How, in words.
    pub cause: String,
    /// When.
    pub at_ms: u64,
    /// The last lines of its standard error.
    #[serde(default)]
    pub stderr_tail: Vec<String>,
}

/// Figures of a service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Monit {
    /// Bytes of the tree.
    #[serde(default)]
    pub memory: u64,
    /// Percent of a core.
    #[serde(default)]
    pub cpu: f64,
}

/// All services.
pub fn services(session: &mut Session) -> anyhow::Result<Vec<Service>> {
    Ok(session
        .daemon(true)?
        .call("getMonitorData", &[json!({"env": false})])?)
}

/// How the waiting ended.
#[derive(Debug)]
pub enum Ended {
    /// All are healthy, completed or switched off.
    Ready(Vec<Service>),
    /// One will not be by itself.
    Failed(Box<Service>),
    /// The caller's patience.
    Interrupted,
}

/// Waits for the apps of these names. `stop` is asked at each round.
pub fn wait(
    session: &mut Session,
    names: &[String],
    stop: &dyn Fn() -> bool,
) -> anyhow::Result<Ended> {
    let (began, since) = (Instant::now(), wall_ms());
    let mut told: HashMap<u32, String> = HashMap::new();
    loop {
        let services: Vec<Service> = services(session)?
            .into_iter()
            .filter(|service| names.contains(&service.name))
            .collect();
        for service in &services {
            let state = &service.pm2_env.fornax_state;
            let line = format!(
                "{:<14} {:<13} {}",
                service.name, state.service_status, state.message
            );
            if told.get(&service.pm_id) != Some(&line) {
                session
                    .output
                    .line(&format!("{:>6.1}s  {line}", began.elapsed().as_secs_f64()));
                told.insert(service.pm_id, line);
            }
        }
        if let Some(failed) = services.iter().find(|service| has_failed(service, since)) {
            return Ok(Ended::Failed(Box::new(failed.clone())));
        }
        if services.iter().all(is_ready) && !services.is_empty() {
            return Ok(Ended::Ready(services));
        }
        if stop() {
            return Ok(Ended::Interrupted);
        }
        std::thread::sleep(PERIOD);
    }
}

fn is_ready(service: &Service) -> bool {
    matches!(
        service.pm2_env.fornax_state.service_status.as_str(),
        "healthy" | "not_configured"
    )
}

/// A process that has died while we waited is told at once, although the supervisor may go on trying.
fn has_failed(service: &Service, since: u64) -> bool {
    let state = &service.pm2_env.fornax_state;
    let died = state
        .last_exit
        .as_ref()
        .is_some_and(|exit| exit.at_ms >= since)
        && !state.completed;
    died || matches!(
        state.service_status.as_str(),
        "unhealthy" | "not_installed" | "stopped"
    ) && service.pm2_env.status != "stopping"
}

/// Why a service failed: the cause and the last lines of its log.
pub fn tell_failure(session: &Session, service: &Service) {
    let state = &service.pm2_env.fornax_state;
    match &state.last_exit {
        Some(exit) if state.service_status != "not_installed" => session.output.error(&format!(
            "{} has ended: {}; now {}: {}",
            service.name, exit.cause, state.service_status, state.message
        )),
        _ => session.output.error(&format!(
            "{} is {}: {}",
            service.name, state.service_status, state.message
        )),
    }
    let tail = state
        .last_exit
        .as_ref()
        .map(|exit| exit.stderr_tail.as_slice())
        .unwrap_or_default();
    // What was never executed has said nothing: its log is an earlier run's.
    let never = state
        .last_exit
        .as_ref()
        .is_some_and(|exit| exit.cause.starts_with("could not start"));
    let lines = if never {
        Vec::new()
    } else if tail.is_empty() {
        crate::cli::cmd::logs::last_lines(
            std::path::Path::new(&service.pm2_env.pm_err_log_path),
            10,
        )
        .unwrap_or_default()
    } else {
        tail.to_vec()
    };
    if !lines.is_empty() {
        eprintln!("last lines of {}:", service.name);
        for line in lines {
            eprintln!("  {line}");
        }
    }
}
