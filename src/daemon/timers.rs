//! The loop's deadlines, of which it sleeps for the earliest. Owner: the daemon loop.

use crate::core::ids::{Generation, PmId};
use crate::core::instance::Timer;
use crate::core::units::Millis;
use std::collections::BTreeMap;

/// Whose timer it is. One of a past generation is dropped by the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey {
    /// The instance.
    pub id: PmId,
    /// The run.
    pub generation: Generation,
    /// Which of its timers.
    pub kind: Timer,
}

/// What has come due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A timer of a run.
    Run(TimerKey),
    /// A look at an instance's cron pattern.
    Cron(PmId, Ticket),
    /// The end of a burst of changed files.
    Burst(PmId, Ticket),
}

/// Tells the timer that counts from one that was set for a wish of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// Deadlines by time, in the order they were set where times are equal.
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeMap<(Millis, u64), Due>,
    set: u64,
}

impl Timers {
    /// Sets a deadline.
    pub fn arm(&mut self, at: Millis, key: TimerKey) {
        self.insert(at, Due::Run(key));
    }

    /// Sets one that only its ticket makes count.
    pub fn arm_with(&mut self, at: Millis, due: impl FnOnce(Ticket) -> Due) -> Ticket {
        let ticket = Ticket(self.set + 1);
        self.insert(at, due(ticket));
        ticket
    }

    fn insert(&mut self, at: Millis, due: Due) {
        self.set += 1;
        self.by_time.insert((at, self.set), due);
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Millis> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out everything that is due.
    pub fn due(&mut self, now: Millis) -> Vec<Due> {
        let mut due = Vec::new();
        while let Some(entry) = self
            .by_time
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            due.push(entry.remove());
        }
        due
    }
}
