//! `save` (`dump`), `cleardump`, `resurrect` (pm2 7.0.4, spec 6.9).

use super::{list, start};
use crate::cli::options;
use crate::cli::session::{Session, Told};
use crate::core::spec::normalise::AppConf;
use crate::core::spec::{conf, keys};
use crate::sys::files::Readers;
use crate::sys::private;
use crate::sys::versions::{Versioned, Writing};
use clap::ArgMatches;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long another save is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// `pm2 save`. Asked for under the lock: of two saves at once the later one has the later list.
pub fn save(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let forced = options::flag(matches, "force") || std::env::var_os("FORCE").is_some();
    write_list(session, forced)
}

/// Saves the list that the daemon has now; an empty one only if it is `forced`.
pub fn write_list(session: &mut Session, forced: bool) -> anyhow::Result<()> {
    let output = session.output;
    output.done("Saving current process list...");
    let file = dump(session);
    let writing = lock(session, &file)?;
    let items = session.items(false)?;
    let records: Vec<Value> = items
        .into_iter()
        .filter_map(|mut item| item.get_mut("pm2_env").map(Value::take))
        .filter(|env| env["pmx_module"] != true)
        .map(conf::dumped)
        .collect();
    if records.is_empty() && !forced {
        output.warn("PM2 is not managing any process, skipping save...");
        output.warn("To force saving use: pm2 save --force");
        return Ok(());
    }
    replace(
        session,
        &file,
        &writing,
        &serde_json::to_string_pretty(&records)?,
    )?;
    output.done(&format!("Successfully saved in {}", file.path().display()));
    Ok(())
}

/// `pm2 cleardump`.
pub fn clear(session: &mut Session) -> anyhow::Result<()> {
    let file = dump(session);
    let writing = lock(session, &file)?;
    replace(session, &file, &writing, "[]")?;
    session
        .output
        .done(&format!("Successfully created {}", file.path().display()));
    Ok(())
}

fn dump(session: &Session) -> Versioned {
    Versioned::triple(session.home.dump_file(), session.home.dump_backup())
}

fn lock<'a>(session: &Session, file: &'a Versioned) -> anyhow::Result<Writing<'a>> {
    private::folder(session.home.root())
        .and_then(|_| file.lock(LOCK_LIMIT))
        .map_err(|error| cannot_write(session, file, &error))
}

fn replace(
    session: &Session,
    file: &Versioned,
    writing: &Writing<'_>,
    text: &str,
) -> anyhow::Result<()> {
    let broken = writing
        .replace(text.as_bytes(), Readers::Owner, conf::is_dump)
        .map_err(|error| cannot_write(session, file, &error))?;
    if let Some(broken) = broken {
        session
            .output
            .error(&format!("the list saved before cannot be read: {broken}"));
    }
    Ok(())
}

fn cannot_write(session: &Session, file: &Versioned, error: &std::io::Error) -> anyhow::Error {
    session.output.error(&format!(
        "cannot write {}: {error}; the list saved before it is kept",
        file.path().display()
    ));
    Told.into()
}

/// `pm2 resurrect`: every saved app whose name is not there yet.
pub fn resurrect(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let output = session.output;
    output.done("Resurrecting");
    let file = dump(session);
    let found = file.read(|bytes| {
        serde_json::from_slice::<Vec<Value>>(bytes).map_err(|error| error.to_string())
    });
    for broken in &found.broken {
        output.error(&format!("Failed to read dump file {broken}"));
    }
    let Some((records, from)) = found.version else {
        output.error("No processes saved; DUMP file doesn't exist");
        return Ok(());
    };
    output.done(&format!(
        "Restoring processes located in {}",
        from.display()
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
pub fn restorable(mut map: Map<String, Value>) -> AppConf {
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
