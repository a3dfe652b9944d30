//! `set`, `get`, `unset`, `conf`: PM2's key store, `module_conf.json` (pm2 7.0.4, spec 6.15).

use crate::cli::session::{Session, Told};
use crate::sys::files::{self, Readers};
use crate::sys::private;
use anyhow::bail;
use serde_json::{Map, Value, json};

/// `pm2 set a:b value`. The keys of pm2-logrotate are the built-in rotation's and take effect at once.
pub fn set(session: &mut Session, key: &str, value: &str) -> anyhow::Result<()> {
    let mut store = read(session)?;
    put(&mut store, &segments(key), value);
    write(session, &store)?;
    session.output.done("Setting changed");
    show(session, &store, segments(key).first().map(String::as_str));
    if let Some(client) = session.running_daemon()? {
        let _: Value = client.call("fornaxReloadSettings", &[json!({})])?;
    }
    Ok(())
}

/// `pm2 get [key]`.
pub fn get(session: &mut Session, key: Option<&str>) -> anyhow::Result<()> {
    let store = read(session)?;
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
    let mut store = read(session)?;
    if key == "all" {
        store.clear();
    } else {
        take(&mut store, &segments(key));
    }
    write(session, &store)?;
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

fn read(session: &Session) -> anyhow::Result<Map<String, Value>> {
    let path = session.home.module_conf();
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| {
            session.output.error(&format!(
                "{} is not JSON: {error}; mend it or remove it",
                path.display()
            ));
            Told.into()
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(error) => Err(error.into()),
    }
}

fn write(session: &Session, store: &Map<String, Value>) -> anyhow::Result<()> {
    private::folder(session.home.root())?;
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    serde::Serialize::serialize(
        store,
        &mut serde_json::Serializer::with_formatter(&mut text, indent),
    )?;
    files::replace(&session.home.module_conf(), &text, Readers::Owner)?;
    Ok(())
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
