//! What a program in the foreground waits for: a signal, the end of its daemon, or that nothing runs any more.

use super::{daemon_is_there, online};
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use std::time::{Duration, Instant};

/// How soon the daemon's end is noticed.
const PERIOD: Duration = Duration::from_millis(250);
/// Between a daemon and its successor nobody listens for so long at most.
const SUCCESSION: Duration = Duration::from_secs(2);

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// SIGINT, SIGTERM or SIGQUIT.
    Signal,
    /// Nothing runs any more.
    Empty,
    /// Somebody has ended the daemon.
    Daemon,
}

/// How long it is borne that nothing runs.
pub struct Patience {
    /// When the number of running apps is looked at for the first time.
    pub first: Duration,
    /// And then each time.
    pub every: Duration,
    /// So many looks in a row at nothing running, and it is over.
    pub looks: u32,
    /// Says so at each of them; it is told how many are left.
    pub say: fn(u32),
}

/// Waits. Without `patience` it goes on when nothing runs.
pub fn watch(
    session: &mut Session,
    signals: &Signals,
    patience: Option<&Patience>,
) -> anyhow::Result<Ended> {
    let mut empty = 0;
    let mut look = patience.map(|patience| Instant::now() + patience.first);
    while !signals.wait(PERIOD) {
        let told_to_end = |session: &Session| !session.home.pid_file().exists();
        if told_to_end(session) || !daemon_is_there(session) {
            // Between a daemon and its successor the pid file stays.
            let gone = told_to_end(session) || signals.wait(SUCCESSION) | !daemon_is_there(session);
            if signals.came() {
                return Ok(Ended::Signal);
            }
            if gone {
                return Ok(Ended::Daemon);
            }
        }
        let Some(patience) = patience.filter(|_| look.is_some_and(|at| at <= Instant::now()))
        else {
            continue;
        };
        look = Some(Instant::now() + patience.every);
        if online(session)? > 0 {
            empty = 0;
            continue;
        }
        empty += 1;
        (patience.say)(patience.looks.saturating_sub(empty));
        if empty >= patience.looks {
            return Ok(Ended::Empty);
        }
    }
    Ok(Ended::Signal)
}
