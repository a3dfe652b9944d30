//! What the loop keeps of an instance beside its runs: its watch and its cron pattern at work.

use super::timers::Ticket;
use crate::core::cron::Schedule;
use crate::core::watch::Burst;

/// All of it follows from the instance's configuration and the clock: a daemon that takes a table over makes it anew.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// Its files are watched.
    pub watched: bool,
    /// Its cron pattern, waiting for its next time.
    pub cron: Option<CronWait>,
    /// Files that have changed, and the timer that answers them.
    pub burst: Option<(Burst, Ticket)>,
    /// Why the run is being ended, for whoever asks afterwards.
    pub why: Option<String>,
}

/// A cron pattern at work.
#[derive(Debug)]
pub struct CronWait {
    /// The pattern.
    pub schedule: Schedule,
    /// Its next time, in milliseconds since the Unix epoch; `None`: it never comes.
    pub due: Option<u64>,
    /// The timer of the next look.
    pub ticket: Ticket,
}
