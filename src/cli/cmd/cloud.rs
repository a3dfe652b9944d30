//! What belongs to PM2's own service. Fornax has none: its state is on HTTP.

use super::{act, list};
use crate::cli::session::{Session, Told};
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Value, json};

/// `monitor` and `unmonitor`: the mark that `jlist` shows (pm2 7.0.4: nothing found is no failure).
pub fn mark(
    session: &mut Session,
    matches: &ArgMatches,
    word: Option<&str>,
    on: bool,
) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let target = act::parse(session, word.unwrap_or("all"))?;
    let method = if on { "monitor" } else { "unmonitor" };
    let calls: Vec<(&str, Vec<Value>)> = act::select(&target, &rows)
        .iter()
        .map(|id| (method, vec![json!(id)]))
        .collect();
    for answer in session.daemon(false)?.call_all(&calls)? {
        if let Err(error) = answer {
            session.output.error(&error.to_string());
            bail!(Told);
        }
    }
    list::after_action(session, matches)
}

/// A command that only that service could answer.
pub fn refuse(session: &Session, name: &str) -> anyhow::Result<()> {
    session.output.error(&format!(
        "`{name}` needs PM2's own cloud service, which Fornax does not talk to; its state is on HTTP: see docs/http.md"
    ));
    bail!(Told)
}

/// A command that there is none of here, and why.
pub fn refuse_for(session: &Session, name: &str, why: &str) -> anyhow::Result<()> {
    session
        .output
        .error(&format!("`{name}` is not supported: it {why}"));
    bail!(Told)
}
