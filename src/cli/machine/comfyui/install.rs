//! `fornax comfyui install | status | validate | update | rollback | clean`.

use super::rollout::{self, How};
use super::show;
use crate::cli::machine::models;
use crate::cli::session::{Session, Told, print};
use crate::comfyui::install::{
    self as installer, Build, Hardware, InstallError, Layout, Moving, Options, Outcome, Plan,
    Record,
};
use crate::comfyui::workspace::Workspace;
use crate::core::machine::Machine;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where, and for what.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// The folder of ComfyUI and everything it needs [env: FORNAX_WORKSPACE, WORKSPACE_PATH; else /workspace].
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// For the processor: any torch serves.
    #[arg(long)]
    pub cpu: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `install`.
#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Begin from nothing, not from a copy of what is installed.
    #[arg(long)]
    pub fresh: bool,
    /// Exactly what fornax.lock.json says, or fail.
    #[arg(long)]
    pub locked: bool,
}

/// Options of `update`.
#[derive(Debug, Clone, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Begin from nothing: the newest packages too.
    #[arg(long)]
    pub fresh: bool,
    #[command(flatten)]
    pub rolling: RollingArgs,
}

/// Options of `rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub rolling: RollingArgs,
}

/// How instances that run are brought to another build.
#[derive(Debug, Clone, Args)]
pub struct RollingArgs {
    /// Switch only: no instance tries the build or is restarted; each takes it at its next start.
    #[arg(long)]
    pub no_canary: bool,
    /// How long an instance may go on with the jobs that it has before that ends it [default: 1h].
    #[arg(long, value_name = "TIME")]
    pub wait: Option<String>,
}

/// A workspace, what is wanted in it, and on what it runs.
pub struct Found {
    /// Where it lies.
    pub layout: Layout,
    /// The settings.
    pub machine: Machine,
    /// The machine.
    pub hardware: Hardware,
    /// What is wanted.
    pub plan: Plan,
}

/// Reads the settings of a workspace.
pub fn found(workspace: &Workspace, cpu: bool) -> Result<Found, InstallError> {
    let layout = Layout::new(workspace);
    let machine = installer::machine(&layout, &|name| std::env::var(name).ok())?;
    let cpu = cpu || machine.cpu.unwrap_or(false);
    let is_auto = machine
        .torch_index
        .as_deref()
        .is_none_or(|index| index == "auto");
    let cuda = match !cpu && is_auto {
        true => crate::gpu::inventory::detect().cuda,
        false => None,
    };
    let hardware = Hardware { cpu, cuda };
    let plan = installer::plan(&layout, &machine, &hardware)?;
    Ok(Found {
        layout,
        machine,
        hardware,
        plan,
    })
}

pub(super) fn at(place: &PlaceArgs) -> anyhow::Result<Found> {
    let env = |name: &str| std::env::var_os(name);
    let workspace = Workspace::resolve(place.workspace.as_deref(), &env)?;
    found(&workspace, place.cpu).map_err(|error| told(&error))
}

/// Prints a failure, the last lines before it.
pub(super) fn told(error: &InstallError) -> anyhow::Error {
    if !error.lines().is_empty() {
        eprintln!("last lines:");
        for line in error.lines() {
            eprintln!("  {line}");
        }
    }
    for line in error.to_string().lines() {
        eprintln!("error: {line}");
    }
    Told.into()
}

/// Installs, and tells how it goes and what came of it.
pub(super) fn go(
    found: &Found,
    place: &PlaceArgs,
    options: &Options<'_>,
) -> anyhow::Result<ExitCode> {
    let progress = show::Progress::new(place.json);
    let outcome = installer::install(
        &found.layout,
        &found.plan,
        options,
        Box::new(|state| progress.tell(state)),
    )
    .map_err(|error| told(&error))?;
    let report = installer::report(&found.layout, &found.plan);
    if place.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
        return Ok(ExitCode::SUCCESS);
    }
    match outcome {
        Outcome::UpToDate(build) => print(&format!(
            "ComfyUI is installed as wanted (build {}); nothing was changed\n",
            build.id
        )),
        Outcome::Installed(build) => print(&format!(
            "ComfyUI is installed (build {}); instances that run take it at their next start\n",
            build.id
        )),
        Outcome::Held(build) => print(&format!("build {} is ready\n", build.id)),
    }
    print(&show::troubles(&report));
    Ok(ExitCode::SUCCESS)
}

/// Makes a build that nothing runs of yet, and tells how it goes.
fn held(found: &Found, json: bool, options: &Options<'_>) -> anyhow::Result<Option<Build>> {
    let progress = show::Progress::new(json);
    let listener = Box::new(|state: &installer::State| progress.tell(state));
    let made = installer::install(&found.layout, &found.plan, options, listener);
    let build = match made.map_err(|error| told(&error))? {
        Outcome::UpToDate(_) => return Ok(None),
        Outcome::Installed(build) | Outcome::Held(build) => build,
    };
    if !json {
        let made = Record::of(&build);
        let commit = made.and_then(|record| record.tree).map(|tree| tree.commit);
        eprintln!(
            "build {} is ready: ComfyUI at {}",
            build.id,
            commit.as_deref().unwrap_or("no commit")
        );
    }
    Ok(Some(build))
}

