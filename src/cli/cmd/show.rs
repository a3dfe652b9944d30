//! `describe`, `env`, `id`, `pid`: one app, looked at closely.

use crate::cli::render::{describe, env, inspect};
use crate::cli::session::{Session, Told, print, wall_ms};
use anyhow::bail;
use serde_json::Value;

/// `pm2 describe`.
pub fn describe(session: &mut Session, word: &str) -> anyhow::Result<()> {
    let items = session.items(false)?;
    let meant: Vec<&Value> = items.iter().filter(|item| is_meant(item, word)).collect();
    if meant.is_empty() {
        session.output.warn_aloud(&format!("{word} doesn't exist"));
        bail!(Told);
    }
    let local: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    for item in meant {
        let local = local
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        session.output.line(
            describe::describe(item, local, wall_ms(), session.output.colour)
                .trim_end_matches('\n'),
        );
    }
    Ok(())
}

/// `pm2 env`.
pub fn env(session: &mut Session, word: &str) -> anyhow::Result<()> {
    let items = session.items(false)?;
    match items.iter().find(|item| has_id(item, word)) {
        Some(item) => session
            .output
            .line(env::lines(&item["pm2_env"], session.output.colour).trim_end_matches('\n')),
        None => {
            session
                .output
                .error(&format!("Modules with id {word} not found"));
            bail!(Told);
        }
    }
    Ok(())
}

/// `pm2 id`: the ids of a name, as Node prints a list.
pub fn id(session: &mut Session, word: &str) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let ids: Vec<u32> = rows
        .iter()
        .filter(|row| row.name == word)
        .map(|row| row.pm_id)
        .collect();
    print(&format!("{}\n", inspect::ids(&ids)));
    Ok(())
}

/// `pm2 pid`: one a line, of a name or an id, or of all.
pub fn pid(session: &mut Session, word: Option<&str>) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let named =
        |name: &str, id: u32| word.is_none_or(|word| name == word || id.to_string() == word);
    let pids: Vec<String> = rows
        .iter()
        .filter(|row| named(&row.name, row.pm_id))
        .map(|row| row.pid.unwrap_or(0).to_string())
        .collect();
    print(&format!("{}\n", pids.join("\n")));
    Ok(())
}

fn has_id(item: &Value, word: &str) -> bool {
    item["pm_id"]
        .as_u64()
        .is_some_and(|id| word.parse() == Ok(id))
}

fn is_meant(item: &Value, word: &str) -> bool {
    item["name"] == word || has_id(item, word) || item["pm2_env"]["pm_exec_path"] == word
}
