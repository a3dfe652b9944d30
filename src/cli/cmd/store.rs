//! `set`, `get`, `unset`, `conf`: PM2's key store, `module_conf.json` (pm2 7.0.4, spec 6.15).

use crate::cli::session::{Session, Told};
use crate::cli::start_context;
use crate::pm2::client::ClientError;
use crate::sys::files::Readers;
use crate::sys::private;
use crate::sys::versions::Versioned;
use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long another `set` is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// `pm2 set a:b value`. The keys of pm2-logrotate are the built-in rotation's and take effect at once.
pub fn set(session: &mut Session, key: Option<&str>, value: Option<&str>) -> anyhow::Result<()> {
    let Some(key) = key else {
        return edit(session);
    };
    let Some(value) = value else {
        show(session, &read(session), None);
        return Ok(());
    };
    let store = change(session, |store| put(store, &segments(key), value))?;
    let module = segments(key).first().cloned().unwrap_or_default();
    apply(session, &store, &[&module])?;
    session.output.done("Setting changed");
    show(session, &store, Some(&module));
    Ok(())
}

/// `pm2 multiset "a:b 1 c:d 2"`.
pub fn multiset(session: &mut Session, words: &str) -> anyhow::Result<()> {
    let words = crate::core::spec::args::split(words);
    let (pairs, odd) = words.as_chunks::<2>();
    if let [key] = odd {
        session.output.error(&format!(
            "`{key}` has no value; multiset takes \"key value key value\""
        ));
        bail!(Told);
    }
    let store = change(session, |store| {
        for [key, value] in pairs {
            put(store, &segments(key), value);
        }
    })?;
    let mut modules: Vec<String> = Vec::new();
    for [key, _] in pairs {
        modules.extend(segments(key).into_iter().take(1));
    }
    modules.dedup();
    let named: Vec<&str> = modules.iter().map(String::as_str).collect();
    apply(session, &store, &named)?;
    show(session, &store, named.first().copied());
    Ok(())
}

/// `pm2 conf [module]`: its settings, or all. With a value too it stores it.
pub fn conf(session: &mut Session, key: Option<&str>, value: Option<&str>) -> anyhow::Result<()> {
    match (key, value) {
        (Some(_), Some(_)) => set(session, key, value),
        (Some(key), None) if segments(key).len() > 1 => get(session, Some(key)),
        (only, _) => {
            show(session, &read(session), only);
            Ok(())
        }
    }
}

/// `pm2 config key [value]`.
pub fn config(session: &mut Session, key: &str, value: Option<&str>) -> anyhow::Result<()> {
    match value {
        Some(_) => set(session, Some(key), value),
        None => get(session, Some(key)),
    }
}

/// The daemon learns of its own settings, and apps that are named like a section are restarted with theirs, as PM2 does.
fn apply(
    session: &mut Session,
    store: &Map<String, Value>,
    modules: &[&str],
) -> anyhow::Result<()> {
    tell_daemon(session)?;
    if session.running_daemon()?.is_none() {
        return Ok(());
    }
    let rows = session.rows()?;
    for module in modules {
        let mut env = start_context::client_env();
        if let Some(section) = store.get(*module).and_then(Value::as_object) {
            env.extend(section.clone());
            env.insert((*module).to_owned(), Value::Object(section.clone()));
        }
        let calls: Vec<(&str, Vec<Value>)> = rows
            .iter()
            .filter(|row| row.name == *module)
            .map(|row| {
                let argument = json!({"id": row.pm_id, "env": env});
                ("restartProcessId", vec![argument])
            })
            .collect();
        if calls.is_empty() {
            continue;
        }
        for answer in session.daemon(false)?.call_all(&calls)? {
            if let Err(error) = answer {
                session.output.error(&error.to_string());
                bail!(Told);
            }
        }
        session.output.done(&format!("Module {module} restarted"));
    }
    Ok(())
}

/// `pm2 set` without a key: the file in the person's editor.
fn edit(session: &mut Session) -> anyhow::Result<()> {
    change(session, |_| ())?;
    let named = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let editor = named("VISUAL")
        .or_else(|| named("EDITOR"))
        .unwrap_or_else(|| "vim".to_owned());
    let words = crate::core::spec::args::split(&editor);
    let path = file(session).path().to_owned();
    let Some((program, options)) = words.split_first() else {
        bail!("EDITOR names no program");
    };
    let ended = std::process::Command::new(program)
        .args(options)
        .arg(&path)
        .status()
        .with_context(|| format!("cannot start {program}; set EDITOR"))?;
    if !ended.success() {
        bail!("{program} has ended with {ended}");
    }
    tell_daemon(session)
}

/// `pm2 get [key]`.
pub fn get(session: &mut Session, key: Option<&str>) -> anyhow::Result<()> {
    let store = read(session);
    let Some(key) = key else {
        show(session, &store, None);
        return Ok(());
    };
    let path = segments(key);
    let found = path
        .iter()
        .try_fold(&Value::Object(store.clone()), |at, segment| at.get(segment))
        .cloned();
    match (found, path.as_slice()) {
        (Some(Value::Object(_)), _) => {
            show(session, &store, path.first().map(String::as_str));
            session
                .output
                .line("Modules configuration. Copy/Paste line to edit values.");
        }
        (Some(value), [module, rest @ ..]) if !rest.is_empty() => {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            session.output.line(&format!(
                "Value for module {module} key {}: {value}",
                rest.join(".")
            ));
        }
        (Some(value), _) => session.output.line(
            &value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned),
        ),
        (None, _) => bail!(Told),
    }
    Ok(())
}

