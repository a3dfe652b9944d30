//! From `--simulate`, `--cpu` and `--gpus` to what ComfyUI is run on.

use crate::comfyui::ecosystem::{self, EcosystemOptions, SimulateSettings, Target};
use crate::comfyui::flags;
use crate::comfyui::install::{self, Layout};
use crate::comfyui::workspace::Workspace;
use crate::core::machine::{Arguments, Gpus, Machine};
use crate::gpu::inventory::{Inventory, detect, simulated};
use crate::gpu::select::{Selection, parse_indices, parse_selection};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use std::path::PathBuf;

/// Options that say where ComfyUI lies and what it runs on.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Run on N simulated GPUs: needs nothing but this program.
    #[arg(long, value_name = "N", conflicts_with = "cpu", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub simulate: Option<u32>,
    /// Run ComfyUI on the processor, one instance for each number of --gpus (default: one).
    #[arg(long)]
    pub cpu: bool,
    /// The folder of ComfyUI and everything it needs [env: FORNAX_WORKSPACE, WORKSPACE_PATH; else /workspace].
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// The port of instance 0; instance N gets this plus N [default: fornax.json's, else 8188].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub base_port: Option<u16>,
    /// The Python that runs ComfyUI [default: WORKSPACE/venv/bin/python].
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
}

/// The workspace that the options and the environment name.
pub fn workspace(args: &TargetArgs) -> anyhow::Result<Workspace> {
    let env = |name: &str| std::env::var_os(name);
    let workspace = Workspace::resolve(args.workspace.as_deref(), &env)?;
    Ok(match &args.python {
        Some(python) => workspace.with_python(python, &env)?,
        None => workspace,
    })
}

/// The machine section of the workspace's settings, with the variables of existing machines.
pub fn machine(workspace: &Workspace) -> anyhow::Result<Machine> {
    let env = |name: &str| std::env::var(name).ok();
    Ok(install::machine(&Layout::new(workspace), &env)?)
}

impl TargetArgs {
    /// With what the settings say where the command line is silent; the second is `--gpus`, as indices.
    pub fn settled(&self, gpus: Option<&str>, machine: &Machine) -> (Self, Option<String>) {
        let settled = Self {
            cpu: self.simulate.is_none() && (self.cpu || machine.cpu.unwrap_or(false)),
            base_port: self.base_port.or(machine.base_port),
            ..self.clone()
        };
        let chosen = match (gpus, self.simulate) {
            (Some(gpus), _) => Some(gpus.to_owned()),
            (None, Some(_)) => None,
            (None, None) => machine.gpus.as_ref().and_then(Gpus::indices),
        };
        (settled, chosen)
    }
}

/// How a bare number in `--gpus` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareNumber {
    /// That GPU.
    Index,
    /// So many GPUs.
    Count,
}

/// What ComfyUI runs on.
pub fn targets(
    args: &TargetArgs,
    gpus: Option<&str>,
    bare: BareNumber,
    workspace: &Workspace,
) -> anyhow::Result<Vec<Target>> {
    let selection = gpus
        .map(|text| match bare {
            BareNumber::Index => parse_indices(text).map(Selection::Indices),
            BareNumber::Count => parse_selection(text),
        })
        .transpose()?;
    if args.cpu {
        let slots = match selection {
            None => vec![0],
            Some(Selection::Indices(indices)) => indices,
            Some(Selection::Count(count)) => (0..count).collect(),
        };
        return Ok(slots.into_iter().map(Target::Cpu).collect());
    }
    let inventory = inventory(args.simulate, workspace);
    let chosen = match selection {
        Some(selection) => inventory.select(&selection)?,
        None => inventory.gpus.clone(),
    };
    if chosen.is_empty() {
        let why = inventory.note.as_deref().unwrap_or("no GPU was found");
        bail!(
            "{why}; use --cpu to run ComfyUI on the processor, or --simulate 2 to try Fornax without a GPU"
        );
    }
    let target = if args.simulate.is_some() {
        Target::Simulated
    } else {
        Target::Real
    };
    Ok(chosen.iter().map(|gpu| target(gpu.reference())).collect())
}

/// The GPUs there are: real ones, or so many simulated ones.
pub fn inventory(simulate: Option<u32>, workspace: &Workspace) -> Inventory {
    match simulate {
        Some(count) => simulated(count, workspace.root()),
        None => detect(),
    }
}

/// The ecosystem of one ComfyUI per target.
pub fn ecosystem(
    args: &TargetArgs,
    targets: Vec<Target>,
    workspace: &Workspace,
    machine: &Machine,
    installer: bool,
) -> anyhow::Result<Value> {
    let each = machine.instances.values().map(|one| &one.arguments);
    for arguments in each.chain([&machine.arguments]) {
        if let (None, Some(Arguments::Text(text))) =
            (ecosystem::words(arguments.as_ref()), arguments)
        {
            bail!("COMFY_ARGS (`arguments`) has an open quote: {text}");
        }
    }
    let extra_args = ecosystem::words(machine.arguments.as_ref()).unwrap_or_default();
    let (every, instances) = ecosystem::instance_options(machine);
    let options = EcosystemOptions {
        workspace: workspace.clone(),
        targets,
        base_port: args.base_port.unwrap_or(ecosystem::BASE_PORT),
        every,
        instances,
        extra_args,
        installer,
        simulate: args.simulate.map(|_| SimulateSettings::default()),
        fornax_exe: std::env::current_exe().context("cannot find our own program file")?,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        known_flags: if args.simulate.is_some() {
            None
        } else {
            flags::known(workspace)
        },
    };
    Ok(ecosystem::generate(&options)?)
}
