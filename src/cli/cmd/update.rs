//! `update`: the daemon makes room for the program that is on disk now, and no app notices.

use super::list;
use crate::cli::program::Program;
use crate::cli::session::{Session, Told};
use crate::pm2::client::ClientError;
use anyhow::{Context, bail};
use clap::ArgMatches;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long the successor may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long it is watched then: the keeper takes the old program back if the new one ends within three seconds.
const WATCHED: Duration = Duration::from_millis(3_300);
/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Deserialize)]
struct Status {
    pid: u32,
    version: String,
    #[serde(default)]
    predecessor: Option<String>,
}

/// `pm2 update`, `fornax update`.
pub fn update(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let output = session.output;
    if session.running_daemon()?.is_none() {
        session.daemon(false)?;
        output.line(">>>>>>>>>> PM2 updated");
        return list::after_action(session, matches);
    }
    let program = std::env::current_exe().context("cannot find our own program file")?;
    let before: Status = session.daemon(true)?.call("fornaxStatus", &[json!({})])?;
    output.done(&format!("Handing over to {}", program.display()));
    let asked: Result<Value, ClientError> = session
        .daemon(true)?
        .call("fornaxHandOver", &[json!({"program": program})]);
    // A connection that broke has not been refused: whoever answers next will tell.
    if let Err(error @ (ClientError::Refused(_) | ClientError::Answer { .. })) = asked {
        output.error(&format!("{error}; the running daemon goes on"));
        bail!(Told);
    }
    let after = successor(session, before.pid)?;
    std::thread::sleep(WATCHED);
    let stayed = successor(session, before.pid)?;
    if let Some(why) = stayed.predecessor.filter(|_| stayed.pid != after.pid) {
        output.error(&why);
        bail!(Told);
    }
    output.done(&format!(
        "Fornax {} is in charge (pid {})",
        stayed.version, stayed.pid
    ));
    if Program::own() == Program::Pm2 {
        count_anew(session)?;
    }
    output.line(">>>>>>>>>> PM2 updated");
    list::after_action(session, matches)
}

/// As `pm2`, restarts count from 0 after an update: scripts look for that.
fn count_anew(session: &mut Session) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let calls: Vec<(&str, Vec<Value>)> = rows
        .iter()
        .map(|row| ("resetMetaProcessId", vec![json!(row.pm_id)]))
        .collect();
    // One that has gone meanwhile has no counter.
    drop(session.daemon(true)?.call_all(&calls)?);
    Ok(())
}

/// Whoever answers, once it is another process than before.
fn successor(session: &mut Session, before: u32) -> anyhow::Result<Status> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        session.disconnect();
        let status = match session.running_daemon() {
            Ok(Some(client)) => client.call::<Status>("fornaxStatus", &[json!({})]).ok(),
            Ok(None) | Err(_) => None,
        };
        match status {
            Some(status) if status.pid != before => return Ok(status),
            _ if Instant::now() > deadline => bail!(
                "no daemon has answered within {} s; see pm2.log in PM2_HOME",
                ANSWER_WITHIN.as_secs()
            ),
            _ => std::thread::sleep(ASK_EVERY),
        }
    }
}