/// `pm2 unset key`, or `all`.
pub fn unset(session: &mut Session, key: &str) -> anyhow::Result<()> {
    let store = change(session, |store| {
        if key == "all" {
            store.clear();
        } else {
            take(store, &segments(key));
        }
    })?;
    apply(session, &store, &[])?;
    show(session, &store, None);
    Ok(())
}

/// The daemon reads its settings again. PM2's own does at its next start.
fn tell_daemon(session: &mut Session) -> anyhow::Result<()> {
    let Some(client) = session.running_daemon()? else {
        return Ok(());
    };
    match client.call::<Value>("fornaxReloadSettings", &[json!({})]) {
        Ok(_) | Err(ClientError::Foreign { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Split on dots, else on colons. What would reach JavaScript's prototypes stays one flat key.
fn segments(key: &str) -> Vec<String> {
    let separator = if key.contains('.') && !key.contains(':') {
        '.'
    } else {
        ':'
    };
    let parts: Vec<String> = key.split(separator).map(str::to_owned).collect();
    let risky = parts
        .iter()
        .any(|part| matches!(part.as_str(), "__proto__" | "constructor" | "prototype"));
    if risky { vec![key.to_owned()] } else { parts }
}

fn put(map: &mut Map<String, Value>, path: &[String], value: &str) {
    match path {
        [] => {}
        [last] => drop(map.insert(last.clone(), Value::from(value))),
        [first, rest @ ..] => {
            let slot = map.entry(first.clone()).or_insert_with(|| json!({}));
            if !slot.is_object() {
                *slot = json!({});
            }
            if let Some(inner) = slot.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}

fn take(map: &mut Map<String, Value>, path: &[String]) {
    match path {
        [] => {}
        [last] => drop(map.shift_remove(last)),
        [first, rest @ ..] => {
            if let Some(inner) = map.get_mut(first).and_then(Value::as_object_mut) {
                take(inner, rest);
            }
        }
    }
}

/// The stored keys, of the latest version that can be read.
pub(crate) fn read(session: &Session) -> Map<String, Value> {
    let found = file(session).read(parse);
    for broken in &found.broken {
        session
            .output
            .error(&format!("the settings cannot be read: {broken}"));
    }
    found.version.map(|(store, _)| store).unwrap_or_default()
}

fn file(session: &Session) -> Versioned {
    let path = session.home.module_conf();
    let mut backup = path.clone().into_os_string();
    backup.push(".bak");
    Versioned::pair(path, backup.into())
}

/// An empty file is one that `touch` has made, and no error.
fn parse(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Reads, changes and writes under one lock: of two commands at once none undoes the other. What is stored now.
pub(crate) fn change(
    session: &Session,
    how: impl FnOnce(&mut Map<String, Value>),
) -> anyhow::Result<Map<String, Value>> {
    let file = file(session);
    // A broken file is set aside, and told, by the reading: the lock is taken after it.
    read(session);
    let attempt = || -> anyhow::Result<Map<String, Value>> {
        private::folder(session.home.root())?;
        let writing = file.lock(LOCK_LIMIT)?;
        let version = file.read(parse).version;
        let mut store = version.map(|(store, _)| store).unwrap_or_default();
        how(&mut store);
        let mut text = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        serde::Serialize::serialize(
            &store,
            &mut serde_json::Serializer::with_formatter(&mut text, indent),
        )?;
        writing.replace(&text, Readers::Owner, |old| parse(old).map(drop))?;
        Ok(store)
    };
    attempt().map_err(|error| {
        session.output.error(&format!(
            "cannot write {}: {error}; what was stored before is kept",
            file.path().display()
        ));
        Told.into()
    })
}

/// Each module's keys as commands that would set them.
fn show(session: &Session, store: &Map<String, Value>, only: Option<&str>) {
    for (module, section) in store
        .iter()
        .filter(|(module, _)| only.is_none_or(|only| only == module.as_str()))
    {
        session.output.line(&format!("Module: {module}"));
        for (key, value) in section.as_object().into_iter().flatten() {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            session
                .output
                .line(&format!("$ pm2 set {module}:{key} {value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_nest_and_prototypes_do_not() {
        let mut store = Map::new();
        put(&mut store, &segments("pm2-logrotate:max_size"), "10M");
        put(&mut store, &segments("a.b.c"), "1");
        put(&mut store, &segments("__proto__:x"), "2");
        assert_eq!(
            Value::Object(store.clone()),
            json!({"pm2-logrotate": {"max_size": "10M"}, "a": {"b": {"c": "1"}}, "__proto__:x": "2"})
        );
        take(&mut store, &segments("pm2-logrotate:max_size"));
        assert_eq!(store["pm2-logrotate"], json!({}));
    }
}
