//! `list` and its aliases, `jlist`, `prettylist`.

use crate::cli::options;
use crate::cli::render::{ProcRow, Sort, TableOptions, host, inspect, mini, table};
use crate::cli::session::{Session, Told, name_users, print, wall_ms};
use anyhow::bail;
use clap::ArgMatches;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::io::IsTerminal;

/// `pm2 list`.
pub fn run(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    // Only the blocks of `-m` tell more than the table.
    let brief = !options::flag(matches, "mini-list");
    let wanted = json!({"env": false, "brief": brief});
    let (mut rows, metrics): (Vec<ProcRow>, Value) = session.daemon(false)?.call_both(
        ("getMonitorData", &[wanted]),
        ("getSystemData", &[json!({})]),
    )?;
    name_users(&mut rows);
    show(session, matches, &rows, &metrics)
}

/// The list that PM2 prints after an action.
pub fn after_action(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    if session.output.silent {
        return Ok(());
    }
    run(session, matches)
}

fn show(
    session: &Session,
    matches: &ArgMatches,
    rows: &[ProcRow],
    metrics: &Value,
) -> anyhow::Result<()> {
    if options::flag(matches, "mini-list") {
        session
            .output
            .line(mini::list(rows, wall_ms()).trim_end_matches('\n'));
        return Ok(());
    }
    let sort = match options::value(matches, "sort").map(Sort::parse).transpose() {
        Ok(sort) => sort,
        Err(error) => {
            session.output.error(&error.to_string());
            bail!(Told);
        }
    };
    let options = TableOptions {
        width: terminal_width(),
        colour: session.output.colour,
        sort,
        now_ms: wall_ms(),
    };
    session
        .output
        .line(table::list(rows, &options).trim_end_matches('\n'));
    let layout = table::layout(rows, options.width);
    if let Some(line) = host::line(metrics, layout, options.colour) {
        session.output.line(&line);
    }
    Ok(())
}

/// The columns of the terminal on standard output; `None` when it is none.
pub fn terminal_width() -> Option<u16> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    columns.or_else(|| terminal_size::terminal_size_of(&stdout).map(|(width, _)| width.0))
}

/// `pm2 jlist`: the daemon's own text, on standard output whatever `--silent` says, without a line end.
pub fn jlist(session: &mut Session) -> anyhow::Result<()> {
    let text: Box<RawValue> = session.daemon(true)?.call("getMonitorData", &[json!({})])?;
    print(text.get());
    Ok(())
}

/// `pm2 prettylist`. Scripts count words such as `online` in it, so what we say beyond PM2 is left to `jlist`.
pub fn prettylist(session: &mut Session) -> anyhow::Result<()> {
    let mut items = session.items(true)?;
    for env in items
        .iter_mut()
        .filter_map(|item| item.get_mut("pm2_env")?.as_object_mut())
    {
        env.shift_remove("fornax_state");
    }
    print(&inspect::inspect(&Value::Array(items)));
    Ok(())
}
