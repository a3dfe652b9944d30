//! The stop ladder: signals and waits, ending in SIGKILL until nothing is left.

use super::signal::Signal;
use super::spec::fornax::StopStep;
use super::units::Millis;

/// PM2's grace before SIGKILL (`PM2_KILL_TIMEOUT`).
pub const KILL_TIMEOUT: Millis = Millis(1_600);
/// How many SIGKILLs are tried before a tree counts as one that can't be killed.
pub const KILL_TRIES: usize = 5;
/// The wait after each SIGKILL: the kernel needs a moment to take a large process apart.
const KILL_WAIT: Millis = Millis(1_600);

/// The ladder of PM2: one signal, one wait.
pub fn pm2_ladder(signal: Signal, kill_timeout: Option<Millis>) -> Vec<StopStep> {
    vec![StopStep {
        signal,
        wait: kill_timeout.unwrap_or(KILL_TIMEOUT),
    }]
}

/// The rung to take at `step`, counted from 0: first the app's own, then SIGKILL `KILL_TRIES` times, then none.
pub fn rung(ladder: &[StopStep], step: usize) -> Option<StopStep> {
    match ladder.get(step) {
        Some(own) => Some(*own),
        None if step < ladder.len() + KILL_TRIES => Some(StopStep {
            signal: Signal::KILL,
            wait: KILL_WAIT,
        }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ladder_ends_in_sigkill() {
        let ladder = pm2_ladder(Signal::INT, None);
        assert_eq!(
            rung(&ladder, 0),
            Some(StopStep {
                signal: Signal::INT,
                wait: Millis(1_600)
            })
        );
        for step in 1..=KILL_TRIES {
            assert_eq!(
                rung(&ladder, step).map(|rung| rung.signal),
                Some(Signal::KILL)
            );
        }
        assert_eq!(rung(&ladder, KILL_TRIES + 1), None);
    }
}
