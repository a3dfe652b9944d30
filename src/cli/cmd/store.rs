//! `set`, `get`, `unset`, `conf`: PM2's key store, `module_conf.json` (pm2 7.0.4, spec 6.15).

use crate::cli::session::{Session, Told};
use crate::sys::files::Readers;
use crate::sys::private;
use crate::sys::versions::Versioned;
use anyhow::bail;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long another `set` is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// `pm2 set a:b value`. The keys of pm2-logrotate are the built-in rotation's and take effect at once.
pub fn set(session: &mut Session, key: &str, value: &str) -> anyhow::Result<()> {
    let store = change(session, |store| put(store, &segments(key), value))?;
    session.output.done("Setting changed");
    show(session, &store, segments(key).first().map(String::as_str));
    if let Some(client) = session.running_daemon()? {
        let _: Value = client.call("fornaxReloadSettings", &[json!({})])?;
    }
    Ok(())
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
        (Some(Value::Object(_)), _) => show(session, &store, path.first().map(String::as_str)),
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
    change(session, |store| {
        if key == "all" {
            store.clear();
        } else {
            take(store, &segments(key));
        }
    })?;
    if let Some(client) = session.running_daemon()? {
        let _: Value = client.call("fornaxReloadSettings", &[json!({})])?;
    }
    Ok(())
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
