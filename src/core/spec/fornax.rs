//! The `fornax` key of an app: what PM2 has no words for. PM2 ignores it (docs/adr/0004).

use super::cpus::Cpus;
use super::monitor::Monitor;
use crate::core::cluster::Sched;
use crate::core::signal::Signal;
use crate::core::units::{Bytes, Millis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Fornax's own settings of an app. Unknown keys are an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FornaxBlock {
    /// What kind of service this is, as port 9090 tells it: `app` (the default), `comfyui`, `worker`, `one-shot`.
    /// A `one-shot` is expected to end: with code 0 it is completed and is not restarted.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `false`: the app is listed as `not_configured` and never started. Default `true`.
    pub enabled: bool,
    /// The TCP port it will listen on, 1 to 65535. Checked to be free before each start; told on port 9090 as `endpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The GPU it owns: leased before it is started, released when it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuRef>,
    /// The processors it may run on: a list such as `0-7,16-23`, or `auto` for those of its GPU's NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// How to tell whether it is healthy. Without one it is healthy while it is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Apps it waits for before it is started, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub depends_on: BTreeMap<String, Condition>,
    /// The stop ladder: each step sends its signal and waits. A final SIGKILL is always added. Default: PM2's,
    /// SIGINT then `kill_timeout`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<StopStep>,
    /// What must exist for it to be installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub install: Vec<InstallCheck>,
    /// At most so many restarts in a window of time; past it the app is `errored`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_budget: Option<RestartBudget>,
    /// How connections come to the workers of an app in cluster mode: `round-robin` (the default: the daemon accepts, and hands
    /// each to the worker that has been free for longest) or `shared` (every worker accepts from one listening socket: faster,
    /// and less even). Without it `NODE_CLUSTER_SCHED_POLICY` of the app's environment counts, as Node takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sched: Option<Sched>,
    /// How its ComfyUI is watched: whether its jobs go on, and what is done when they do not. Without it only its probe counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    /// Log rotation of this app, over the global setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogRotation>,
}

impl Default for FornaxBlock {
    fn default() -> Self {
        Self {
            kind: None,
            enabled: true,
            port: None,
            gpu: None,
            cpus: None,
            probe: None,
            depends_on: BTreeMap::new(),
            stop: Vec::new(),
            install: Vec::new(),
            restart_budget: None,
            sched: None,
            monitor: None,
            logs: None,
        }
    }
}

/// A GPU, real or simulated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuRef {
    /// Its index in PCI bus order, from 0.
    pub index: u32,
    /// The driver's UUID (`GPU-…`), or `SIM-…` for a simulated one. This is what a lease names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The driver's name of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What a dependency must have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Its process runs.
    Started,
    /// It passes its probe.
    Healthy,
    /// It ended with code 0.
    Completed,
}

impl Condition {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Started => "started",
            Condition::Healthy => "healthy",
            Condition::Completed => "completed",
        }
    }
}

/// One rung of the stop ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopStep {
    /// The signal sent to the whole process tree.
    pub signal: Signal,
    /// How long to wait for the tree to end before the next step.
    pub wait: Millis,
}

/// Something that must exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstallCheck {
    /// The path, absolute or relative to the app's `cwd`.
    pub path: String,
    /// What it is and how to get it; shown when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A limit to restarts by time window (beyond PM2's `max_restarts`, which only counts crashes within `min_uptime`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartBudget {
    /// How many automatic restarts, 1 or more.
    pub max: u32,
    /// Within how long.
    pub window: Millis,
}

/// When a log file is rotated, and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogRotation {
    /// `false`: this app's files are never rotated. Default `true`.
    pub rotate: bool,
    /// Rotate when the file would grow past this. Default 10M (pm2-logrotate's).
    pub max_size: Bytes,
    /// How many rotated files are kept. Default 30 (pm2-logrotate's).
    pub retain: u32,
    /// Compress rotated files with gzip. Default `false`.
    pub compress: bool,
}

impl Default for LogRotation {
    fn default() -> Self {
        Self {
            rotate: true,
            max_size: Bytes(10 << 20),
            retain: 30,
            compress: false,
        }
    }
}

/// A health probe: one way to ask, and when to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Ask by HTTP GET: healthy on a 2xx or 3xx answer, or on `status` if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Ask by connecting to a TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// Ask by running a command in the app's directory and environment: healthy on exit code 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// Until it has once succeeded. Default: every 500 ms, and 600 failures (5 minutes) before it is unhealthy.
    #[serde(default = "Thresholds::startup")]
    pub startup: Thresholds,
    /// Afterwards, whether it can take work. Default: every 10 s, 3 failures make it unhealthy, 1 success healthy.
    #[serde(default = "Thresholds::readiness")]
    pub readiness: Thresholds,
    /// Afterwards, whether it must be restarted. Not restarted by a probe unless this is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<Thresholds>,
}

/// Where to ask by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The path and query, beginning with `/`.
    pub path: String,
    /// Port; default: `fornax.port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Host; default `127.0.0.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The one status code that means healthy; default: any of 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// Port; default: `fornax.port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Host; default `127.0.0.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecProbe {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
}

/// When to ask, and how many answers make a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Wait before the first question.
    pub initial_delay: Millis,
    /// Time from one question to the next, at least 10 ms.
    pub period: Millis,
    /// How long an answer may take.
    pub timeout: Millis,
    /// Consecutive failures that make it unhealthy, 1 or more.
    pub failure_threshold: u32,
    /// Consecutive successes that make it healthy, 1 or more.
    pub success_threshold: u32,
}

impl Thresholds {
    /// The default while starting up.
    pub fn startup() -> Self {
        Self {
            initial_delay: Millis(0),
            period: Millis(500),
            timeout: Millis(5_000),
            failure_threshold: 600,
            success_threshold: 1,
        }
    }

    /// The default once it has been up.
    pub fn readiness() -> Self {
        Self {
            initial_delay: Millis(0),
            period: Millis(10_000),
            timeout: Millis(5_000),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::readiness()
    }
}
