//! The environment an app is started with: the client's, the app's own, and that of `--env` (pm2-behaviour 5.6).

use super::context::{Origin, StartContext};
use serde_json::{Map, Value};

/// What is put over the client's environment, from the bottom up.
pub struct Layers<'a> {
    /// The app's name.
    pub name: &'a str,
    /// `cwd` as written; becomes PWD.
    pub cwd: Option<&'a str>,
    /// The app's `io` options.
    pub io: Option<&'a Value>,
    /// The `env` block.
    pub block: &'a Map<String, Value>,
    /// The `port` key.
    pub port: Option<&'a Value>,
    /// HOME of the user it runs as.
    pub home: Option<&'a str>,
    /// The interpreter is a Python: its output must not be held back.
    pub python: bool,
    /// The `env_<name>` block that `--env` chose.
    pub chosen: Option<&'a Map<String, Value>>,
    /// `filter_env`.
    pub filter: Option<&'a Value>,
}

/// PM2's own fields, which a program that starts apps does not hand on (pm2 7.0.4, measured).
const OWN_FIELDS: [&str; 42] = [
    "name",
    "args",
    "exec_interpreter",
    "node_args",
    "exec_mode",
    "instances",
    "instance_var",
    "env",
    "filter_env",
    "merge_logs",
    "autostart",
    "autorestart",
    "stop_exit_codes",
    "kill_retry_time",
    "treekill",
    "watch",
    "username",
    "vizion",
    "pmx",
    "automation",
    "io",
    "windowsHide",
    "pm_exec_path",
    "pm_cwd",
    "pm_out_log_path",
    "pm_err_log_path",
    "pm_pid_path",
    "status",
    "pm_uptime",
    "created_at",
    "restart_time",
    "unstable_restarts",
    "versioning",
    "axm_actions",
    "axm_monitor",
    "axm_options",
    "axm_dynamic",
    "exit_code",
    "prev_restart_delay",
    "pmx_module",
    "command",
    "current_conf",
];

/// What `filter_env: true` keeps: without these hardly a program starts. (pm2 7.0.4 filters nothing then.)
const BASIC: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PM2_HOME",
    "PM2_USAGE",
    "PM2_JSON_PROCESSING",
];

/// Builds the environment. Values of the client's are text; the app's own keep their JSON type where they are scalar.
pub fn assemble(layers: &Layers<'_>, ctx: &StartContext) -> Map<String, Value> {
    let mut env = inherited(layers.filter, ctx);
    if let Some(cwd) = layers.cwd {
        env.insert("PWD".into(), cwd.into());
    }
    for (name, value) in layers.block {
        env.insert(name.clone(), flat(value));
    }
    if let Some(io) = layers.io {
        env.insert("io".into(), io.to_string().into());
    }
    if let Some(port) = layers.port {
        env.insert("PORT".into(), port.clone());
    }
    if let Some(home) = layers.home {
        env.insert("HOME".into(), home.into());
    }
    if layers.python {
        env.insert("PYTHONUNBUFFERED".into(), "1".into());
    }
    env.insert("PM2_HOME".into(), ctx.pm2_home.as_str().into());
    module_conf(layers.name, ctx, &mut env);
    let over = ctx
        .deploy_env
        .iter()
        .chain(layers.chosen.into_iter().flatten());
    env.extend(over.map(|(name, value)| (name.clone(), value.clone())));
    env
}

/// The client's environment with what PM2's client adds, less what is filtered.
fn inherited(filter: Option<&Value>, ctx: &StartContext) -> Map<String, Value> {
    let mut env = ctx.env.clone();
    env.insert("PM2_USAGE".into(), "CLI".into());
    if ctx.origin == Origin::Config {
        env.insert("PM2_JSON_PROCESSING".into(), "true".into());
    }
    env.retain(|name, _| !(filtered(name, filter) || ctx.programmatic && is_own_field(name)));
    env
}

fn is_own_field(name: &str) -> bool {
    name == "pm_id" || OWN_FIELDS.contains(&name)
}

/// Text names one variable; each entry of a list drops the variables that contain it; true keeps the basic ones.
fn filtered(name: &str, filter: Option<&Value>) -> bool {
    match filter {
        Some(Value::String(text)) => name == text,
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(Value::as_str)
            .any(|part| name.contains(part)),
        Some(Value::Bool(true)) => !BASIC.contains(&name),
        _ => false,
    }
}

/// An environment value that is no scalar, as JSON text.
fn flat(value: &Value) -> Value {
    match value {
        Value::Null | Value::Array(_) | Value::Object(_) => value.to_string().into(),
        scalar => scalar.clone(),
    }
}

/// Each key of the app's section of the `pm2 set` store, and the whole section under the app's own name.
fn module_conf(name: &str, ctx: &StartContext, env: &mut Map<String, Value>) {
    match ctx.module_conf.get(name) {
        Some(Value::Object(section)) => {
            env.extend(
                section
                    .iter()
                    .map(|(key, value)| (key.clone(), flat(value))),
            );
            env.insert(
                name.into(),
                Value::Object(section.clone()).to_string().into(),
            );
        }
        _ if ctx.origin == Origin::Config => drop(env.insert(name.into(), "{}".into())),
        _ => drop(env.insert(name.into(), Value::Object(Map::new()))),
    }
}

/// Whether `--env` names a block that neither the app nor the file's `deploy` has, which PM2 warns about:
/// `Environment [E] is not defined in process file`.
pub fn is_undefined(raw: &Map<String, Value>, ctx: &StartContext) -> bool {
    ctx.env_name
        .as_ref()
        .is_some_and(|name| !raw.contains_key(&format!("env_{name}")) && ctx.deploy_env.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_are_filtered_by_name_by_part_or_all_but_the_basic_ones() {
        for (name, filter, want) in [
            ("HOME", json!("HOM"), false),
            ("HOME", json!("HOME"), true),
            ("HOME", json!(["HOM"]), true),
            ("HOME", json!([]), false),
            ("HOME", json!(true), false),
            ("TOKEN", json!(true), true),
            ("TOKEN", json!(false), false),
        ] {
            assert_eq!(filtered(name, Some(&filter)), want, "{name} {filter}");
        }
    }
}
