//! The typed view of an instance's configuration: what the daemon acts on.

use super::fornax::FornaxBlock;
use super::interpreter;
use super::node;
use super::paths::name_fault;
use crate::core::cluster::Sched;
use crate::core::cron::{PatternError, Schedule};
use crate::core::instance::Policy;
use crate::core::restart::RestartPolicy;
use crate::core::signal::Signal;
use crate::core::stop;
use crate::core::units::{Bytes, Millis};
use crate::core::watch::WatchSpec;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;

/// PM2's default of `listen_timeout` (`PM2_GRACEFUL_LISTEN_TIMEOUT`).
const LISTEN_TIMEOUT: Millis = Millis(3_000);
/// The date format that `time: true` stands for.
pub const TIME_FORMAT: &str = "YYYY-MM-DDTHH:mm:ss";

/// Defaults that the daemon's environment can change.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// `PM2_KILL_TIMEOUT`.
    pub kill_timeout: Millis,
    /// `PM2_KILL_SIGNAL`.
    pub kill_signal: Signal,
    /// `PM2_GRACEFUL_LISTEN_TIMEOUT`.
    pub listen_timeout: Millis,
    /// `PM2_KILL_USE_MESSAGE`.
    pub by_message: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            kill_timeout: stop::KILL_TIMEOUT,
            kill_signal: Signal::INT,
            listen_timeout: LISTEN_TIMEOUT,
            by_message: false,
        }
    }
}

/// An app as the daemon runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct AppSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Its namespace, `default` if none.
    pub namespace: Arc<str>,
    /// The script or program, absolute.
    pub exec_path: String,
    /// Its working directory, absolute.
    pub cwd: String,
    /// What executes the script; `None` when it is executed itself.
    pub interpreter: Option<String>,
    /// Arguments of the interpreter.
    pub interpreter_args: Vec<String>,
    /// Whether Node uses source maps.
    pub source_maps: bool,
    /// Arguments of the script.
    pub args: Vec<String>,
    /// Our agent is loaded before the script.
    pub agent: bool,
    /// PM2's `cluster_mode`.
    pub cluster: bool,
    /// Its instances are workers of Node's cluster: in cluster mode, if Node (or Bun) runs it. Anything else runs as in fork
    /// mode, where PM2 would give it to Node.
    pub workers: Option<Sched>,
    /// Restart, stop and readiness policy.
    pub policy: Policy,
    /// Where its output goes, and how.
    pub logs: LogSettings,
    /// Where its pid is written.
    pub pid_path: Option<PathBuf>,
    /// Started when it is registered.
    pub autostart: bool,
    /// A PM2 module.
    pub module: bool,
    /// It finishes the jobs that it has and takes no more ([`DRAINING`]).
    pub draining: bool,
    /// PM2's `watch`: what it is watched by.
    pub watch: Option<Arc<WatchSpec>>,
    /// PM2's `cron_restart`.
    pub cron: Option<Schedule>,
    /// PM2's `max_memory_restart`, for the whole tree.
    pub max_memory: Option<Bytes>,
    /// The user and group to run as, by name or number.
    pub user: Option<String>,
    /// The group, where it is not the user's own.
    pub group: Option<String>,
    /// Our own settings.
    pub fornax: FornaxBlock,
}

/// Where output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Standard output's file; `None` for none (`/dev/null`).
    pub out: Option<PathBuf>,
    /// Standard error's file.
    pub err: Option<PathBuf>,
    /// The file that gets both.
    pub combined: Option<PathBuf>,
    /// dayjs tokens of the time before each line.
    pub date_format: Option<String>,
    /// One JSON object a line.
    pub json: bool,
    /// Nothing is written and nothing is published.
    pub disabled: bool,
}