/// The usual ones, with the models pulled unless that is switched off.
pub(super) fn options(found: &Found) -> Options<'_> {
    let mut options = Options::of(&found.machine, found.hardware.clone());
    if found.machine.pull_models != Some(false) {
        options.models = Some(Box::new(move |teller| {
            let workspace = found.layout.workspace();
            let manifest = found.machine.models.as_deref();
            models::bring(workspace, manifest, &|text| teller.say(text, None))
        }));
    }
    options
}

/// `install`.
pub fn install(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let found = at(&args.place)?;
    if found.machine.enabled == Some(false) {
        print("ComfyUI is switched off on this machine (`enabled`); nothing was changed\n");
        return Ok(ExitCode::SUCCESS);
    }
    let mut options = options(&found);
    options.fresh = args.fresh;
    options.locked = args.locked;
    go(&found, &args.place, &options)
}

/// `update`: a build beside what runs, which one instance tries before the others take it.
pub fn update(session: &mut Session, args: &UpdateArgs) -> anyhow::Result<ExitCode> {
    let found = at(&args.place)?;
    let mut options = options(&found);
    options.moving = Moving::Everything;
    options.fresh = args.fresh;
    if args.rolling.no_canary {
        return go(&found, &args.place, &options);
    }
    options.hold = true;
    let Some(build) = held(&found, args.place.json, &options)? else {
        return same(&found, &args.place);
    };
    let how = args.rolling.how("update", &args.place);
    if let Some(code) = rollout::by_daemon(session, &found, &build, &how)? {
        return Ok(code);
    }
    rollout::at_once(&found, &build)?;
    let report = installer::report(&found.layout, &found.plan);
    if args.place.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
        return Ok(ExitCode::SUCCESS);
    }
    print(&format!(
        "ComfyUI is installed (build {}); no instance runs\n",
        build.id
    ));
    print(&show::troubles(&report));
    Ok(ExitCode::SUCCESS)
}

/// Nothing has moved.
fn same(found: &Found, place: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let report = installer::report(&found.layout, &found.plan);
    match place.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&report)?)),
        false => {
            print("nothing is newer than what is installed; nothing was changed\n");
            print(&show::troubles(&report));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl RollingArgs {
    fn how<'a>(&'a self, kind: &'a str, place: &PlaceArgs) -> How<'a> {
        How {
            kind,
            wait: self.wait.as_deref(),
            json: place.json,
        }
    }
}

/// `status`.
pub fn status(args: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let found = at(args)?;
    let report = installer::report(&found.layout, &found.plan);
    match args.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&report)?)),
        false => print(&show::report(&report)),
    }
    Ok(ExitCode::SUCCESS)
}

/// `validate`: exit code 1 when something is wrong.
pub fn validate(args: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let found = at(args)?;
    let wrong = installer::validate(&found.layout, &found.plan).map_err(|error| told(&error))?;
    if args.json {
        let value = json!({"ok": wrong.is_empty(), "problems": wrong});
        print(&format!("{value:#}\n"));
    } else if wrong.is_empty() {
        print("everything imports, and the tree is what was installed\n");
    } else {
        for problem in &wrong {
            eprintln!("error: {problem}");
        }
    }
    Ok(match wrong.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// `rollback`.
pub fn rollback(session: &mut Session, args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    let found = at(&args.place)?;
    let previous = found.layout.previous();
    let Some(build) = previous.filter(|build| found.layout.current().as_ref() != Some(build))
    else {
        eprintln!("error: there is no earlier build to go back to");
        return Err(Told.into());
    };
    let how = args.rolling.how("rollback", &args.place);
    if !args.rolling.no_canary
        && let Some(code) = rollout::by_daemon(session, &found, &build, &how)?
    {
        return Ok(code);
    }
    rollout::at_once(&found, &build)?;
    if args.place.json {
        print(&format!("{}\n", json!({"build": build.id})));
    } else {
        print(&format!(
            "back to build {}; instances that run take it at their next start\n",
            build.id
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// `clean`.
pub fn clean(args: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let found = at(args)?;
    let _lock = installer::lock(&found.layout).map_err(|error| told(&error))?;
    let removed = installer::clean(&found.layout)?;
    if args.json {
        print(&format!("{}\n", json!({"removed": removed})));
    } else if removed.is_empty() {
        print("there is nothing to remove\n");
    } else {
        print(&format!("removed build {}\n", removed.join(", ")));
    }
    Ok(ExitCode::SUCCESS)
}
