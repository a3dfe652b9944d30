//! The ecosystem of one ComfyUI per GPU: PM2's keys for what PM2 knows, the `fornax` block for the rest.
//!
//! Each app runs `main.py` of the one tree with the workspace's Python, without a wrapper between. It is written as
//! `script: main.py` with the Python as `interpreter`, and not as the Python with `main.py` as an argument: pm2 7.0.4 runs
//! both, but hands a `script` with a blank in its path to a shell, and tells "Script not found" only of a `script`.

mod args;
mod settings;
mod write;

pub use args::{split_words, unknown_flag};
pub use settings::{InstanceOptions, all_arguments, instance_options, words};
pub use write::{WriteError, Written, write};

use super::tree;
use super::workspace::Workspace;
use crate::core::signal::Signal;
use crate::core::spec::cpus::Cpus;
use crate::core::spec::fornax::{
    Condition, FornaxBlock, GpuRef, HttpProbe, InstallCheck, Probe, RestartBudget, StopStep,
    Thresholds,
};
use crate::core::spec::monitor::Monitor;
use crate::core::units::Millis;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The app that installs ComfyUI.
pub const INSTALLER: &str = "comfyui-install";

/// The first port, for GPU 0: ComfyUI's own.
pub const BASE_PORT: u16 = 8188;

/// PM2's grace before SIGKILL, in milliseconds: longer than both rungs of [`STOP`], so that with real PM2 as well SIGINT
/// has time (a clean exit takes 1.9 to 3.3 s, comfyui-facts 4.7; PM2's own default is 1,600 ms).
const KILL_TIMEOUT_MS: u64 = 15_000;

/// A run shorter than this counts as a failed start, in milliseconds. A busy port is noticed only after the imports, 12 s
/// in (comfyui-facts 4.6), so PM2's default of 1,000 ms would restart for ever.
const MIN_UPTIME_MS: u64 = 30_000;

/// The first back-off, in milliseconds; PM2 multiplies it by 1.5 up to 15,000.
const BACKOFF_MS: u64 = 1_000;

/// Failed starts in a row before giving up.
const MAX_RESTARTS: u32 = 10;

/// SIGINT is the only clean end; SIGTERM reaches an instance whose interpreter is held in C (comfyui-facts 4.7).
const STOP: [StopStep; 2] = [
    StopStep {
        signal: Signal::INT,
        wait: Millis::from_secs(10),
    },
    StopStep {
        signal: Signal::TERM,
        wait: Millis::from_secs(2),
    },
];

/// What one instance runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A GPU of the machine.
    Real(GpuRef),
    /// A simulated GPU, run by `fornax simulate`.
    Simulated(GpuRef),
    /// The processor, in this slot: ComfyUI with `--cpu`.
    Cpu(u32),
}

impl Target {
    /// Its number: the port is the base port plus this.
    pub fn index(&self) -> u32 {
        match self {
            Target::Real(gpu) | Target::Simulated(gpu) => gpu.index,
            Target::Cpu(slot) => *slot,
        }
    }

    /// The name of its folder: `gpu0`; a CPU slot stands in for the GPU of its number, under the same names.
    pub fn slot(&self) -> String {
        format!("gpu{}", self.index())
    }

    /// The name of its app: `comfyui-gpu0`.
    pub fn app_name(&self) -> String {
        format!("comfyui-{}", self.slot())
    }
}

/// How simulated instances behave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimulateSettings {
    /// Flags of `fornax simulate` for every instance, such as `--seconds 2`.
    pub args: Vec<String>,
}

/// What the ecosystem is made from. Without the clock, the machine or a file in between: equal options, equal file.
#[derive(Debug, Clone)]
pub struct EcosystemOptions {
    /// Where ComfyUI lies.
    pub workspace: Workspace,
    /// One app each.
    pub targets: Vec<Target>,
    /// The port of number 0; [`BASE_PORT`] unless told otherwise.
    pub base_port: u16,
    /// What every instance is given.
    pub every: InstanceOptions,
    /// What single instances are given instead, by number.
    pub instances: BTreeMap<u32, InstanceOptions>,
    /// The operator's flags for every ComfyUI (`COMFY_ARGS`, split by [`split_words`]), CPU or GPU.
    pub extra_args: Vec<String>,
    /// How simulated instances behave.
    pub simulate: Option<SimulateSettings>,
    /// The fornax program, which simulates.
    pub fornax_exe: PathBuf,
    /// Processor cores to share among the instances.
    pub cores: usize,
    /// Installs ComfyUI before any instance is started, and again whenever the settings ask for something else.
    pub installer: bool,
    /// The flags that the tree knows ([`tree::flags`]); `None`: all are taken to be known.
    pub known_flags: Option<BTreeSet<String>>,
}

