//! `sendSignal`, `send`.

use super::list;
use crate::cli::session::{Session, Told};
use crate::pm2::client::ClientError;
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Value, json};

/// `pm2 sendSignal SIGNAL id|name`.
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    signal: &str,
    word: &str,
) -> anyhow::Result<()> {
    let (method, argument) = match word.parse::<u32>() {
        Ok(id) => (
            "sendSignalToProcessId",
            json!({"process_id": id, "signal": signal}),
        ),
        Err(_) => (
            "sendSignalToProcessName",
            json!({"process_name": word, "signal": signal}),
        ),
    };
    session.output.done(&match word.parse::<u32>() {
        Ok(id) => format!("Sending signal to process id {id}"),
        Err(_) => format!("Sending signal to process name {word}"),
    });
    told(session, method, &argument)?;
    session.output.line(&match word.parse::<u32>() {
        Ok(id) => format!("successfully sent signal {signal} to process id {id}"),
        Err(_) => format!("successfully sent signal {signal} to process name {word}"),
    });
    list::after_action(session, matches)
}

/// `pm2 send ID LINE`: a line to its standard input.
pub fn send(
    session: &mut Session,
    matches: &ArgMatches,
    id: &str,
    line: &str,
) -> anyhow::Result<()> {
    let id = id.parse::<u32>().map_or_else(|_| json!(id), |id| json!(id));
    let line = json!({"pm_id": id, "line": format!("{line}\n")});
    match session
        .daemon(false)?
        .call::<Value>("sendLineToStdin", &[line])
    {
        Ok(_) => list::after_action(session, matches),
        Err(ClientError::Refused(words)) => {
            session.output.error(&format!("Error: {words}"));
            bail!(Told)
        }
        Err(error) => Err(error.into()),
    }
}

fn told(session: &mut Session, method: &str, argument: &Value) -> anyhow::Result<()> {
    match session
        .daemon(false)?
        .call::<Value>(method, std::slice::from_ref(argument))
    {
        Ok(_) => Ok(()),
        Err(ClientError::Refused(words)) => {
            session.output.plain_error(&words);
            bail!(Told)
        }
        Err(error) => Err(error.into()),
    }
}
