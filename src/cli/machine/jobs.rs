//! `fornax jobs`, `fornax drain`, `fornax wait`: looking at jobs, and at what does them.

use super::http::{self, Api};
use super::progress;
use crate::cli::session::{Session, Told, print};
use crate::core::units::Millis;
use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How often a service that is waited for is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// Options of `jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: Option<JobsCommand>,
}

#[derive(Debug, Subcommand)]
enum JobsCommand {
    /// The newest jobs (what `jobs` alone does).
    List(ListArgs),
    /// One job, with each attempt.
    Show {
        /// Its id.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Cancel one job, and no other.
    Cancel {
        /// Its id.
        id: String,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of these states only: queued, placed, running, fetching, done, failed, cancelled, dead.
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    /// So many, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `jobs`.
pub fn run(session: &mut Session, args: JobsArgs) -> anyhow::Result<ExitCode> {
    let api = Api::of(session)?;
    let get = |path: String| {
        http::block(async {
            api.ask(Method::GET, &path, "", Bytes::new())
                .await?
                .json()
                .await
        })
    };
    let usual = ListArgs {
        state: None,
        limit: 20,
        json: false,
    };
    match args.command.unwrap_or(JobsCommand::List(usual)) {
        JobsCommand::List(args) => {
            let state = args
                .state
                .map_or_else(String::new, |state| format!("&state={state}"));
            let told = get(format!("/jobs?limit={}{state}", args.limit))?;
            print(&if args.json {
                format!("{told}\n")
            } else {
                list(&told)
            });
        }
        JobsCommand::Show { id, json } => {
            let told = get(format!("/jobs/{id}"))?;
            print(&if json {
                format!("{told}\n")
            } else {
                show(&told)
            });
        }
        JobsCommand::Cancel { id } => {
            let path = format!("/jobs/{id}");
            let told = http::block(async {
                api.ask(Method::DELETE, &path, "", Bytes::new())
                    .await?
                    .json()
                    .await
            })?;
            session.output.done(&format!(
                "job {id} is {}: {}",
                word(&told["state"]),
                word(&told["message"])
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn list(told: &Value) -> String {
    let mut out = String::new();
    let jobs = told["jobs"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if jobs.is_empty() {
        return "no jobs; `fornax run workflow.json` runs one\n".to_owned();
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<36}  {:<9}  {:<24}  {:>8}  {:<16}  why",
        "job", "state", "accepted", "attempts", "instance"
    );
    for job in jobs {
        let attempts = job["attempts"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let instance = attempts
            .last()
            .map_or("-", |attempt| word(&attempt["instance"]));
        let why = job["error"].as_str().unwrap_or_default();
        let why: String = why
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(100)
            .collect();
        let line = format!(
            "{:<36}  {:<9}  {:<24}  {:>8}  {instance:<16}  {why}",
            word(&job["id"]),
            word(&job["state"]),
            word(&job["created_at"]),
            attempts.len()
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn show(job: &Value) -> String {
    let mut out = format!(
        "job       {}\nstate     {}\naccepted  {}\nended     {}\n",
        word(&job["id"]),
        word(&job["state"]),
        word(&job["created_at"]),
        word(&job["ended_at"])
    );
    for (name, key) in [("error", "error"), ("waits for", "waits_for")] {
        if let Some(text) = job[key].as_str() {
            let _ = writeln!(out, "{name:<9} {text}");
        }
    }
    for attempt in job["attempts"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "attempt   {} on {} (pid {}): {}{}",
            attempt["number"],
            word(&attempt["instance"]),
            attempt["pid"],
            attempt["outcome"]["kind"].as_str().unwrap_or("under way"),
            attempt["message"]
                .as_str()
                .map_or_else(String::new, |text| format!(": {text}"))
        );
    }
    for output in job["outputs"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "output    {} ({} bytes)",
            word(&output["name"]),
            output["bytes"]
        );
    }
    out
}

/// Options of `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The service: comfyui-gpu0.
    name: String,
    /// It takes jobs again.
    #[arg(long)]
    undo: bool,
    /// Wait until its last job has ended, at most so long: 10m.
    #[arg(long, value_name = "TIME")]
    wait: Option<String>,
}

/// Runs `drain`.
pub fn drain(session: &mut Session, args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let limit = args.wait.as_deref().map(time).transpose()?;
    let api = Api::of(session)?;
    let path = format!("/services/{}/drain", args.name);
    let method = || {
        if args.undo {
            Method::DELETE
        } else {
            Method::POST
        }
    };
    let ask = || {
        http::block(async {
            api.ask(method(), &path, "", Bytes::new())
                .await?
                .json()
                .await
        })
    };
    let mut told = ask()?;
    let until = limit.map(|limit| Instant::now() + limit);
    while let Some(until) = until.filter(|_| !args.undo && told["jobs"].as_u64() != Some(0)) {
        if Instant::now() >= until {
            session
                .output
                .error(&format!("{} still has {} jobs", args.name, told["jobs"]));
            return Err(Told.into());
        }
        std::thread::sleep(PERIOD);
        told = ask()?;
    }
    session.output.done(&if args.undo {
        format!("{} takes jobs again", args.name)
    } else {
        format!("{} takes no more jobs; it has {}", args.name, told["jobs"])
    });
    Ok(ExitCode::SUCCESS)
}

/// Options of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The services: comfyui-gpu0 comfyui-gpu1.
    #[arg(required = true)]
    names: Vec<String>,
    /// At most so long: 60s, 10m.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: String,
    /// What is waited for: healthy, starting, unhealthy, stopped, not_installed, not_configured.
    #[arg(long = "for", value_name = "STATE", default_value = "healthy",
          value_parser = ["healthy", "starting", "unhealthy", "stopped", "not_installed", "not_configured"])]
    state: String,
}

/// Runs `wait`: exit code 0 when all are so, 1 when the time is over. It needs the daemon's socket only, not HTTP.
pub fn wait(session: &mut Session, args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + time(&args.timeout)?;
    loop {
        let services = match session.running_daemon()? {
            Some(_) => progress::services(session)?,
            None => Vec::new(),
        };
        let lacking = args.names.iter().find_map(|name| {
            let mut of = services
                .iter()
                .filter(|service| &service.name == name)
                .peekable();
            if of.peek().is_none() {
                return Some(format!("there is no service `{name}`"));
            }
            let other =
                of.find(|service| service.pm2_env.fornax_state.service_status != args.state)?;
            let state = &other.pm2_env.fornax_state;
            Some(format!(
                "{name} is {}: {}",
                state.service_status, state.message
            ))
        });
        let Some(lacking) = lacking else {
            return Ok(ExitCode::SUCCESS);
        };
        if Instant::now() >= until {
            session
                .output
                .error(&format!("after {}: {lacking}", args.timeout));
            return Err(Told.into());
        }
        std::thread::sleep(PERIOD);
    }
}

fn time(text: &str) -> anyhow::Result<Duration> {
    let time = Millis::parse(text).map(Millis::duration);
    time.ok_or_else(|| anyhow::anyhow!("`{text}` is no time; write 500ms, 60s, 10m or 1h"))
}
