//! The circumstances of a start, gathered from this process.

use super::cmd::store;
use super::options;
use super::session::{Session, user_name};
use crate::core::spec::context::{Origin, StartContext};
use clap::ArgMatches;
use serde_json::{Map, Value};
use std::path::Path;

/// Variables of ours that no app is to inherit: they belong to the manager that started this shell's app.
const NOT_INHERITED: [&str; 4] = [
    "FORNAX_INSTANCE",
    "FORNAX_READY_FD",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
];

/// Files that `--ext` leaves out at most.
const MOST_IGNORED: usize = 10_000;

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
    if let Some(endings) = options::value(matches, "ext") {
        let ignored = other_endings(&std::env::current_dir()?, endings);
        overrides.insert("ignore_watch".to_owned(), Value::from(ignored));
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

/// `--ext js,json`: the files that end otherwise, and the folders that are not watched, as a list made now (pm2 7.0.4).
fn other_endings(folder: &Path, endings: &str) -> Vec<String> {
    let endings: Vec<&str> = endings.split(',').map(str::trim).collect();
    let mut found = vec!["node_modules".to_owned()];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let wanted = || {
                let ending = name.rsplit_once('.').map(|(_, ending)| ending);
                ending.is_some_and(|ending| endings.contains(&ending))
            };
            if name == "node_modules" {
                continue;
            }
            if is_folder && !name.starts_with('.') {
                folders.push(entry.path());
            } else if is_folder || !wanted() {
                found.push(entry.path().to_string_lossy().into_owned());
            }
            if found.len() >= MOST_IGNORED {
                return found;
            }
        }
    }
    found
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
