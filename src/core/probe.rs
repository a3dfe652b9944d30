//! Health probes: answers in, a verdict out. Who asks, and when, is the adapter's part.

use super::spec::fornax::{Probe, Thresholds};
use super::units::Millis;
use serde::{Deserialize, Serialize};

/// What the answers so far add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It has not passed yet, and its start-up limit is not reached.
    Starting,
    /// It passes.
    Healthy,
    /// It has failed often enough.
    Unhealthy,
    /// It has failed its liveness limit: it must be restarted.
    Dead,
}

/// One run's probe.
#[derive(Debug, Clone)]
pub struct ProbeMachine {
    startup: Thresholds,
    readiness: Thresholds,
    liveness: Option<Thresholds>,
    verdict: Verdict,
    passed_once: bool,
    failures: u32,
    successes: u32,
}

impl ProbeMachine {
    /// For a run that has just begun.
    pub fn new(probe: &Probe) -> Self {
        Self {
            startup: probe.startup,
            readiness: probe.readiness,
            liveness: probe.liveness,
            verdict: Verdict::Starting,
            passed_once: false,
            failures: 0,
            successes: 0,
        }
    }

    /// For a run that was probed before, by somebody else, with this verdict.
    pub fn resumed(probe: &Probe, verdict: Verdict) -> Self {
        Self {
            verdict,
            passed_once: verdict == Verdict::Healthy,
            ..Self::new(probe)
        }
    }

    /// The verdict now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How long to wait before the first question.
    pub fn initial_delay(&self) -> Millis {
        self.startup.initial_delay
    }

    /// How long to wait before the next question. While a pass is not confirmed as failing, or the reverse, the start-up
    /// pace is kept, so that a change is told soon.
    pub fn period(&self) -> Millis {
        let usual = if self.passed_once {
            self.readiness.period
        } else {
            self.startup.period
        };
        let pace = if self.verdict == Verdict::Healthy && self.failures == 0 {
            usual
        } else {
            usual.min(self.startup.period)
        };
        pace.max(Millis(10))
    }

    /// How long an answer may take.
    pub fn timeout(&self) -> Millis {
        if self.passed_once {
            self.readiness.timeout
        } else {
            self.startup.timeout
        }
        .max(Millis(10))
    }

    /// Takes an answer; the verdict after it.
    pub fn answer(&mut self, passed: bool) -> Verdict {
        let active = if self.passed_once {
            self.readiness
        } else {
            self.startup
        };
        if passed {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= active.success_threshold.max(1) {
                self.passed_once = true;
                self.verdict = Verdict::Healthy;
            }
            return self.verdict;
        }
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        let limit_reached = self.failures >= active.failure_threshold.max(1);
        let dead = self.passed_once
            && self
                .liveness
                .is_some_and(|liveness| self.failures >= liveness.failure_threshold.max(1));
        if dead {
            self.verdict = Verdict::Dead;
        } else if limit_reached {
            self.verdict = Verdict::Unhealthy;
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(startup: u32, readiness: u32, liveness: Option<u32>) -> ProbeMachine {
        let thresholds = |failure_threshold| Thresholds {
            failure_threshold,
            ..Thresholds::default()
        };
        ProbeMachine::new(&Probe {
            http: None,
            tcp: None,
            exec: None,
            startup: Thresholds {
                period: Millis(500),
                ..thresholds(startup)
            },
            readiness: thresholds(readiness),
            liveness: liveness.map(thresholds),
        })
    }

    #[test]
    fn it_is_starting_until_it_passes_or_its_startup_limit_is_reached() {
        let mut machine = probe(3, 2, None);
        assert_eq!(
            [false, false].map(|answer| machine.answer(answer)),
            [Verdict::Starting; 2]
        );
        assert_eq!(machine.answer(false), Verdict::Unhealthy);
        assert_eq!(machine.answer(true), Verdict::Healthy);
    }

    #[test]
    fn once_healthy_it_takes_the_readiness_limit_to_be_unhealthy() {
        let mut machine = probe(1, 3, None);
        machine.answer(true);
        assert_eq!(machine.period(), Millis(10_000));
        assert_eq!(machine.answer(false), Verdict::Healthy);
        assert_eq!(machine.period(), Millis(500), "a doubt is looked into soon");
        assert_eq!(machine.answer(false), Verdict::Healthy);
        assert_eq!(machine.answer(false), Verdict::Unhealthy);
        assert_eq!(machine.answer(true), Verdict::Healthy);
    }

    #[test]
    fn only_a_liveness_limit_asks_for_a_restart() {
        let mut without = probe(1, 1, None);
        without.answer(true);
        assert!((0..100).all(|_| without.answer(false) != Verdict::Dead));
        let mut with = probe(1, 1, Some(3));
        with.answer(true);
        assert_eq!(
            [with.answer(false), with.answer(false), with.answer(false)],
            [Verdict::Unhealthy, Verdict::Unhealthy, Verdict::Dead]
        );
    }
}
