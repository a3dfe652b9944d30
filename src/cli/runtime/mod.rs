//! `pm2-runtime`, `pm2-docker`, `pm2-dev` and `--no-daemon`: start, show the logs, and stop everything at the end (pm2 7.0.4, spec 2.5, 2.6).

mod container;
mod dev;
pub mod no_daemon;
mod stream;
mod watch;
mod words;

use super::cmd::daemon;
use super::options;
use super::program;
use super::session::{Session, print};
use super::signals::Signals;
use crate::config;
use crate::core::spec::home::Home;
use crate::pm2::client::{Client, ClientError};
use clap::ArgMatches;
use std::process::ExitCode;
use std::time::Duration;

/// So many daemons one after another may be replaced while they are asked to end.
const SUCCESSORS: u32 = 5;
/// How soon the next one is asked.
const AGAIN: Duration = Duration::from_millis(300);

/// Runs one of them by its name.
pub fn run(name: &'static str, words: &[String], rest: &[String]) -> anyhow::Result<ExitCode> {
    let dev = name == "pm2-dev";
    let (matches, words) = match words::parse(name, dev, words) {
        Ok(understood) => understood,
        Err(error) => error.exit(),
    };
    if options::flag(&matches, "version") {
        print("7.0.4\n");
        return Ok(ExitCode::SUCCESS);
    }
    if matches.get_many::<String>("targets").is_none() {
        print(&words::parser(name, dev).render_help().to_string());
        return Ok(ExitCode::FAILURE);
    }
    let defaults = match (of_a_file(&matches), dev) {
        (true, _) => Vec::new(),
        (false, true) => dev::defaults(&matches),
        (false, false) => container::defaults(),
    };
    let matches = words::parse_after(name, dev, defaults, words)?;
    let mut session = program::session(&matches);
    session.output.quiet = true;
    let signals = Signals::watch()?;
    if dev {
        session.home = dev_home();
        dev::run(&mut session, &matches, rest, &signals)
    } else {
        container::run(&mut session, &matches, rest, &signals)
    }
}

/// Whether apps of an ecosystem file are meant.
fn of_a_file(matches: &ArgMatches) -> bool {
    let target = options::value(matches, "targets").unwrap_or_default();
    target == "-" || config::names_config_file(target)
}

/// `~/.pm2-dev`, so that the end of a development session is not the end of anything else (pm2 7.0.4, spec 2.6).
fn dev_home() -> Home {
    let home = std::env::var("HOME").unwrap_or_else(|_| "/tmp".to_owned());
    let own = format!("{home}/.pm2-dev");
    Home::from_env(&|name| (name == "PM2_HOME").then(|| own.clone()))
}

/// Whether the daemon still answers. One that was killed has a successor, which listens on the same socket; one that was
/// told to end has none, and none is to be started for it.
fn daemon_is_there(session: &Session) -> bool {
    Client::connect(&session.home.rpc_socket()).is_ok()
}

/// How many apps run, or are about to.
fn online(session: &mut Session) -> anyhow::Result<usize> {
    Ok(session
        .rows()?
        .iter()
        .filter(|row| matches!(row.status.as_str(), "online" | "launching") && !row.pmx_module)
        .count())
}

/// Every app, then the daemon; its last lines are printed before this returns.
fn end(session: &mut Session, follower: stream::Follower) -> anyhow::Result<()> {
    let ended = end_all(session);
    follower.finish();
    ended
}

/// Every app, then the daemon. One that is being replaced just then breaks the connection, and its successor is asked.
pub fn end_all(session: &mut Session) -> anyhow::Result<()> {
    session.output.silent = true;
    for _ in 0..SUCCESSORS {
        session.disconnect();
        match daemon::kill(session) {
            Err(error) if is_broken(&error) => std::thread::sleep(AGAIN),
            ended => return ended,
        }
    }
    session.disconnect();
    daemon::kill(session)
}

fn is_broken(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ClientError>(),
        Some(ClientError::Broken { .. })
    )
}
