//! An action on instances that have been chosen: carried out in rounds, and told as PM2 tells it (pm2 7.0.4, spec 6.1).

use super::act::Action;
use crate::cli::render::{ProcRow, message};
use crate::cli::session::{Session, Told};
use crate::core::ids::PmId;
use crate::pm2::client::{Client, ClientError};
use anyhow::bail;
use serde_json::{Value, json};

/// Whether an action is announced before it is carried out: PM2 does, but not for stop and delete by file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announced {
    Yes,
    No,
}

/// Carries the action out on all ids, and tells it as PM2 does.
pub fn apply(
    session: &mut Session,
    action: Action,
    word: &str,
    ids: &[PmId],
    rows: &[ProcRow],
    env: &Value,
) -> anyhow::Result<()> {
    out(session, action, word, ids, rows, env, Announced::Yes)
}

/// Deletes one instance of several, as `scale` does.
pub fn delete_one(session: &mut Session, id: PmId, rows: &[ProcRow]) -> anyhow::Result<()> {
    let (action, word) = (Action::Delete, id.to_string());
    let output = session.output;
    output.line(&message::applying(
        action.method(),
        &word,
        &[id.0],
        output.colour,
    ));
    out(
        session,
        action,
        &word,
        &[id],
        rows,
        &Value::Null,
        Announced::No,
    )
}

pub(super) fn out(
    session: &mut Session,
    action: Action,
    word: &str,
    ids: &[PmId],
    rows: &[ProcRow],
    env: &Value,
    announced: Announced,
) -> anyhow::Result<()> {
    let output = session.output;
    let numbers: Vec<u32> = ids.iter().map(|id| id.0).collect();
    let by_id =
        numbers == [word.parse().unwrap_or(u32::MAX)] && !rows.iter().any(|row| row.name == word);
    if announced == Announced::Yes {
        output.line(&if by_id {
            message::applying_by_id(action.method(), word, output.colour)
        } else {
            message::applying(action.method(), word, &numbers, output.colour)
        });
    }
    let argument = |id: &PmId| match action {
        Action::Restart | Action::Reload => json!({"id": id, "env": env}),
        Action::Stop | Action::Delete => json!(id),
    };
    let calls: Vec<(&str, Vec<Value>)> = ids
        .iter()
        .map(|id| (action.method(), vec![argument(id)]))
        .collect();
    if matches!(action, Action::Stop | Action::Delete) {
        tell_watch(session, "stopWatch", action, ids)?;
    }
    let at_once = at_once(session, action, ids.len());
    let client = session.daemon(false)?;
    let rounds = calls.chunks(at_once).zip(ids.chunks(at_once));
    for (answer, id) in rounds.flat_map(|(calls, ids)| answers(client, calls, ids)) {
        match answer {
            Ok(_) => {
                let known = rows.iter().find(|row| row.pm_id == id.0);
                let known = known.map_or(word, |row| row.name.as_str());
                // `--name` has given it another.
                let name = env["current_conf"]["name"].as_str().unwrap_or(known);
                output.line(&message::ticked(name, id.0, output.colour));
            }
            Err(ClientError::Refused(words)) => {
                output.error(&words);
                bail!(Told);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let notices: Vec<(&str, Vec<Value>)> = ids
        .iter()
        .map(|id| {
            (
                "notifyByProcessId",
                vec![json!({"id": id, "action_name": action.event(), "manually": true})],
            )
        })
        .collect();
    // Told to whoever listens; that a deleted one is not known any more is as it should be.
    drop(client.call_all(&notices)?);
    // By file it has been told before.
    if action == Action::Stop && announced == Announced::Yes {
        warn_of_cron(output, ids, rows);
    }
    Ok(())
}

/// How many instances an action is for at a time. A reload goes by steps, so that the others serve meanwhile (pm2 7.0.4:
/// one by one up to two instances, else `PM2_CONCURRENT_ACTIONS`, 2).
fn at_once(session: &Session, action: Action, ids: usize) -> usize {
    let default = match action {
        Action::Reload if ids <= 2 => 1,
        Action::Reload => std::env::var("PM2_CONCURRENT_ACTIONS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(2),
        Action::Stop | Action::Restart | Action::Delete => usize::MAX,
    };
    session.parallel.unwrap_or(default).max(1)
}

/// One round: the answers to these calls, each with the id it is about.
fn answers(
    client: &mut Client,
    calls: &[(&str, Vec<Value>)],
    ids: &[PmId],
) -> Vec<(Result<Value, ClientError>, PmId)> {
    match client.call_all(calls) {
        Ok(answers) => answers.into_iter().zip(ids.iter().copied()).collect(),
        Err(error) => ids
            .first()
            .map(|id| (Err(error), *id))
            .into_iter()
            .collect(),
    }
}

/// `stopWatch` before an app is stopped, so that no change of a file starts it again; `toggleWatch` for `restart --watch`.
pub(super) fn tell_watch(
    session: &mut Session,
    method: &str,
    action: Action,
    ids: &[PmId],
) -> anyhow::Result<()> {
    let argument = |id: &PmId| match action {
        Action::Restart | Action::Reload => json!({"id": id}),
        Action::Stop | Action::Delete => json!(id),
    };
    let calls: Vec<(&str, Vec<Value>)> = ids
        .iter()
        .map(|id| (method, vec![json!(action.method()), argument(id)]))
        .collect();
    for answer in session.daemon(false)?.call_all(&calls)? {
        if let Err(ClientError::Refused(words)) = answer {
            session.output.error(&words);
            bail!(Told);
        }
    }
    Ok(())
}

/// A stop does not switch a cron pattern off: it will start the app.
fn warn_of_cron(output: crate::cli::session::Output, ids: &[PmId], rows: &[ProcRow]) {
    let stopped = rows.iter().filter(|row| ids.contains(&PmId(row.pm_id)));
    for row in stopped {
        if let Some(pattern) = &row.cron_restart {
            output.warn(&message::cron_still_up(&row.name, pattern, output.colour));
        }
    }
}
