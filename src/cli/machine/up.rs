//! `fornax up`: the whole machine by one command.

use super::progress::{self, Ended};
use super::targets::{self, BareNumber, TargetArgs};
use super::{comfyui, foreground, status};
use crate::cli::cmd::act::Action;
use crate::cli::cmd::{carry, start};
use crate::cli::program;
use crate::cli::session::{Session, Told};
use crate::cli::signals::Signals;
use crate::cli::start_context;
use crate::comfyui::ecosystem::{self, INSTALLER, Written};
use crate::comfyui::install::{self, Layout};
use crate::comfyui::workspace::Workspace;
use crate::config::{self, host_for};
use crate::core::ids::PmId;
use crate::core::spec::context::Origin;
use crate::core::spec::normalise::{self, AppConf};
use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

/// Options of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Run on these GPUs only, by index: 0,1.
    #[arg(long, value_name = "LIST")]
    gpus: Option<String>,
    /// Where port 9090 listens, or off [env: FORNAX_HTTP] [default: 127.0.0.1:9090].
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Stay, show the logs, and stop everything on SIGINT or SIGTERM: for containers.
    #[arg(long)]
    foreground: bool,
    /// Do not install ComfyUI where it is missing.
    #[arg(long)]
    no_install: bool,
    /// Write the ecosystem file anew even if you have edited it.
    #[arg(long)]
    force: bool,
}

