//! `report`, `slist`, `profile:*`: the daemon and the machine it runs on (pm2 7.0.4, spec 6.17).

use super::list;
use crate::cli::cmd::logs::last_lines;
use crate::cli::render::inspect;
use crate::cli::session::{Session, Told, print, wall_ms};
use anyhow::bail;
use clap::ArgMatches;
use serde_json::{Value, json};

/// Lines of `pm2.log` in a report.
const LOG_LINES: usize = 20;
/// The width of a report's rules.
const WIDTH: usize = 79;

/// `pm2 report`: what a person would be asked for when something goes wrong, in one block. No environment is in it.
pub fn report(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let report: Value = session.daemon(true)?.call("getReport", &[json!({})])?;
    let system: Value = session.daemon(true)?.call("getSystemData", &[json!({})])?;
    let told = |key: &str| match &report[key] {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let uptime = report["started_at"]
        .as_u64()
        .map_or(0, |since| wall_ms().saturating_sub(since) / 1_000);
    let metric = |key: &str| {
        let value = &system[key]["value"];
        if value.is_null() {
            "unknown".to_owned()
        } else {
            value.to_string()
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let line = |key: &str, value: String| print(&format!("{key:<21}: {value}\n"));
    let title = |name: &str| {
        let begun = format!("--- {name} ");
        print(&format!("{}\n{begun:-<WIDTH$}\n", "=".repeat(WIDTH)));
    };
    print("\n```\n");
    let begun = "--- PM2 report ";
    print(&format!("{begun:-<WIDTH$}\n"));
    line(
        "Date",
        crate::sys::localtime::text("YYYY-MM-DDTHH:mm:ssZ", wall_ms()),
    );
    title("Daemon");
    line("pm2d version", told("pm2_version"));
    line("fornax version", told("fornax_version"));
    line("node version", told("node_version"));
    line("argv0", told("argv0"));
    line("user", told("user"));
    line("uid", told("uid"));
    line("gid", told("gid"));
    line("managed apps", told("managed_apps"));
    line("uptime", format!("{}min", uptime / 60));
    title("CLI");
    line("local pm2", "7.0.4".to_owned());
    line("fornax version", env!("CARGO_PKG_VERSION").to_owned());
    line("user", crate::cli::session::user_name());
    line("uid", nix::unistd::getuid().to_string());
    line("gid", nix::unistd::getgid().to_string());
    title("System info");
    line("arch", std::env::consts::ARCH.to_owned());
    line("platform", std::env::consts::OS.to_owned());
    line("cpus nb", processors.to_string());
    line("freemem", metric("RAM Available"));
    line("totalmem", metric("RAM Total"));
    line("home", session.home.root().display().to_string());
    title("PM2 list");
    list::run(session, matches)?;
    title("Daemon logs");
    let own = session.home.log_file();
    print(&format!("{} last {LOG_LINES} lines:\n", own.display()));
    for text in last_lines(&own, LOG_LINES).unwrap_or_default() {
        print(&format!("PM2        | {text}\n"));
    }
    print("```\n");
    Ok(())
}

/// `pm2 slist`, `sysinfos`: the machine's figures, as Node prints objects or as a tree.
pub fn sysinfos(session: &mut Session, tree: bool) -> anyhow::Result<()> {
    let system: Value = session.daemon(true)?.call("getSystemData", &[json!({})])?;
    if !tree {
        print(&(inspect::inspect(&system) + "\n"));
        return Ok(());
    }
    let mut text = String::new();
    branch(&system, "", &mut text);
    print(&text);
    Ok(())
}

fn branch(value: &Value, indent: &str, text: &mut String) {
    let Some(map) = value.as_object() else { return };
    for (at, (key, value)) in map.iter().enumerate() {
        let last = at + 1 == map.len();
        let (knot, below) = if last {
            ("└─", "   ")
        } else {
            ("├─", "│  ")
        };
        let shown = match value {
            Value::Object(_) => String::new(),
            Value::String(word) => format!(": {word}"),
            other => format!(": {other}"),
        };
        text.push_str(&format!("{indent}{knot} {key}{shown}\n"));
        branch(value, &format!("{indent}{below}"), text);
    }
}

/// `profile:cpu`, `profile:mem`: of PM2's daemon, which runs in Node. Ours does not.
pub fn profile(session: &Session, name: &str) -> anyhow::Result<()> {
    session.output.error(&format!(
        "`{name}` samples PM2's own daemon with V8's profiler; this daemon is a native program: use `perf record -g -p $(cat {})`",
        session.home.pid_file().display()
    ));
    bail!(Told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn_as_pm2_draws_it() {
        let mut text = String::new();
        branch(
            &json!({"CPU Usage": {"value": 1, "unit": "%"}, "b": {"c": true}}),
            "",
            &mut text,
        );
        assert_eq!(
            text,
            "├─ CPU Usage\n│  ├─ value: 1\n│  └─ unit: %\n└─ b\n   └─ c: true\n"
        );
    }
}
