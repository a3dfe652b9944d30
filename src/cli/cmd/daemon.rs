//! `ping`, `kill`, `reloadLogs`: the daemon itself.

use crate::cli::session::{Session, print};
use serde_json::{Value, json};
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
    let client = session.daemon(false)?;
    // No pid: this client does not wait for a signal, it sees the connection end.
    client.send("killMe", &[json!({})])?;
    client.wait_for_end(END_LIMIT);
    wait_for_lock(session);
    session.disconnect();
    output.done("[v] PM2 Daemon Stopped");
    Ok(())
}

/// Until the daemon has let go of its home, so that the next command finds it clean.
fn wait_for_lock(session: &Session) {
    let until = std::time::Instant::now() + END_LIMIT;
    while session.home.pid_file().exists() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `pm2 reloadLogs`.
pub fn reload_logs(session: &mut Session) -> anyhow::Result<()> {
    session.output.line("Reloading all logs...");
    let _: Value = session.daemon(false)?.call("reloadLogs", &[json!({})])?;
    session.output.line("All logs reloaded");
    Ok(())
}

/// `pm2 report`, as far as the daemon goes.
pub fn report(session: &mut Session) -> anyhow::Result<()> {
    let report: Value = session.daemon(false)?.call("getReport", &[json!({})])?;
    print(&format!(
        "{}\n",
        crate::cli::render::inspect::inspect(&report)
    ));
    Ok(())
}