/// Brings the machine up and waits until it is ready.
pub fn run(session: &mut Session, args: &UpArgs, _rest: &[String]) -> anyhow::Result<ExitCode> {
    let signals = args.foreground.then(Signals::watch).transpose()?;
    let workspace = targets::workspace(&args.target)?;
    let machine = targets::machine(&workspace)?;
    if machine.enabled == Some(false) {
        bail!(
            "ComfyUI is switched off on this machine: `enabled` in fornax.json, or ENABLE_COMFYUI"
        );
    }
    let (target, gpus) = args.target.settled(args.gpus.as_deref(), &machine);
    let chosen = targets::targets(&target, gpus.as_deref(), BareNumber::Index, &workspace)?;
    let slots: Vec<String> = chosen.iter().map(ecosystem::Target::slot).collect();
    let installation = installation(args, &target, &workspace)?;
    let installs = installation != Installation::NotOurs;
    let value = targets::ecosystem(&target, chosen, &workspace, &machine, installs)?;
    workspace.prepare_dirs(&slots)?;
    let file = workspace.ecosystem_file();
    match ecosystem::write(&workspace, &value, args.force)? {
        Written::Written => session.output.done(&format!("Wrote {}", file.display())),
        Written::Unchanged => session.output.done(&format!("Using {}", file.display())),
        Written::Kept { reason } => session.output.warn(&format!("Kept as it is: {reason}")),
    }
    let fresh = session.running_daemon()?.is_none();
    let said = std::env::var_os("FORNAX_HTTP").is_some_and(|value| !value.is_empty());
    let http = args.http.as_deref().or(match said {
        true => None,
        false => machine.http.as_deref(),
    });
    serve_http(session, http)?;
    let names = start_apps(session, &file, installation)?;
    let stop = || signals.as_ref().is_some_and(Signals::came);
    match progress::wait(session, &names, &stop)? {
        Ended::Ready(services) => {
            status::summary(session, &services)?;
            match signals {
                Some(signals) => foreground::stay(session, &signals),
                None => Ok(ExitCode::SUCCESS),
            }
        }
        Ended::Failed(service) => {
            progress::tell_failure(session, &service);
            // Only a daemon of our own: another's apps may have taken minutes to load.
            if args.foreground && fresh {
                crate::cli::cmd::daemon::kill(session)?;
            }
            bail!(Told)
        }
        Ended::Interrupted => {
            crate::cli::cmd::daemon::kill(session)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether ComfyUI is to be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Installation {
    /// It is simulated, made by hand, run by a Python of the operator's, or not to be touched.
    NotOurs,
    /// What is wanted is there.
    Current,
    /// Something is to be done.
    Wanted,
}

fn installation(
    args: &UpArgs,
    target: &TargetArgs,
    workspace: &Workspace,
) -> anyhow::Result<Installation> {
    let ours = target.simulate.is_none()
        && target.python.is_none()
        && !args.no_install
        && Layout::new(workspace).is_ours();
    if !ours {
        return Ok(Installation::NotOurs);
    }
    let found = comfyui::found(workspace, target.cpu)?;
    Ok(match install::is_current(&found.layout, &found.plan) {
        Some(_) => Installation::Current,
        None => Installation::Wanted,
    })
}

/// The daemon, with HTTP where it is wanted; a failure to bind ends `up` before anything is started.
fn serve_http(session: &mut Session, wanted: Option<&str>) -> anyhow::Result<()> {
    let fresh = session.running_daemon()?.is_none();
    if let (true, Some(address)) = (fresh, wanted) {
        session.http = Some(address.to_owned());
    }
    let client = session.daemon(false)?;
    let mut told: Value = client.call("fornaxStatus", &[json!({})])?;
    if let (false, Some(address)) = (fresh, wanted) {
        told = client.call("fornaxListen", &[json!({"address": address})])?;
    }
    for _ in 0..200 {
        if told["http"]["state"] != "pending" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        told = session.daemon(false)?.call("fornaxStatus", &[json!({})])?;
    }
    if told["http"]["state"] == "failed" {
        let words = |key: &str| told["http"][key].as_str().unwrap_or_default().to_owned();
        session.output.error(&format!(
            "cannot listen on {}: {}",
            words("address"),
            words("reason")
        ));
        if fresh {
            // It was started for this and has nothing to look after.
            session.output.silent = true;
            crate::cli::cmd::daemon::kill(session)?;
        }
        bail!(Told);
    }
    Ok(())
}

/// Whether a one-shot is done.
fn completed(session: &mut Session, name: &str) -> anyhow::Result<bool> {
    let services = progress::services(session)?;
    let mut of_name = services.iter().filter(|service| service.name == name);
    Ok(of_name.all(|service| service.pm2_env.fornax_state.completed))
}

/// Starts what the file names and does not run yet. What runs is left alone: it may have taken minutes to load.
fn start_apps(
    session: &mut Session,
    file: &Path,
    installation: Installation,
) -> anyhow::Result<Vec<String>> {
    let ecosystem = start::load(session, &file.to_string_lossy())?;
    let context = start_context::gather(session, &program::no_options(), Origin::Config, &[])?;
    let mut confs: Vec<AppConf> = Vec::new();
    for app in &ecosystem.apps {
        match normalise::app(&app.raw, &context, host_for(&app.raw)) {
            Ok(conf) => confs.push(conf),
            Err(issues) => {
                for issue in &issues {
                    session
                        .output
                        .error(&ecosystem.locate(app, issue).to_string());
                }
                bail!(Told);
            }
        }
    }
    let rows = session.rows()?;
    let running: Vec<String> = rows.iter().map(|row| row.name.clone()).collect();
    let problems = config::dependency_problems(&ecosystem, &running);
    if !problems.is_empty() {
        for problem in problems {
            session.output.error(&problem.to_string());
        }
        bail!(Told);
    }
    let names: Vec<String> = confs.iter().map(|conf| conf.name().to_owned()).collect();
    let (known, new): (Vec<AppConf>, Vec<AppConf>) = confs
        .into_iter()
        .partition(|conf| rows.iter().any(|row| row.name == conf.name()));
    for conf in &known {
        let down: Vec<PmId> = rows
            .iter()
            .filter(|row| {
                row.name == conf.name() && matches!(row.status.as_str(), "stopped" | "errored")
            })
            .map(|row| PmId(row.pm_id))
            .collect();
        let installed = conf.name() == INSTALLER && installation == Installation::Current;
        if installed && completed(session, INSTALLER)? {
            session.output.done("ComfyUI is installed as wanted");
        } else if down.is_empty() {
            session
                .output
                .done(&format!("{} runs already; left alone", conf.name()));
        } else {
            let env = json!({"current_conf": conf.0.iter().filter(|(key, _)| *key != "env").map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>()});
            carry::apply(session, Action::Restart, conf.name(), &down, &rows, &env)?;
        }
    }
    let started: Vec<String> = new.iter().map(|conf| conf.name().to_owned()).collect();
    let quiet = std::mem::replace(&mut session.output.silent, true);
    let all = start::prepare_all(session, new);
    session.output.silent = quiet;
    if !all? {
        // What was refused is registered all the same, and shows on port 9090 too.
        for service in progress::services(session)? {
            if names.contains(&service.name) && service.pm2_env.status == "errored" {
                progress::tell_failure(session, &service);
            }
        }
        bail!(Told);
    }
    for name in started {
        session
            .output
            .done(&format!("App [{name}] launched (1 instances)"));
    }
    Ok(names)
}