/// Why no ecosystem was made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EcosystemError {
    /// No target.
    #[error(
        "there is nothing to run ComfyUI on; select a GPU, or simulate one with `--simulate`, or use `--cpu`"
    )]
    NoTargets,
    /// Two targets of one number.
    #[error(
        "two instances would have port {port}; give each GPU and each CPU slot a number of its own"
    )]
    SamePort {
        /// The port.
        port: u16,
    },
    /// A port above 65535.
    #[error("{app} would have port {port}, and the last one is 65535; choose a lower base port")]
    PortRange {
        /// The app.
        app: String,
        /// The port that it would have.
        port: u64,
    },
    /// A flag that Fornax sets itself.
    #[error("{flag} differs for each instance and is set by fornax; leave it out of COMFY_ARGS")]
    OurFlag {
        /// The flag.
        flag: String,
    },
    /// A memory mode in CPU mode.
    #[error("ComfyUI refuses {flag} beside --cpu; leave it out of COMFY_ARGS")]
    NotWithCpu {
        /// The flag.
        flag: String,
    },
    /// A flag that would end the start.
    #[error(
        "this ComfyUI does not know {flag}{}; take it out of `arguments` in fornax.json (or COMFY_ARGS), or update the tree (its `main.py --help` lists what it knows)",
        near.as_ref().map_or_else(String::new, |near| format!(" (did you mean {near}?)"))
    )]
    UnknownFlag {
        /// The flag.
        flag: String,
        /// What was probably meant.
        near: Option<String>,
    },
    /// A program that PM2 would not find.
    #[error("the path of fornax, {path:?}, {problem}; move or link the program")]
    Exe {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Makes the ecosystem: `{"apps": [ … ]}`, in the order of the targets.
///
/// # Errors
/// Options that cannot work; nothing is left for ComfyUI to find out a minute later.
pub fn generate(options: &EcosystemOptions) -> Result<Value, EcosystemError> {
    if options.targets.is_empty() {
        return Err(EcosystemError::NoTargets);
    }
    let mut ports = BTreeSet::new();
    let mut apps = Vec::new();
    if options.installer {
        apps.push(installer(options)?);
    }
    for target in &options.targets {
        let wanted = u64::from(options.base_port) + u64::from(target.index());
        let port = u16::try_from(wanted).map_err(|_| EcosystemError::PortRange {
            app: target.app_name(),
            port: wanted,
        })?;
        if !ports.insert(port) {
            return Err(EcosystemError::SamePort { port });
        }
        apps.push(app(options, target, port)?);
    }
    Ok(json!({ "apps": apps }))
}

/// The one-shot that installs. With nothing to do it ends within some ten milliseconds.
fn installer(options: &EcosystemOptions) -> Result<Value, EcosystemError> {
    let root = options.workspace.root().display().to_string();
    let mut args = vec!["comfyui", "install", "--workspace", &root];
    let is_cpu = |target: &Target| matches!(target, Target::Cpu(_));
    if options.targets.iter().all(is_cpu) {
        args.push("--cpu");
    }
    let fornax = FornaxBlock {
        kind: Some("one-shot".to_owned()),
        ..FornaxBlock::default()
    };
    Ok(json!({
        "name": INSTALLER,
        "script": checked_exe(options)?,
        "interpreter": "none",
        "cwd": root,
        "args": args,
        "autorestart": false,
        "merge_logs": true,
        "fornax": fornax,
    }))
}

fn app(options: &EcosystemOptions, target: &Target, port: u16) -> Result<Value, EcosystemError> {
    let workspace = &options.workspace;
    let cpu = matches!(target, Target::Cpu(_));
    // The simulator checks its own flags, so the tree's say nothing about them.
    let known = match target {
        Target::Simulated(_) => None,
        Target::Real(_) | Target::Cpu(_) => options.known_flags.as_ref(),
    };
    let own = options
        .instances
        .get(&target.index())
        .unwrap_or(&options.every);
    let extra_args = own.flags(&options.extra_args);
    args::check(&extra_args, cpu, known)?;
    let mut args = args::instance(workspace, target, port, &extra_args, known);
    let (script, interpreter, cwd, install) = match target {
        Target::Simulated(_) => {
            let exe = checked_exe(options)?;
            args.insert(0, "simulate".to_owned());
            args.extend(
                options
                    .simulate
                    .iter()
                    .flat_map(|simulate| simulate.args.iter().cloned()),
            );
            let hint = Some("the program that simulates ComfyUI".to_owned());
            let install = vec![InstallCheck {
                path: exe.clone(),
                hint,
            }];
            (exe, "none".to_owned(), workspace.root().to_owned(), install)
        }
        Target::Real(_) | Target::Cpu(_) => {
            let python = workspace.python().display().to_string();
            (
                "main.py".to_owned(),
                python,
                workspace.tree(),
                tree::required(workspace),
            )
        }
    };
    let fornax = FornaxBlock {
        kind: Some("comfyui".to_owned()),
        port: Some(port),
        gpu: match target {
            Target::Real(gpu) | Target::Simulated(gpu) => Some(gpu.clone()),
            Target::Cpu(_) => None,
        },
        probe: Some(probe()),
        cpus: match target {
            Target::Real(_) => Some(own.cpus.clone().unwrap_or(Cpus::Auto)),
            Target::Cpu(_) => own.cpus.clone().filter(|cpus| *cpus != Cpus::Auto),
            Target::Simulated(_) => None,
        },
        monitor: Some(monitor(target)),
        stop: STOP.to_vec(),
        install,
        restart_budget: Some(RestartBudget {
            max: MAX_RESTARTS,
            window: Millis::from_secs(600),
        }),
        depends_on: match options.installer {
            true => [(INSTALLER.to_owned(), Condition::Completed)].into(),
            false => BTreeMap::new(),
        },
        ..FornaxBlock::default()
    };
    let mut app = json!({
        "name": target.app_name(),
        "script": script,
        "interpreter": interpreter,
        "cwd": cwd.display().to_string(),
        "args": args,
        "env": env(options, target),
        "autorestart": true,
        "min_uptime": MIN_UPTIME_MS,
        "max_restarts": MAX_RESTARTS,
        "exp_backoff_restart_delay": BACKOFF_MS,
        "kill_timeout": KILL_TIMEOUT_MS,
        "merge_logs": true,
        "fornax": fornax,
    });
    if let Some(limit) = own.max_memory {
        app["max_memory_restart"] = json!(limit);
    }
    Ok(app)
}

/// The environment of one instance.
///
/// The GPU is named by its index in PCI bus order, as `nvidia-smi` and `fornax gpu list` number it, and not by its UUID:
/// ComfyUI's own `--cuda-device` and many node packs read an index there. The UUID stands in `fornax.gpu`, for the lease.
fn env(options: &EcosystemOptions, target: &Target) -> Map<String, Value> {
    let threads = (options.cores / options.targets.len().max(1)).max(1);
    let visible = match target {
        Target::Real(gpu) | Target::Simulated(gpu) => gpu.index.to_string(),
        // An empty list hides every GPU from node packs that do not look at `--cpu`.
        Target::Cpu(_) => String::new(),
    };
    [
        ("CUDA_VISIBLE_DEVICES", visible),
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
        ("PYTHONUNBUFFERED", "1".to_owned()),
        // Without it each instance starts as many threads as the machine has cores.
        ("OMP_NUM_THREADS", threads.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Value::String(value)))
    .collect()
}

/// `GET /prompt` is ComfyUI's cheapest route (comfyui-facts 4.2). Ten minutes to start: node packs import slowly. No
/// liveness probe, because a busy ComfyUI answers slowly, and a restart throws its job away.
fn probe() -> Probe {
    Probe {
        http: Some(HttpProbe {
            path: "/prompt".to_owned(),
            port: None,
            host: None,
            status: None,
        }),
        tcp: None,
        exec: None,
        startup: Thresholds {
            failure_threshold: 1_200,
            ..Thresholds::startup()
        },
        readiness: Thresholds {
            period: Millis::from_secs(5),
            ..Thresholds::readiness()
        },
        liveness: None,
    }
}

/// How an instance is watched. A simulated one runs no canary jobs: they would count among the jobs that its faults count.
fn monitor(target: &Target) -> Monitor {
    match target {
        Target::Simulated(_) => Monitor {
            canary: Millis(0),
            ..Monitor::default()
        },
        Target::Real(_) | Target::Cpu(_) => Monitor::default(),
    }
}

/// The path of fornax as PM2 can run it.
fn checked_exe(options: &EcosystemOptions) -> Result<String, EcosystemError> {
    let path = &options.fornax_exe;
    let bad = |problem| EcosystemError::Exe {
        path: path.clone(),
        problem,
    };
    let text = path.to_str().ok_or_else(|| bad("is not UTF-8"))?;
    if !path.is_absolute() {
        return Err(bad("is not absolute"));
    }
    // pm2 7.0.4 gives a script with a blank to a shell.
    if text.chars().any(char::is_whitespace) {
        return Err(bad("has a blank in it, which PM2 would give to a shell"));
    }
    Ok(text.to_owned())
}
