//! `fornax status`: machine, GPUs and services at a glance.

use super::progress::{self, Service};
use crate::cli::render::units;
use crate::cli::session::{Session, print, wall_ms};
use crate::gpu::inventory::detect;
use crate::gpu::{lease, render};
use clap::Args;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints it. Exit code 0 when everything that is enabled is healthy, 1 when not, 3 when no daemon runs.
pub fn run(session: &mut Session, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let inventory = detect();
    let inventory = match lease::directory(&|name| std::env::var_os(name)) {
        Ok(folder) => inventory.with_leases(&folder),
        Err(_) => inventory,
    };
    if session.running_daemon()?.is_none() {
        if args.json {
            print(&format!(
                "{}\n",
                json!({"daemon": null, "gpus": inventory, "services": []})
            ));
        } else {
            print(&format!(
                "no daemon runs in {}; start one with `fornax up`\n\n",
                session.home.root().display()
            ));
            print(&render::table(&inventory, session.output.colour));
        }
        return Ok(ExitCode::from(3));
    }
    let daemon: Value = session.daemon(true)?.call("fornaxStatus", &[json!({})])?;
    let services = progress::services(session)?;
    let well = services.iter().all(|service| {
        matches!(
            service.pm2_env.fornax_state.service_status.as_str(),
            "healthy" | "not_configured"
        )
    });
    let code = if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    if args.json {
        let services: Vec<Value> = services.iter().map(as_json).collect();
        print(&format!(
            "{}\n",
            json!({"daemon": daemon, "gpus": inventory, "services": services})
        ));
        return Ok(code);
    }
    let uptime = units::uptime(
        wall_ms().saturating_sub(daemon["started_at_ms"].as_u64().unwrap_or_default()),
    );
    print(&format!(
        "daemon     pid {}, up {uptime}, home {}\n",
        daemon["pid"],
        session.home.root().display()
    ));
    print(&format!("http       {}\n\n", http_words(&daemon)));
    print(&render::table(&inventory, session.output.colour));
    print(&format!("\n{}", table(&services)));
    Ok(code)
}

/// What `up` prints when all is ready.
pub fn summary(session: &mut Session, services: &[Service]) -> anyhow::Result<()> {
    let daemon: Value = session.daemon(true)?.call("fornaxStatus", &[json!({})])?;
    session.output.line("");
    session.output.line(table(services).trim_end());
    session.output.line("");
    let health = match daemon["http"]["state"].as_str() {
        Some("off") => "HTTP is off".to_owned(),
        _ => format!("health on {}", http_words(&daemon)),
    };
    session.output.done(&format!(
        "All {} services are ready; {health}",
        services.len()
    ));
    Ok(())
}

fn http_words(daemon: &Value) -> String {
    let word = |key: &str| daemon["http"][key].as_str().unwrap_or_default().to_owned();
    match word("state").as_str() {
        "listening" => format!("http://{}", word("address")),
        "failed" => format!("not listening on {}: {}", word("address"), word("reason")),
        other => other.to_owned(),
    }
}

fn table(services: &[Service]) -> String {
    let rows: Vec<[String; 7]> = services
        .iter()
        .map(|service| {
            let (env, state) = (&service.pm2_env, &service.pm2_env.fornax_state);
            let endpoint = env
                .fornax
                .port
                .map_or_else(String::new, |port| format!("http://127.0.0.1:{port}"));
            let pid = if service.pid == 0 {
                "-".to_owned()
            } else {
                service.pid.to_string()
            };
            [
                service.name.clone(),
                state.service_status.clone(),
                endpoint,
                pid,
                env.restart_time.to_string(),
                units::memory(service.monit.memory).trim_end().to_owned(),
                state.message.clone(),
            ]
        })
        .collect();
    let head = [
        "service", "state", "endpoint", "pid", "restarts", "memory", "why",
    ]
    .map(str::to_owned);
    let widths: Vec<usize> = (0..7)
        .map(|column| {
            rows.iter()
                .chain([&head])
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |row: &[String; 7]| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    std::iter::once(line(&head))
        .chain(rows.iter().map(line))
        .collect()
}

fn as_json(service: &Service) -> Value {
    let (env, state) = (&service.pm2_env, &service.pm2_env.fornax_state);
    json!({
        "name": service.name, "pm_id": service.pm_id, "status": state.service_status, "message": state.message, "since_ms": state.since_ms,
        "pid": service.pid, "port": env.fornax.port, "restarts": env.restart_time, "memory": service.monit.memory, "cpu": service.monit.cpu,
    })
}
