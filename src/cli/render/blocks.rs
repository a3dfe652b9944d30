//! What `describe` adds to PM2's page: the health of the service, and how its last run ended.

use super::describe::title;
use super::grid::{Cell, Grid};
use super::style::plain;
use super::units;
use serde_json::Value;

/// The blocks " Health " and " Last exit " from `pm2_env.fornax_state`; empty when there is no such state, as with a
/// daemon of real PM2.
pub(super) fn fornax(state: Option<&Value>, now_ms: u64, colour: bool) -> String {
    let Some(state) = state.filter(|state| state.is_object()) else {
        return String::new();
    };
    health(state, colour) + &last_exit(state.get("last_exit"), now_ms, colour)
}

fn health(state: &Value, colour: bool) -> String {
    let text = |key: &str| {
        state
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let fields = [
        ("service status", text("service_status")),
        ("message", text("message")),
    ];
    let rows: Vec<Vec<Cell>> = fields
        .iter()
        .filter_map(|(label, text)| text.map(|text| vec![Cell::from(label), Cell::from(text)]))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    title("Health", colour) + &table(rows, colour)
}

fn last_exit(exit: Option<&Value>, now_ms: u64, colour: bool) -> String {
    let Some(exit) = exit.filter(|exit| exit.is_object()) else {
        return String::new();
    };
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    if let Some(cause) = exit.get("cause").and_then(Value::as_str) {
        rows.push(vec!["cause".into(), cause.into()]);
    }
    if let Some(why) = exit.get("why").and_then(Value::as_str) {
        rows.push(vec!["why".into(), why.into()]);
    }
    if let Some(at_ms) = exit.get("at_ms").and_then(Value::as_u64) {
        let ago = units::uptime(now_ms.saturating_sub(at_ms));
        let date = i64::try_from(at_ms).ok().and_then(units::iso); // Past the year 9999 only the distance is told.
        let date = date.map_or_else(String::new, |date| format!("{date}, "));
        rows.push(vec!["when".into(), format!("{date}{ago} ago").into()]);
    }
    let tail = exit.get("stderr_tail").and_then(Value::as_array);
    let lines: Vec<String> = tail
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|line| format!("   {}\n", plain(line, false)))
        .collect();
    let heading = if lines.is_empty() {
        ""
    } else {
        " Last lines of its standard error:\n"
    };
    format!(
        "{}{}{heading}{}",
        title("Last exit", colour),
        table(rows, colour),
        lines.concat()
    )
}

fn table(rows: Vec<Vec<Cell>>, colour: bool) -> String {
    Grid {
        rows,
        keyed: true,
        ..Grid::default()
    }
    .draw(colour)
}
