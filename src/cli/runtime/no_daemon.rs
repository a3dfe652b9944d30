//! `--no-daemon`: the command, and then the logs of all apps until the daemon ends; a daemon that it has started ends with it (pm2 7.0.4).

use super::end;
use super::stream::{Follower, Look};
use super::watch::{Ended, watch};
use crate::cli::render::logs::Mode;
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use anyhow::Context;
use std::process::ExitCode;

/// What a shell adds to a signal's number.
const BY_SIGNAL: u8 = 128;
/// The time before a line (pm2 7.0.4).
const TIME: &str = "HH:mm:ss";

/// Runs `command` and stays. Its error ends it; else the daemon's end (exit 0) or a signal (128 and its number) does.
pub fn run(
    session: &mut Session,
    command: impl FnOnce(&mut Session) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let signals = Signals::watch()?;
    let is_own = session.running_daemon()?.is_none();
    if is_own {
        session.output.line(
            "pm2 launched in no-daemon mode (you can add DEBUG=\"*\" env variable to get more messages)",
        );
    }
    session.owns_daemon = is_own;
    session.daemon(true)?;
    let look = Look {
        mode: Mode::Prefixed,
        timestamp: Some(TIME.to_owned()),
        dev: false,
        daemon: !session.output.silent,
        colour: session.output.colour,
    };
    let follower = Follower::start(session, look, Box::new(|_, _| {}))?;
    if let Err(error) = command(session) {
        if is_own {
            end(session, follower)?;
        }
        return Err(error);
    }
    signals.reap_orphans();
    let pid = std::fs::read_to_string(session.home.pid_file())
        .with_context(|| format!("cannot read {}", session.home.pid_file().display()));
    session.output.done("[--no-daemon] Continue to stream logs");
    // `kill` has ended it already.
    if let Ok(pid) = pid {
        let pid = pid.trim();
        session
            .output
            .done(&format!("[--no-daemon] Exit on target PM2 exit pid={pid}"));
    }
    match watch(session, &signals, None)? {
        Ended::Signal => {
            if is_own {
                end(session, follower)?;
            }
            Ok(ExitCode::from(BY_SIGNAL + signals.number()))
        }
        Ended::Daemon | Ended::Empty => {
            follower.finish();
            Ok(ExitCode::SUCCESS)
        }
    }
}
