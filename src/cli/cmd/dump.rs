//! `save` (`dump`), `cleardump`, `resurrect` (pm2 7.0.4, spec 6.9).

use super::{list, start};
use crate::cli::options;
use crate::cli::session::{Session, Told};
use crate::core::spec::normalise::AppConf;
use crate::core::spec::{conf, keys};
use crate::sys::files::{self, Readers};
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Map, Value};

/// `pm2 save`.
pub fn save(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let output = session.output;
    output.done("Saving current process list...");
    let items = session.items(false)?;
    let records: Vec<Value> = items
        .into_iter()
        .filter_map(|mut item| item.get_mut("pm2_env").map(Value::take))
        .filter(|env| env["pmx_module"] != true)
        .map(conf::dumped)
        .collect();
    let forced = options::flag(matches, "force") || std::env::var_os("FORCE").is_some();
    if records.is_empty() && !forced {
        output.warn("PM2 is not managing any process, skipping save...");
        output.warn("To force saving use: pm2 save --force");
        return Ok(());
    }
    let path = session.home.dump_file();
    let text = serde_json::to_string_pretty(&records)?;
    if let Err(error) = files::replace_with_backup(
        &path,
        &session.home.dump_backup(),
        text.as_bytes(),
        Readers::Owner,
    ) {
        output.error(&format!(
            "cannot write {}: {error}; the list saved before it is kept",
            path.display()
        ));
        bail!(Told);
    }
    output.done(&format!("Successfully saved in {}", path.display()));
    Ok(())
}

/// `pm2 cleardump`.
pub fn clear(session: &mut Session) -> anyhow::Result<()> {
    let path = session.home.dump_file();
    files::replace_with_backup(&path, &session.home.dump_backup(), b"[]", Readers::Owner)?;
    session
        .output
        .done(&format!("Successfully created {}", path.display()));
    Ok(())
}

/// `pm2 resurrect`: every saved app whose name is not there yet.
pub fn resurrect(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let output = session.output;
    output.done("Resurrecting");
    let Some(records) = read_dump(session) else {
        output.error("No processes saved; DUMP file doesn't exist");
        return Ok(());
    };
    output.done(&format!(
        "Restoring processes located in {}",
        session.home.dump_file().display()
    ));
    let rows = session.rows()?;
    let confs: Vec<AppConf> = records
        .into_iter()
        .filter_map(|record| match record {
            Value::Object(map) => Some(map),
            _ => None,
        })
        .filter(|map| {
            !rows
                .iter()
                .any(|row| map.get("name").is_some_and(|name| *name == *row.name))
        })
        .filter(|map| {
            let whole = ["name", "pm_exec_path", "pm_cwd"]
                .iter()
                .all(|key| map.get(*key).is_some_and(Value::is_string));
            if !whole {
                output.error("a record of the dump names no app, script or folder; it is left out");
            }
            whole
        })
        .map(restorable)
        .collect();
    let paths: Vec<String> = confs
        .iter()
        .map(|conf| conf.text("pm_exec_path").to_owned())
        .collect();
    let quiet = std::mem::replace(&mut session.output.silent, true);
    let all = start::prepare_all(session, confs);
    session.output.silent = quiet;
    if !all? {
        output.error("not every process could be restored; see pm2.log in PM2_HOME");
    }
    for path in paths {
        output.done(&format!("Process {path} restored"));
    }
    list::after_action(session, matches)
}

/// A record as `prepare` takes it. What the dump holds twice, flattened beside `env`, is left to `env`.
fn restorable(mut map: Map<String, Value>) -> AppConf {
    map.remove("instances");
    let env = map
        .get("env")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    map.retain(|key, value| {
        env.get(key) != Some(value) || keys::key(key).is_some() || key.starts_with("pm_")
    });
    map.insert("env".to_owned(), Value::Object(env));
    AppConf(map)
}

/// The saved list, or the one before it when that can't be read. A broken file is kept aside, for a person to look at.
fn read_dump(session: &Session) -> Option<Vec<Value>> {
    let read = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).ok()?;
        match serde_json::from_str::<Vec<Value>>(&text) {
            Ok(records) => Some(records),
            Err(error) => {
                let aside = path.with_extension("pm2.broken");
                // What can't be moved stays where it is, and is told all the same.
                let _ = std::fs::rename(path, &aside);
                session.output.error(&format!(
                    "Failed to read dump file {}: {error}; it is kept as {}",
                    path.display(),
                    aside.display()
                ));
                None
            }
        }
    };
    read(&session.home.dump_file()).or_else(|| read(&session.home.dump_backup()))
}
