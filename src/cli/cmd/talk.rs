//! `attach`, `trigger`, `inspect`: talking to a running app (pm2 7.0.4, spec 6.17).

use super::act;
use crate::cli::render::ProcRow;
use crate::cli::session::{Session, Told, print};
use crate::core::ids::PmId;
use crate::core::select::Target;
use crate::pm2::client::{BusClient, Client, ClientError};
use anyhow::bail;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{self, BufRead};
use std::time::{Duration, Instant};

/// How long the replies to an action may take.
const REPLIES: Duration = Duration::from_secs(60);

/// `pm2 attach ID [separator]`: lines typed here go to the app, what it writes comes back, until the end of input.
pub fn attach(session: &mut Session, word: &str, separator: Option<&str>) -> anyhow::Result<()> {
    let Ok(id) = word.parse::<u32>() else {
        session
            .output
            .plain_error("pm_id must be a process number (not a process name)");
        bail!(Told);
    };
    session.daemon(false)?;
    let mut bus = BusClient::connect(&session.home.pub_socket())?;
    if !session.rows()?.iter().any(|row| row.pm_id == id) {
        session
            .output
            .error(&format!("Error: Process with ID <{id}> unknown."));
        bail!(Told);
    }
    // It ends with this process; when the daemon ends, this process ends with it.
    std::thread::Builder::new()
        .name("fornax-attached".to_owned())
        .spawn(move || {
            while let Ok((topic, payload)) = bus.next_event() {
                let payload: Value = serde_json::from_str(&payload).unwrap_or_default();
                if matches!(&*topic, "log:out" | "log:err") && payload["process"]["pm_id"] == id {
                    print(payload["data"].as_str().unwrap_or_default());
                }
            }
            eprintln!("the daemon has ended; see pm2.log in PM2_HOME");
            std::process::exit(1);
        })?;
    let separator = separator.unwrap_or("\n");
    for line in io::stdin().lock().lines() {
        let packet = json!({"pm_id": id, "line": line? + separator});
        match session
            .daemon(false)?
            .call::<Value>("sendLineToStdin", &[packet])
        {
            Ok(_) => {}
            Err(ClientError::Refused(words)) => {
                session.output.error(&format!("Error: {words}"));
                bail!(Told);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `pm2 trigger TARGET ACTION [PARAMETER]`: an action that apps offer, and what they reply.
pub fn trigger(
    session: &mut Session,
    word: &str,
    action: &str,
    parameter: Option<&str>,
) -> anyhow::Result<()> {
    let items = session.items(false)?;
    let rows = session.rows()?;
    let target = act::parse(session, word)?;
    let meant = act::select(&target, &rows);
    if let (true, Target::Word(_), Some(id)) = (meant.is_empty(), &target, target.id_meant()) {
        session.output.plain_error(&format!("{id} id unknown"));
        bail!(Told);
    }
    let offers = |id: &PmId| {
        let item = items.iter().find(|item| item["pm_id"] == id.0);
        let actions = item.and_then(|item| item["pm2_env"]["axm_actions"].as_array());
        actions
            .into_iter()
            .flatten()
            .any(|offered| offered["action_name"] == action)
    };
    let ids: Vec<PmId> = meant.iter().copied().filter(offers).collect();
    if ids.is_empty() {
        let one = meant.first().filter(|_| word.parse::<u32>().is_ok());
        session
            .output
            .plain_error(&match one.and_then(|id| named(&rows, *id)) {
                Some(row) => format!("Action doesn't exist {action} for {}", row.name),
                None => "Not any process has received a command (offline or unexistent)".to_owned(),
            });
        bail!(Told);
    }
    // Before the apps are asked, so that no reply is missed.
    let bus = BusClient::connect(&session.home.pub_socket())?;
    let calls: Vec<(&str, Vec<Value>)> = ids
        .iter()
        .map(|id| {
            let mut packet = json!({"id": id, "msg": action});
            if let Some(parameter) = parameter {
                packet["opts"] = Value::from(parameter);
                packet["name"] = Value::from(named(&rows, *id).map_or("", |row| &row.name));
            }
            ("msgProcess", vec![packet])
        })
        .collect();
    let mut waiting: HashSet<u64> = HashSet::new();
    for (answer, id) in session
        .daemon(false)?
        .call_all(&calls)?
        .into_iter()
        .zip(&ids)
    {
        match answer {
            Ok(_) => drop(waiting.insert(id.0.into())),
            Err(error) => session.output.plain_error(&error.to_string()),
        }
    }
    if waiting.is_empty() {
        bail!(Told);
    }
    session.output.line(&format!(
        "{} processes have received command {action}",
        waiting.len()
    ));
    replies(session, bus, action, waiting)
}

fn named(rows: &[ProcRow], id: PmId) -> Option<&ProcRow> {
    rows.iter().find(|row| row.pm_id == id.0)
}

/// Prints each app's reply as it comes.
fn replies(
    session: &Session,
    mut bus: BusClient,
    action: &str,
    mut waiting: HashSet<u64>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + REPLIES;
    while !waiting.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            session.output.error(&format!(
                "{} of them have not replied to `{action}` within {} s",
                waiting.len(),
                REPLIES.as_secs()
            ));
            bail!(Told);
        }
        bus.set_timeout(Some(left))?;
        let (topic, payload) = match bus.next_event() {
            Ok(event) => event,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let payload: Value = serde_json::from_str(&payload).unwrap_or_default();
        let (process, data) = (&payload["process"], &payload["data"]);
        let id = process["pm_id"].as_u64().unwrap_or(u64::MAX);
        if topic == "axm:reply" && data["action_name"] == action && waiting.remove(&id) {
            session.output.line(&format!(
                "[{}:{id}:{}]={}",
                process["name"].as_str().unwrap_or_default(),
                process["namespace"].as_str().unwrap_or("default"),
                data["return"]
            ));
        }
    }
    Ok(())
}

/// `pm2 inspect NAME`: Node opens its inspector on SIGUSR1. Anything but Node would end by that signal.
pub fn inspect(session: &mut Session, word: &str) -> anyhow::Result<()> {
    let items = session.items(false)?;
    let id = word.parse::<u64>().ok();
    let runs_node = |item: &&Value| {
        let interpreter = item["pm2_env"]["exec_interpreter"].as_str();
        let interpreter = interpreter.unwrap_or_default();
        (item["name"] == word || (id.is_some() && item["pm_id"].as_u64() == id))
            && matches!(interpreter.rsplit('/').next(), Some("node" | "nodejs"))
            && item["pid"].as_u64().is_some_and(|pid| pid > 0)
    };
    let Some(item) = items.iter().find(runs_node) else {
        session
            .output
            .line(&format!("Unable to activate inspect mode on {word} !!!"));
        return Ok(());
    };
    let signal = json!({"process_id": item["pm_id"], "signal": "SIGUSR1"});
    let client: &mut Client = session.daemon(false)?;
    client.call::<Value>("sendSignalToProcessId", &[signal])?;
    session.output.line(&format!(
        "Inspect mode is on in {word}: open chrome://inspect; its address is in the app's error log"
    ));
    Ok(())
}
