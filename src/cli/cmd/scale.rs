//! `scale` and `reset` (pm2 7.0.4, spec 4.8, 6.2).

use super::{act, carry, list};
use crate::cli::session::{Session, Told};
use crate::core::ids::PmId;
use crate::core::select::Target;
use crate::pm2::client::ClientError;
use crate::sys::versions;
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Value, json};
use std::time::Duration;

/// How long another `scale` is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// `pm2 scale NAME 4`, or `+2`.
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    name: &str,
    number: &str,
) -> anyhow::Result<()> {
    // Of two commands at once, the later one counts what the earlier one has made.
    session.daemon(false)?;
    let lock = versions::exclusive(&session.home.root().join("scale"), LOCK_LIMIT);
    let _lock = match lock {
        Ok(lock) => lock,
        Err(error) => {
            session.output.error(&format!(
                "another scale has not ended within {} s ({error}); nothing was done",
                LOCK_LIMIT.as_secs()
            ));
            bail!(Told);
        }
    };
    let rows = session.rows()?;
    let ids: Vec<PmId> = rows
        .iter()
        .filter(|row| row.name == name)
        .map(|row| PmId(row.pm_id))
        .collect();
    let Some(first) = ids.first() else {
        session
            .output
            .error(&format!("Application {name} not found"));
        bail!(Told);
    };
    let wanted = match number.strip_prefix('+') {
        Some(more) => more.parse::<usize>().ok().map(|more| ids.len() + more),
        None => number.parse().ok(),
    };
    let Some(wanted) = wanted.filter(|wanted| *wanted <= 10_000) else {
        session.output.error(&format!(
            "`{number}` is not a number of instances; use 4 or +2"
        ));
        bail!(Told);
    };
    match wanted.cmp(&ids.len()) {
        std::cmp::Ordering::Equal => {
            session.output.error("Nothing to do");
            bail!(Told);
        }
        std::cmp::Ordering::Greater => {
            for _ in ids.len()..wanted {
                session.output.done("Scaling up application");
                session
                    .daemon(false)?
                    .call::<Value>("duplicateProcessId", &[json!(first)])?;
            }
        }
        std::cmp::Ordering::Less => {
            for id in &ids[..ids.len() - wanted] {
                carry::delete_one(session, *id, &rows)?;
            }
        }
    }
    list::after_action(session, matches)
}

/// `pm2 reset`: counters to zero.
pub fn reset(session: &mut Session, matches: &ArgMatches, word: &str) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let target = act::parse(session, word)?;
    let mut ids = act::select(&target, &rows);
    if ids.is_empty() {
        match target.id_meant() {
            Some(id) => ids.push(id),
            None if matches!(target, Target::All) => {}
            None => {
                session.output.plain_error("Unknown process name");
                bail!(Told);
            }
        }
    }
    for id in ids {
        session
            .output
            .done(&format!("Resetting meta for process id {id}"));
        match session
            .daemon(false)?
            .call::<Value>("resetMetaProcessId", &[json!(id)])
        {
            Ok(_) => {}
            // PM2 prints it and ends with 0 (spec 6.2).
            Err(ClientError::Refused(words)) => {
                session.output.plain_error(&format!("Error: {words}"))
            }
            Err(error) => return Err(error.into()),
        }
    }
    list::after_action(session, matches)
}
