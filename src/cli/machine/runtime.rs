//! `pm2-runtime`, `pm2-docker`, `pm2-dev`: start, show the logs, and stop everything on a signal (pm2 7.0.4, spec 2.5).

use super::foreground::Signals;
use crate::cli::cmd::{daemon, logs, start, table};
use crate::cli::program;
use crate::cli::render::logs::Mode;
use crate::cli::session::{Session, Told, print};
use crate::core::spec::home::Home;
use anyhow::bail;
use std::process::ExitCode;
use std::time::Duration;

/// When the number of running apps is looked at for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(6);
/// And then each time.
const LOOK: Duration = Duration::from_secs(2);
/// So many looks in a row at nothing running, and it ends.
const LOOKS: u32 = 3;

/// `~/.pm2-dev`, so that the end of a development session is not the end of anything else (pm2 7.0.4, spec 2.6).
fn dev_home() -> Home {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/tmp".to_owned());
    let own = format!("{home}/.pm2-dev");
    Home::from_env(&|name| (name == "PM2_HOME").then(|| own.clone()))
}

/// `pm2-dev`'s words as `start` takes them: the app is watched, and a crash waits a second (pm2 7.0.4, spec 2.6).
fn development(words: Vec<String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "run" if out.is_empty() => out.push("start".to_owned()),
            "--timestamp" | "--silent-exec" | "--test-mode" | "--auto-exit" => {}
            "--ignore" => {
                let named = words.next().unwrap_or_default();
                let named = named.split(',').chain(["node_modules"]);
                out.extend(named.map(|path| format!("--ignore-watch={path}")));
            }
            _ => out.push(word),
        }
    }
    if !out.is_empty() {
        out.extend(["--watch=true", "--restart-delay=1000"].map(str::to_owned));
    }
    out
}

/// Runs in the foreground until a signal comes (exit 0) or nothing runs any more (exit 2).
pub fn run(name: &'static str, words: &[String], rest: &[String]) -> anyhow::Result<ExitCode> {
    let stays = words.iter().any(|word| word == "--no-auto-exit");
    let mut words: Vec<String> = words
        .iter()
        .filter(|word| {
            !matches!(
                word.as_str(),
                "--no-auto-exit" | "--raw" | "--formatted" | "--json" | "--format"
            )
        })
        .cloned()
        .collect();
    if name == "pm2-dev" {
        words = development(words);
    }
    if words.first().is_none_or(|word| word != "start") {
        words.insert(0, "start".to_owned());
    }
    if words.len() < 2 {
        print(&table::parser(name).render_help().to_string());
        return Ok(ExitCode::FAILURE);
    }
    let parsed =
        table::parser(name).try_get_matches_from(std::iter::once(name.to_owned()).chain(words));
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    let Some(("start", matches)) = matches.subcommand() else {
        bail!(Told)
    };
    let signals = Signals::watch()?;
    let mut session = program::session(matches);
    session.output.silent = true;
    if name == "pm2-dev" {
        session.home = dev_home();
    }
    // It ends the daemon with itself, so the daemon must be its own: another's apps may have taken minutes to load.
    if session.running_daemon()?.is_some() {
        bail!(
            "a daemon runs already in {}; give {name} another PM2_HOME, or use `pm2 start`",
            session.home.root().display()
        );
    }
    session.daemon(true)?;
    let mut follower = Session::new(session.home.clone(), session.output);
    std::thread::Builder::new()
        .name("fornax-follow".to_owned())
        .spawn(move || {
            // It ends with the daemon or with this process.
            let _ = logs::follow_all(&mut follower, Mode::Raw);
        })?;
    if let Err(error) = start::run(&mut session, matches, rest) {
        daemon::kill(&mut session)?;
        return Err(error);
    }
    let mut empty = 0;
    let mut wait = FIRST_LOOK;
    while !signals.wait(wait) {
        wait = LOOK;
        let online = session
            .rows()?
            .iter()
            .filter(|row| matches!(row.status.as_str(), "online" | "launching") && !row.pmx_module)
            .count();
        empty = if online == 0 { empty + 1 } else { 0 };
        if empty > 0 && !stays {
            eprintln!(
                "[PM2] 0 application online, retry = {}",
                LOOKS + 1 - empty.min(LOOKS + 1)
            );
        }
        if empty > LOOKS && !stays {
            daemon::kill(&mut session)?;
            return Ok(ExitCode::from(2));
        }
    }
    session.disconnect();
    daemon::kill(&mut session)?;
    Ok(ExitCode::SUCCESS)
}
