//! `pm2 list -m`: a block of lines for each instance, in the order of their ids.

use super::row::ProcRow;
use super::style::plain;
use super::units;

/// The blocks, each followed by an empty line. The order is that of `rows`; nothing is coloured, as in PM2.
pub fn list(rows: &[ProcRow], now_ms: u64) -> String {
    rows.iter().map(|row| block(row, now_ms)).collect()
}

fn block(row: &ProcRow, now_ms: u64) -> String {
    let text = |text: Option<&str>| plain(text.unwrap_or("N/A"), false);
    let lines = [
        format!("+--- {}", plain(&row.name, false)),
        format!("namespace : {}", text(row.namespace.as_deref())),
        format!("version : {}", text(row.version.as_deref())),
        format!("pid : {}", row.pid.unwrap_or_default()),
        format!("pm2 id : {}", row.pm_id),
        format!("status : {}", plain(&row.status, false)),
        format!("mode : {}", row.mode_word()),
        format!("restarted : {}", row.restarts.unwrap_or_default()),
        format!("uptime : {}", row.uptime(now_ms)),
        format!("memory usage : {} ", units::memory(row.memory)),
        format!("error log : {}", text(row.err_log_path.as_deref())),
        format!("watching : {}", if row.watch { "yes" } else { "no" }),
        format!("PID file : {}", text(row.pid_path.as_deref())),
    ];
    lines.join("\n") + "\n\n"
}
