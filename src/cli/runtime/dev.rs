//! `pm2-dev`: apps in the foreground, watched and restarted when their files change (pm2 7.0.4, spec 2.6).

use super::stream::{Follower, Look};
use super::watch::{Ended, Patience, watch};
use super::{end, of_a_file};
use crate::cli::cmd::act::Action;
use crate::cli::cmd::start;
use crate::cli::options;
use crate::cli::render::logs::Mode;
use crate::cli::session::{Session, print};
use crate::cli::signals::Signals;
use crate::core::spec::raw;
use anyhow::bail;
use clap::ArgMatches;
use serde_json::Value;
use std::collections::HashSet;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// Of `--auto-exit`.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(3),
    every: Duration::from_secs(3),
    looks: 2,
    say: |_| print("0 application online, exiting\n"),
};
/// How wide the block at the start is (pm2 7.0.4).
const WIDTH: usize = 79;
/// Restarts whose command has not run yet. One more is as good as those that wait.
const WAITING: usize = 1;

/// The paths of `--ignore`, and what is ignored anyway.
fn ignored(matches: &ArgMatches) -> Vec<String> {
    let named = options::value(matches, "ignore").unwrap_or_default();
    let named = named.split(',').filter(|path| !path.is_empty());
    named.chain(["node_modules"]).map(str::to_owned).collect()
}

/// Options that hold for a script unless it is given others: it is watched, and a crash waits a second.
pub fn defaults(matches: &ArgMatches) -> Vec<String> {
    let ignored = ignored(matches);
    let ignored = ignored.iter().map(|path| format!("--ignore-watch={path}"));
    ["--watch=true", "--restart-delay=1000"]
        .map(str::to_owned)
        .into_iter()
        .chain(ignored)
        .collect()
}

/// Runs until SIGINT or SIGTERM comes (exit 0) or, with `--auto-exit`, nothing runs any more (exit 1).
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    rest: &[String],
    signals: &Signals,
) -> anyhow::Result<ExitCode> {
    let test = options::flag(matches, "test-mode");
    // It ends everything in this home with itself.
    if !test && session.running_daemon()?.is_some() {
        bail!(
            "a development session runs already (its daemon is in {}); end that one first",
            session.home.root().display()
        );
    }
    session.owns_daemon = !test;
    session.daemon(true)?;
    if test {
        start(session, matches, rest)?;
        print("disconnected succesfully from pm2-dev\n");
        return Ok(ExitCode::SUCCESS);
    }
    let look = Look {
        mode: match options::flag(matches, "raw") {
            true => Mode::Raw,
            false => Mode::Prefixed,
        },
        timestamp: options::value(matches, "timestamp").map(str::to_owned),
        dev: true,
        daemon: false,
        colour: session.output.colour,
    };
    let command = options::value(matches, "post-exec")
        .filter(|command| !command.is_empty())
        .map(str::to_owned);
    let (restarted, restarts) = sync_channel(WAITING);
    let mut seen: HashSet<u64> = HashSet::new();
    let on_event = move |event: &str, process: &Value| {
        let id = process["pm_id"].as_u64().unwrap_or_default();
        if event == "online" && !seen.insert(id) {
            let name = process["name"].as_str().unwrap_or_default();
            print(&format!("[rundev] App {name} restarted\n"));
            // With one waiting already, this change is among those that its command will see.
            let _ = restarted.try_send(());
        }
    };
    let follower = Follower::start(session, look, Box::new(on_event))?;
    if let Err(error) = start(session, matches, rest) {
        end(session, follower)?;
        return Err(error);
    }
    tell(session, matches, command.as_deref())?;
    if let Some(command) = command {
        let silent = options::flag(matches, "silent-exec");
        std::thread::Builder::new()
            .name("fornax-post-exec".to_owned())
            .spawn(move || post_exec(&command, silent, &restarts))?;
    }
    let ends = options::flag(matches, "auto-exit");
    let over = watch(session, signals, ends.then_some(&PATIENCE))?;
    if over == Ended::Daemon {
        follower.finish();
        return Ok(ExitCode::SUCCESS);
    }
    if over == Ended::Signal {
        print(">>>>> [PM2 DEV] Stopping current development session\n");
    }
    end(session, follower)?;
    Ok(match over {
        Ended::Empty => ExitCode::FAILURE,
        Ended::Signal | Ended::Daemon => ExitCode::SUCCESS,
    })
}

/// Starts the script, or the apps of the file. What the file itself says of watching holds.
fn start(session: &mut Session, matches: &ArgMatches, rest: &[String]) -> anyhow::Result<()> {
    if !of_a_file(matches) {
        return start::targets(session, matches, rest);
    }
    let target = options::value(matches, "targets").unwrap_or_default();
    let mut loaded = start::load(session, target)?;
    for app in &mut loaded.apps {
        let Ok(known) = raw::canonical(&app.raw) else {
            continue; // What is wrong with it is told when it is started.
        };
        let defaults = [
            ("watch", Value::Bool(true)),
            ("ignore_watch", Value::from(ignored(matches))),
            ("autostart", Value::Bool(true)),
            ("autorestart", Value::Bool(true)),
            ("restart_delay", Value::from(1_000)),
        ];
        for (key, value) in defaults {
            if !known.contains_key(key) {
                app.raw.insert(key.to_owned(), value);
            }
        }
    }
    start::ecosystem(session, matches, &loaded, Action::Restart)
}

/// PM2's block at the start.
fn tell(session: &mut Session, matches: &ArgMatches, command: Option<&str>) -> anyhow::Result<()> {
    let rows = session.rows()?;
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.dedup();
    let mut lines = vec![
        ("Apps started", names.join(", ")),
        ("Processes started", rows.len().to_string()),
        ("Watch and Restart", "Enabled".to_owned()),
        ("Ignored folder", ignored(matches).join(",")),
    ];
    if let Some(command) = command {
        lines.push(("Post restart cmd", command.to_owned()));
    }
    let mut text = format!("{:-<WIDTH$}\n", "--- PM2 development mode ");
    for (key, value) in lines {
        text += &format!("{key:<20} : {value}\n");
    }
    print(&format!("{text}{:=<WIDTH$}\n", ""));
    Ok(())
}

/// Runs the command of `--post-exec` after each restart, by the shell that it is written for.
fn post_exec(command: &str, silent: bool, restarts: &Receiver<()>) {
    while restarts.recv().is_ok() {
        let output = || match silent {
            true => Stdio::null(),
            false => Stdio::inherit(),
        };
        let ended = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .status();
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("[PM2][WARN] `{command}`: {status}"),
            Err(error) => eprintln!("[PM2][ERROR] cannot run `{command}`: {error}"),
        }
    }
}