/// Why a configuration can't be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// A key that must be there is not.
    #[error("`{key}` is missing from the app's configuration")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A name that would forge lines where it is told.
    #[error("`{key}` of the app cannot be used: {problem}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// `cron_restart` is no pattern; the first words are PM2's.
    #[error("Cron pattern error: {0}")]
    Cron(#[from] PatternError),
    /// The `fornax` block is wrong.
    #[error("`fornax` of app `{app}`: {problem}")]
    Fornax {
        /// Whose.
        app: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The key of an app's configuration that says that it finishes its jobs and takes no more. Set by a person at run time: it
/// outlives restarts of the app and of the daemon.
pub const DRAINING: &str = "fornax_draining";

impl AppSpec {
    /// Reads the object that `prepare` carries. Tolerant where PM2 is: a value of an odd type counts as absent.
    pub fn from_map(map: &Map<String, Value>, defaults: Defaults) -> Result<Self, SpecError> {
        let text = |key: &'static str| {
            map.get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let required = |key: &'static str| {
            text(key)
                .map(str::to_owned)
                .ok_or(SpecError::Missing { key })
        };
        let path = |key| {
            text(key)
                .filter(|path| !matches!(*path, "/dev/null" | "NULL"))
                .map(PathBuf::from)
        };
        let name = required("name")?;
        for key in ["name", "namespace"] {
            if let Some(problem) = text(key).and_then(name_fault) {
                return Err(SpecError::Name { key, problem });
            }
        }
        let fornax = match map.get("fornax") {
            None | Some(Value::Null) => FornaxBlock::default(),
            Some(block) => {
                serde_json::from_value(block.clone()).map_err(|error| SpecError::Fornax {
                    app: name.clone(),
                    problem: error.to_string(),
                })?
            }
        };
        let interpreter = text("exec_interpreter")
            .filter(|name| *name != "none")
            .map(str::to_owned);
        let cluster = text("exec_mode").is_some_and(|mode| mode.starts_with("cluster"));
        let workers = interpreter
            .as_deref()
            .filter(|program| cluster && interpreter::clusters(program))
            .map(|_| fornax.sched.unwrap_or_else(|| node_sched(map)));
        let source_maps = interpreter.as_deref().is_some_and(node::is_node)
            && truth(map, "disable_source_map_support") != Some(true);
        let interpreter_args = strings(map.get("node_args"));
        let date_format = match (text("log_date_format"), truth(map, "time")) {
            (Some(format), _) => Some(format.to_owned()),
            (None, Some(true)) => Some(TIME_FORMAT.to_owned()),
            (None, _) => None,
        };
        Ok(Self {
            exec_path: required("pm_exec_path")?,
            cwd: required("pm_cwd")?,
            namespace: text("namespace").unwrap_or("default").into(),
            agent: node::takes_agent(map, interpreter.as_deref(), &interpreter_args),
            interpreter,
            interpreter_args,
            source_maps,
            args: strings(map.get("args")),
            cluster,
            workers,
            policy: policy(map, &fornax, defaults, workers.is_some()),
            logs: LogSettings {
                out: path("pm_out_log_path"),
                err: path("pm_err_log_path"),
                combined: path("pm_log_path"),
                date_format,
                json: text("log_type") == Some("json"),
                disabled: truth(map, "disable_logs") == Some(true),
            },
            pid_path: text("pm_pid_path").map(PathBuf::from),
            autostart: truth(map, "autostart") != Some(false),
            module: truth(map, "pmx_module") == Some(true),
            draining: truth(map, DRAINING) == Some(true),
            watch: WatchSpec::from_map(map, &required("pm_cwd")?).map(Arc::new),
            cron: cron(map.get("cron_restart"))?,
            max_memory: memory(map.get("max_memory_restart")),
            user: identity(map.get("uid")),
            group: identity(map.get("gid")),
            name: name.into(),
            fornax,
        })
    }
}

/// What Node's own primary would do with this environment.
fn node_sched(map: &Map<String, Value>) -> Sched {
    let env = map.get("env");
    match env.and_then(|env| env.get("NODE_CLUSTER_SCHED_POLICY")) {
        Some(Value::String(policy)) if policy == "none" => Sched::Shared,
        _ => Sched::RoundRobin,
    }
}

fn policy(
    map: &Map<String, Value>,
    fornax: &FornaxBlock,
    defaults: Defaults,
    worker: bool,
) -> Policy {
    let millis = |key: &str| {
        number(map.get(key))
            .filter(|value| *value >= 0)
            .map(|value| Millis(value as u64))
    };
    let stop_exit_codes = match map.get("stop_exit_codes") {
        Some(Value::Array(codes)) => codes
            .iter()
            .filter_map(|code| exit_code(Some(code)))
            .collect(),
        other => exit_code(other).into_iter().collect(),
    };
    let ladder = if fornax.stop.is_empty() {
        stop::pm2_ladder(
            defaults.kill_signal,
            Some(millis("kill_timeout").unwrap_or(defaults.kill_timeout)),
        )
    } else {
        fornax.stop.clone()
    };
    Policy {
        restart: RestartPolicy {
            autorestart: truth(map, "autorestart") != Some(false),
            min_uptime: millis("min_uptime").unwrap_or(Millis(1_000)),
            max_restarts: number(map.get("max_restarts"))
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(16),
            restart_delay: millis("restart_delay"),
            exp_backoff: millis("exp_backoff_restart_delay").filter(|delay| *delay > Millis(0)),
            stop_exit_codes,
            budget: fornax.restart_budget,
            one_shot: fornax.kind.as_deref() == Some("one-shot"),
        },
        ladder,
        treekill: truth(map, "treekill") != Some(false),
        by_message: truth(map, "shutdown_with_message").unwrap_or(defaults.by_message),
        wait_ready: truth(map, "wait_ready") == Some(true),
        listen_timeout: millis("listen_timeout").unwrap_or(defaults.listen_timeout),
        worker,
    }
}

/// 0, as number or text, is none.
pub fn cron(value: Option<&Value>) -> Result<Option<Schedule>, PatternError> {
    match value {
        Some(Value::String(text)) if !text.trim().is_empty() && text != "0" => {
            Schedule::parse(text).map(Some)
        }
        _ => Ok(None),
    }
}

fn memory(value: Option<&Value>) -> Option<Bytes> {
    let limit = match value? {
        Value::String(text) => Bytes::parse(text),
        number => number.as_u64().map(Bytes),
    };
    limit.filter(|limit| limit.0 > 0)
}

/// PM2 takes `false` and `"false"` alike.
fn truth(map: &Map<String, Value>, key: &str) -> Option<bool> {
    match map.get(key)? {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) if text == "true" => Some(true),
        Value::String(text) if text == "false" => Some(false),
        _ => None,
    }
}

