//! Many changes, one restart: a storm of saves is waited out.

use crate::core::instance::State;
use crate::core::units::Millis;

/// How long a burst may go on before the restart comes all the same.
const LONGEST: Millis = Millis(2_000);

/// Whether a change seen at `at` calls for a restart of an instance whose latest run began at `started`.
///
/// A run that is still to come sees it anyway. One that is starting up may have made it itself: PM2 takes no notice of
/// changes then either, or some apps would be restarted for ever.
pub fn matters(state: &State, started: Millis, at: Millis) -> bool {
    match state {
        State::Online(_) => at >= started,
        State::Idle(_) | State::Failed(_) | State::Backoff { .. } => true,
        State::Waiting | State::Spawning | State::Starting(_) | State::Stopping(_) => false,
    }
}

/// Changes that one restart will answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burst {
    first: Millis,
    last: Millis,
    /// The first path that changed, as the log names it.
    pub path: String,
}

impl Burst {
    /// The first change of a burst, seen at `now`.
    pub fn begin(path: String, now: Millis) -> Self {
        Self {
            first: now,
            last: now,
            path,
        }
    }

    /// One more.
    pub fn goes_on(&mut self, now: Millis) {
        self.last = self.last.max(now);
    }

    /// The moment of the last change.
    pub fn last(&self) -> Millis {
        self.last
    }

    /// When the restart is due: `delay` (PM2's `watch_delay`) after the first change and not before nothing has changed for
    /// `quiet`, but never later than two seconds past the earliest such moment.
    pub fn due(&self, delay: Millis, quiet: Millis) -> Millis {
        let calm = self.last.plus(quiet);
        let earliest = self.first.plus(delay.max(quiet));
        earliest.max(calm).min(earliest.plus(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_when_it_is_quiet_and_the_delay_has_passed_and_does_not_last_for_ever() {
        let cases = [
            // (changes at, delay, quiet) → due
            (&[1_000][..], 0, 50, 1_050),
            (&[1_000, 1_030, 1_060], 0, 50, 1_110),
            (&[1_000, 1_030], 500, 50, 1_500),
            (&[1_000, 1_490], 500, 50, 1_540),
            (&[1_000, 3_000, 9_000], 0, 50, 3_050),
            (&[1_000], 0, 2_000, 3_000),
            (&[1_000], u64::MAX, u64::MAX, u64::MAX),
        ];
        for (changes, delay, quiet, want) in cases {
            let mut burst = Burst::begin("a".to_owned(), Millis(changes[0]));
            for at in &changes[1..] {
                burst.goes_on(Millis(*at));
            }
            let due = burst.due(Millis(delay), Millis(quiet));
            assert_eq!(due, Millis(want), "{changes:?}, {delay}, {quiet}");
        }
    }
}
