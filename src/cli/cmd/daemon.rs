//! `ping`, `kill`, `reloadLogs`: the daemon itself.

use crate::cli::session::{Session, Told};
use crate::sys::{pidfd, procfs};
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long a daemon may take to end after the last app has.
const END_LIMIT: Duration = Duration::from_secs(10);

/// `pm2 ping`.
pub fn ping(session: &mut Session) -> anyhow::Result<()> {
    let _: Value = session.daemon(false)?.call("ping", &[json!({})])?;
    session.output.line("{ msg: 'pong' }");
    Ok(())
}

/// `pm2 kill`: every app, then the daemon. Nothing running is as good.
pub fn kill(session: &mut Session) -> anyhow::Result<()> {
    let output = session.output;
    if session.running_daemon()?.is_none() {
        output.warn_aloud("No process found");
        output.done("[v] PM2 Daemon Stopped");
        return Ok(());
    }
    let rows = session.rows()?;
    let client = session.daemon(false)?;
    client.send("notifyKillPM2", &[json!({})])?;
    if rows.is_empty() {
        output.warn_aloud("No process found");
    } else {
        let ids: Vec<u32> = rows.iter().map(|row| row.pm_id).collect();
        output.line(&crate::cli::render::message::applying(
            "deleteProcessId",
            "all",
            &ids,
            output.colour,
        ));
        // notifyKillPM2 has no answer, so its number is skipped: a connection of its own keeps count.
        session.disconnect();
        let client = session.daemon(false)?;
        let calls: Vec<(&str, Vec<Value>)> = ids
            .iter()
            .map(|id| ("deleteProcessId", vec![json!(id)]))
            .collect();
        for (answer, row) in client.call_all(&calls)?.into_iter().zip(&rows) {
            match answer {
                Ok(_) => output.line(&crate::cli::render::message::ticked(
                    &row.name,
                    row.pm_id,
                    output.colour,
                )),
                Err(error) => output.error(&error.to_string()),
            }
        }
    }
    output.done("[v] All Applications Stopped");
    let process = daemon_process(session);
    let keeper = process.as_ref().and_then(|(pid, _)| keeper_of(*pid));
    let client = session.daemon(false)?;
    // No pid: this client does not wait for a signal, it sees the process end.
    client.send("killMe", &[json!({})])?;
    client.wait_for_end(END_LIMIT);
    if let Some((pid, process)) = process
        && matches!(pidfd::wait_readable(&process, END_LIMIT), Ok(false))
    {
        output.error(&format!(
            "the daemon (pid {pid}) has not ended within {} s; see pm2.log in PM2_HOME, or end it with: kill -9 {pid}",
            END_LIMIT.as_secs()
        ));
        bail!(Told);
    }
    // It ends with its daemon; whoever looks afterwards finds nothing.
    if let Some(keeper) = keeper {
        let _ = pidfd::wait_readable(&keeper, END_LIMIT);
    }
    session.disconnect();
    output.done("[v] PM2 Daemon Stopped");
    Ok(())
}

/// `pm2 deepUpdate`: PM2 fetches itself with npm first. This program comes from elsewhere.
pub fn deep_update(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    session
        .output
        .done("Fornax is not fetched by npm; what is on disk takes over");
    super::update::update(session, matches)
}

/// Ends a daemon of ours, if one runs; PM2's own is left alone.
pub fn kill_if_ours(session: &mut Session) -> anyhow::Result<()> {
    let ours = match session.running_daemon()? {
        Some(client) => client.call::<Value>("fornaxStatus", &[json!({})]).is_ok(),
        None => false,
    };
    if ours { kill(session) } else { Ok(()) }
}

/// The keeper's process, if the daemon has one.
fn keeper_of(daemon: u32) -> Option<OwnedFd> {
    let parent = procfs::stat(daemon)?.ppid;
    let title = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    title
        .starts_with(b"fornax keeper")
        .then(|| pidfd::open(parent).ok())?
}

/// The daemon's process, by its pid file. A pid that is not its own any more is not waited for long.
fn daemon_process(session: &Session) -> Option<(u32, OwnedFd)> {
    let pid = std::fs::read_to_string(session.home.pid_file()).ok()?;
    let pid = pid.trim().parse().ok()?;
    Some((pid, pidfd::open(pid).ok()?))
}

/// `pm2 reloadLogs`.
pub fn reload_logs(session: &mut Session) -> anyhow::Result<()> {
    session.output.line("Reloading all logs...");
    let _: Value = session.daemon(false)?.call("reloadLogs", &[json!({})])?;
    session.output.line("All logs reloaded");
    Ok(())
}
