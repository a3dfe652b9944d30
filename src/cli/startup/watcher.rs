//! The main process of the systemd unit: starts the daemon and what was saved, tells systemd that it lives, and stops
//! everything when the unit is stopped, but not when it is restarted (docs/startup.md).

use crate::cli::cmd::{dump, update};
use crate::cli::program;
use crate::cli::runtime;
use crate::cli::session::{Session, Told};
use crate::cli::signals::Signals;
use crate::pm2::client::{Client, ClientError};
use crate::sys::notify::Notifier;
use crate::sys::{pidfd, procfs};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How often the daemon is asked when systemd sets no pace.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long an answer may take. A daemon that is this slow is stuck: its loop awaits nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How soon a daemon's end is noticed.
const PERIOD: Duration = Duration::from_millis(250);
/// How long the successor of a daemon may take to listen.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(30);
/// The variable in which the unit tells its name.
pub const UNIT_VARIABLE: &str = "FORNAX_UNIT";

/// Runs until the unit is stopped (exit 0), the daemon is told to end (exit 0), or it is gone for good (exit 1, after which
/// systemd starts this again).
pub fn run() -> anyhow::Result<ExitCode> {
    let notifier = Notifier::from_env(&|name| std::env::var(name).ok())
        .context("cannot reach systemd by NOTIFY_SOCKET")?;
    let signals = Signals::watch()?;
    let mut session = program::session(&program::no_options());
    session.output.quiet = true;
    begin(&mut session)?;
    let say = |words: &str| {
        if let Some(notifier) = &notifier
            && let Err(error) = notifier.say(words)
        {
            eprintln!("[fornax] systemd does not hear: {error}");
        }
    };
    let count = session.rows()?.len();
    session.disconnect();
    say(&format!("READY=1\nSTATUS=supervising {count} processes"));
    let pace = notifier
        .as_ref()
        .and_then(|notifier| notifier.watchdog)
        .map_or(ASK_EVERY, |limit| (limit / 3).min(ASK_EVERY));
    let mut next = Instant::now();
    while !signals.wait(PERIOD.min(pace)) {
        if Instant::now() < next {
            if session.home.pid_file().exists() {
                continue;
            }
            // `pm2 kill`: somebody wants it gone, and systemd must not bring it back.
            return Ok(ExitCode::SUCCESS);
        }
        next = Instant::now() + pace;
        match ask(&session, pace) {
            Answer::Lives => say("WATCHDOG=1"),
            Answer::Gone if !session.home.pid_file().exists() => return Ok(ExitCode::SUCCESS),
            Answer::Gone => {
                eprintln!("[PM2][ERROR] the daemon is gone; see pm2.log in PM2_HOME");
                bail!(Told)
            }
            Answer::Stuck => end_stuck(&session),
        }
    }
    if is_restarted() {
        say("STOPPING=1\nSTATUS=the unit is restarted; every process goes on");
        return Ok(ExitCode::SUCCESS);
    }
    say("STOPPING=1\nSTATUS=stopping every process");
    runtime::end_all(&mut session)?;
    Ok(ExitCode::SUCCESS)
}

/// The daemon, with what was saved. One that runs already goes on, by the program that is on disk now.
fn begin(session: &mut Session) -> anyhow::Result<()> {
    let none = program::no_options();
    if session.running_daemon()?.is_some() {
        // It goes on as it is if this program cannot take over, which `update` has told.
        let _ = update::update(session, &none);
        session.disconnect();
    }
    session.daemon(true)?;
    dump::resurrect(session, &none)
}

enum Answer {
    Lives,
    /// Nobody listens, and nobody came to.
    Gone,
    /// It listens and does not answer.
    Stuck,
}

/// Asks the daemon through its loop.
fn ask(session: &Session, patience: Duration) -> Answer {
    let socket = session.home.rpc_socket();
    let deadline = Instant::now() + SUCCESSOR_WITHIN;
    loop {
        if let Ok(mut client) = Client::connect(&socket) {
            let limit = ANSWER_WITHIN.max(patience);
            let asked = client
                .set_limit(limit)
                .map_err(anyhow::Error::from)
                .and_then(|()| {
                    let all: Value = client.call("fornaxStatus", &[json!({})])?;
                    Ok(all)
                });
            match asked {
                Ok(_) => return Answer::Lives,
                Err(error) if timed_out(&error) => return Answer::Stuck,
                // It ended just now.
                Err(_) => {}
            }
        }
        if !session.home.pid_file().exists() || Instant::now() > deadline {
            return Answer::Gone;
        }
        std::thread::sleep(PERIOD);
    }
}

fn timed_out(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Silent { .. }))
}

/// Ends a daemon that does not answer. Its keeper starts another one, and no app notices.
fn end_stuck(session: &Session) {
    let pid = std::fs::read_to_string(session.home.pid_file()).ok();
    let Some(pid) = pid.and_then(|pid| pid.trim().parse::<u32>().ok()) else {
        return;
    };
    // A pid in a file may be somebody else's by now: the name tells.
    let ours = |pid: u32| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        title.starts_with(b"PM2 v") || title.starts_with(b"fornax")
    };
    let Ok(process) = pidfd::open(pid) else {
        return;
    };
    if procfs::stat(pid).is_none() || !ours(pid) {
        return;
    }
    eprintln!(
        "[PM2][WARN] the daemon (pid {pid}) has not answered for {} s; it is ended, and its successor takes over",
        ANSWER_WITHIN.as_secs()
    );
    // It may have ended in this moment.
    let _ = pidfd::signal(process.as_fd(), crate::core::signal::Signal::KILL);
}

/// Whether systemd stops this unit only to start it again.
fn is_restarted() -> bool {
    let Ok(unit) = std::env::var(UNIT_VARIABLE) else {
        return false;
    };
    let jobs = Command::new("systemctl")
        .args(["list-jobs", "--no-legend", "--plain", "--full"])
        .output();
    jobs.is_ok_and(|jobs| names_restart(&String::from_utf8_lossy(&jobs.stdout), &unit))
}

/// Whether a list of jobs (number, unit, kind, state) holds a restart of the unit.
fn names_restart(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words[..], [_, named, "restart", ..] if named == unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_told_from_a_stop_by_systemds_jobs() {
        let jobs = "  12 other.service   restart running\n 4711 pm2-root.service restart waiting\n";
        assert!(names_restart(jobs, "pm2-root.service"));
        assert!(!names_restart(jobs, "pm2.service"));
        assert!(!names_restart(
            "4712 pm2-root.service stop running\n4713 multi-user.target stop waiting\n",
            "pm2-root.service"
        ));
        assert!(!names_restart("", "pm2-root.service"));
    }
}
