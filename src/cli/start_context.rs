//! The circumstances of a start, gathered from this process.

use super::cmd::store;
use super::options;
use super::session::{Session, user_name};
use crate::core::spec::context::{Origin, StartContext};
use clap::ArgMatches;
use serde_json::{Map, Value};

/// Variables of ours that no app is to inherit: they belong to the manager that started this shell's app.
const NOT_INHERITED: [&str; 4] = [
    "FORNAX_INSTANCE",
    "FORNAX_READY_FD",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
];

/// Reads the environment, the folder and the options.
pub fn gather(
    session: &Session,
    matches: &ArgMatches,
    origin: Origin,
    rest: &[String],
) -> anyhow::Result<StartContext> {
    let mut overrides = options::app_keys(matches);
    if !rest.is_empty() {
        overrides.insert("args".to_owned(), Value::from(rest.to_vec()));
    }
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    Ok(StartContext {
        origin,
        cwd: path(std::env::current_dir()?),
        env: client_env(),
        overrides,
        env_name: options::value(matches, "env").map(str::to_owned),
        deploy_env: Map::new(),
        pm2_home: path(session.home.root().to_owned()),
        log_dir: path(session.home.logs()),
        pid_dir: path(session.home.pids()),
        username: user_name(),
        programmatic: std::env::var_os("PM2_PROGRAMMATIC").is_some()
            || std::env::var_os("pm_id").is_some(),
        module_conf: store::read(session),
    })
}

/// The environment of this command, as text.
pub fn client_env() -> Map<String, Value> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    let mut env: Map<String, Value> = all
        .filter(|(name, _)| !NOT_INHERITED.contains(&name.as_str()))
        .map(|(name, value)| (name, Value::from(value)))
        .collect();
    env.insert("PM2_USAGE".to_owned(), Value::from("CLI"));
    env
}
