//! `pm2-runtime`, `pm2-docker`: apps in the foreground, as process 1 of a container too (pm2 7.0.4, spec 2.5).

use super::end;
use super::stream::{Follower, Look};
use super::watch::{Ended, Patience, watch};
use crate::cli::cmd::start;
use crate::cli::options;
use crate::cli::render::logs::Mode;
use crate::cli::session::{Session, Told};
use crate::cli::signals::Signals;
use anyhow::bail;
use clap::ArgMatches;
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Patience = Patience {
    first: Duration::from_secs(6),
    every: Duration::from_secs(2),
    looks: 4,
    say: |left| eprintln!("0 application online, retry = {left}"),
};

/// Runs until a signal comes or the daemon is told to end (exit 0), or nothing runs any more (exit 2).
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    rest: &[String],
    signals: &Signals,
) -> anyhow::Result<ExitCode> {
    let debug = std::env::var("PM2_RUNTIME_DEBUG").is_ok_and(|value| value == "true");
    // It ends the daemon with itself, so the daemon must be its own: another's apps may have taken minutes to load.
    if !debug && session.running_daemon()?.is_some() {
        bail!(
            "a daemon runs already in {}; give pm2-runtime another PM2_HOME, or use `pm2 start`",
            session.home.root().display()
        );
    }
    for option in ["secret", "public", "machine-name"] {
        if options::value(matches, option).is_some() {
            eprintln!("[PM2][WARN] PM2's cloud is not supported; `--{option}` is ignored");
        }
    }
    if let Some(port) = options::value(matches, "web") {
        let Ok(port) = port.parse::<u16>() else {
            bail!("`--web {port}`: that is no port; 1 to 65535 are");
        };
        let host = std::env::var("PM2_API_IPADDR").unwrap_or_else(|_| "127.0.0.1".to_owned());
        session.http = Some(format!("{host}:{port}"));
    }
    if let Some(delay) = options::value(matches, "delay") {
        let delay = delay
            .parse::<f64>()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let Some(delay) = delay else {
            bail!("`--delay` takes seconds, such as 5");
        };
        if signals.wait(delay) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    session.owns_daemon = !debug;
    session.daemon(true)?;
    if debug {
        return start::targets(session, matches, rest).map(|()| ExitCode::SUCCESS);
    }
    let look = Look {
        mode: mode(matches),
        timestamp: None,
        dev: false,
        daemon: !session.output.silent,
        colour: session.output.colour,
    };
    let follower = Follower::start(session, look, Box::new(|_, _| {}))?;
    if let Err(error) = start::targets(session, matches, rest) {
        end(session, follower)?;
        return Err(error);
    }
    signals.reap_orphans();
    let stays = options::flag(matches, "no-auto-exit");
    match watch(session, signals, (!stays).then_some(&PATIENCE))? {
        Ended::Signal => end(session, follower).map(|()| ExitCode::SUCCESS),
        Ended::Empty => end(session, follower).map(|()| ExitCode::from(2)),
        Ended::Daemon if session.home.pid_file().exists() => {
            eprintln!("[PM2][ERROR] the daemon is gone; see pm2.log in PM2_HOME");
            bail!(Told)
        }
        Ended::Daemon => {
            follower.finish();
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn mode(matches: &ArgMatches) -> Mode {
    let flag = |name| options::flag(matches, name);
    match (flag("json"), flag("format"), flag("formatted")) {
        (true, _, _) => Mode::Json,
        (_, true, _) => Mode::Format,
        (_, _, true) => Mode::Prefixed,
        _ => Mode::Raw,
    }
}

/// A script's output goes to standard output and to no file, unless one is named; what an ecosystem file says of its apps'
/// logs holds (pm2 7.0.4).
pub fn defaults() -> Vec<String> {
    ["--output=/dev/null", "--error=/dev/null"]
        .map(str::to_owned)
        .to_vec()
}
