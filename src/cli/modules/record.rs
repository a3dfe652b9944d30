//! Which modules are installed, and their settings: sections of module_conf.json, as PM2 keeps them.

use super::manifest::Manifest;
use crate::cli::cmd::store;
use crate::cli::options;
use crate::cli::session::{Session, wall_ms};
use clap::ArgMatches;
use serde_json::{Map, Value, json};

/// The section of those that npm has fetched.
const PACKAGES: &str = "module-db-v2";
/// The section of PM2's tarballs.
const TARBALLS: &str = "tar-modules";

/// Names of those that npm has fetched.
pub fn packages(session: &Session) -> Vec<String> {
    names(session, PACKAGES)
}

/// Names of PM2's tarballs.
pub fn tarballs(session: &Session) -> Vec<String> {
    names(session, TARBALLS)
}

fn names(session: &Session, section: &str) -> Vec<String> {
    let store = store::read(session);
    let section = store.get(section).and_then(Value::as_object);
    section
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

/// The registry that `pm2 set pm2:registry` names.
pub fn registry(session: &Session) -> Option<String> {
    let store = store::read(session);
    store
        .get("pm2")?
        .get("registry")?
        .as_str()
        .map(str::to_owned)
}

fn section<'a>(store: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let section = store.entry(name).or_insert_with(|| json!({}));
    if !section.is_object() {
        *section = json!({});
    }
    section.as_object_mut().expect("made an object above")
}

/// Notes one that npm has fetched.
pub fn add(session: &Session, matches: &ArgMatches, name: &str) -> anyhow::Result<()> {
    let mut how = Map::new();
    for key in ["uid", "gid"] {
        if let Some(value) = options::value(matches, key) {
            how.insert(key.to_owned(), json!(value));
        }
    }
    store::change(session, |store| {
        section(store, TARBALLS).shift_remove(name);
        drop_empty(store, TARBALLS);
        section(store, PACKAGES).insert(name.to_owned(), Value::Object(how));
    })?;
    Ok(())
}

/// Notes a tarball.
pub fn add_tarball(session: &Session, name: &str, from: &str) -> anyhow::Result<()> {
    let mut how = json!({"source": "tarball", "installed_at": wall_ms()});
    if from.contains("://") {
        how["install_url"] = json!(from);
    }
    store::change(session, |store| {
        drop(section(store, TARBALLS).insert(name.to_owned(), how));
    })?;
    Ok(())
}

/// Forgets a module; its settings stay, as PM2's do.
pub fn remove(session: &Session, name: &str) -> anyhow::Result<()> {
    store::change(session, |store| {
        for kind in [PACKAGES, TARBALLS] {
            if store.contains_key(kind) {
                section(store, kind).shift_remove(name);
                drop_empty(store, kind);
            }
        }
    })?;
    Ok(())
}

fn drop_empty(store: &mut Map<String, Value>, name: &str) {
    if store
        .get(name)
        .and_then(Value::as_object)
        .is_some_and(Map::is_empty)
    {
        store.shift_remove(name);
    }
}

/// The settings that a module's package.json has and the store has not.
pub fn defaults(session: &Session, manifest: &Manifest) -> anyhow::Result<()> {
    if manifest.config.is_empty() {
        return Ok(());
    }
    store::change(session, |store| {
        let own = section(store, &manifest.name);
        for (key, value) in &manifest.config {
            if !own.contains_key(key) {
                own.insert(key.clone(), value.clone());
            }
        }
    })?;
    Ok(())
}