/// A whole number, or text that is one.
fn number(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_f64().map(|float| float as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// What no process can end with is no code.
fn exit_code(value: Option<&Value>) -> Option<i32> {
    number(value).and_then(|code| i32::try_from(code).ok())
}

fn identity(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Some(Value::Array(items)) => items.iter().map(text).collect(),
        Some(Value::String(words)) => words.split_whitespace().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(extra: Value) -> Result<AppSpec, SpecError> {
        let mut map = json!({"name": "a", "pm_exec_path": "/srv/a.js", "pm_cwd": "/srv", "exec_interpreter": "node", "env": {}});
        map.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        AppSpec::from_map(map.as_object().unwrap(), Defaults::default())
    }

    #[test]
    fn pm2s_defaults_hold_where_nothing_is_said() {
        let spec = spec(json!({})).unwrap();
        assert_eq!(spec.policy.restart, RestartPolicy::default());
        assert_eq!(spec.policy.ladder, stop::pm2_ladder(Signal::INT, None));
        assert_eq!(
            (&*spec.namespace, spec.autostart, spec.policy.listen_timeout),
            ("default", true, Millis(3_000))
        );
    }

    #[test]
    fn a_code_that_no_process_ends_with_is_not_taken_for_another() {
        let spec = spec(json!({"stop_exit_codes": [4_294_967_296_u64, "4294967297", 2]})).unwrap();
        assert_eq!(spec.policy.restart.stop_exit_codes, [2]);
    }

    #[test]
    fn text_and_numbers_count_alike() {
        let spec = spec(json!({"autorestart": "false", "kill_timeout": "3000", "stop_exit_codes": ["0", 3], "max_restarts": "4"})).unwrap();
        assert!(!spec.policy.restart.autorestart);
        assert_eq!(spec.policy.ladder[0].wait, Millis(3_000));
        assert_eq!(
            (
                spec.policy.restart.stop_exit_codes,
                spec.policy.restart.max_restarts
            ),
            (vec![0, 3], 4)
        );
    }

    #[test]
    fn a_name_that_would_forge_lines_is_refused() {
        for (name, word) in [
            ("a\nb".to_owned(), "\\n"),
            ("\u{1b}[2J".to_owned(), "1b"),
            ("a\0".to_owned(), "control"),
            ("x".repeat(201), "200 bytes"),
        ] {
            for key in ["name", "namespace"] {
                let error = spec(json!({ key: name })).unwrap_err().to_string();
                assert!(error.contains(key) && error.contains(word), "{error}");
            }
        }
        for name in ["__proto__", "$(id)", "../../x", "größe", &"x".repeat(200)] {
            assert_eq!(&*spec(json!({ "name": name })).unwrap().name, name);
        }
    }

    #[test]
    fn a_wrong_fornax_block_is_an_error_that_names_the_app() {
        let error = spec(json!({"fornax": {"prot": 1}}))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("app `a`") && error.contains("prot"),
            "{error}"
        );
    }

    #[test]
    fn cron_and_memory_are_off_at_zero_and_a_wrong_pattern_is_refused() {
        for off in [json!(0), json!("0"), json!(""), json!(null)] {
            let spec = spec(json!({"cron_restart": off, "max_memory_restart": off})).unwrap();
            assert_eq!((spec.cron, spec.max_memory), (None, None), "{off}");
        }
        let on = spec(json!({"cron_restart": "0 4 * * *", "max_memory_restart": "300M"})).unwrap();
        assert_eq!(on.cron.as_ref().map(Schedule::text), Some("0 4 * * *"));
        assert_eq!(on.max_memory, Some(Bytes(300 << 20)));
        let error = spec(json!({"cron_restart": "bad pat"})).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("Cron pattern error: CronPattern: invalid")
        );
    }

    #[test]
    fn a_stop_is_for_the_tree_and_by_signal_unless_the_app_says_otherwise() {
        let of =
            |extra: Value| spec(extra).map(|spec| (spec.policy.treekill, spec.policy.by_message));
        assert_eq!(of(json!({})), Ok((true, false)));
        let own = json!({"treekill": false, "shutdown_with_message": true});
        assert_eq!(of(own), Ok((false, true)));
    }

    #[test]
    fn no_file_is_said_by_dev_null() {
        let spec =
            spec(json!({"pm_out_log_path": "/dev/null", "pm_err_log_path": "NULL", "time": true}))
                .unwrap();
        assert_eq!((spec.logs.out, spec.logs.err), (None, None));
        assert_eq!(spec.logs.date_format.as_deref(), Some(TIME_FORMAT));
    }
}
