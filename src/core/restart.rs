//! The restart policy: PM2's arithmetic (pm2 7.0.4, spec 4.2), and a restart budget beyond it.

use super::exit::ExitCause;
use super::spec::fornax::RestartBudget;
use super::units::Millis;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// PM2's ceiling of the exponential backoff.
const BACKOFF_CEILING: u64 = 15_000;
/// An uptime past this forgets the backoff (`EXP_BACKOFF_RESET_TIMER`).
pub const BACKOFF_FORGET: Millis = Millis(30_000);

/// When an app is started again after it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// PM2's `autorestart`, default true.
    pub autorestart: bool,
    /// A run shorter than this is unstable. Default 1,000 ms.
    pub min_uptime: Millis,
    /// So many unstable runs make it errored. Default 16.
    pub max_restarts: u32,
    /// Wait before each restart.
    pub restart_delay: Option<Millis>,
    /// Wait this long, then 1.5 times as long each time, up to 15 s. Wins over `restart_delay`.
    pub exp_backoff: Option<Millis>,
    /// Exit codes that mean it is done.
    pub stop_exit_codes: Vec<i32>,
    /// At most so many automatic restarts in a window.
    pub budget: Option<RestartBudget>,
    /// A one-shot: expected to end, never restarted.
    pub one_shot: bool,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            autorestart: true,
            min_uptime: Millis(1_000),
            max_restarts: 16,
            restart_delay: None,
            exp_backoff: None,
            stop_exit_codes: Vec::new(),
            budget: None,
            one_shot: false,
        }
    }
}

/// What the policy remembers of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestartMemory {
    /// PM2's `restart_time`: restarts since the app was made or reset.
    pub restarts: u32,
    /// PM2's `unstable_restarts`.
    pub unstable: u32,
    /// When the count of unstable runs began, on the monotonic clock; `None` after giving up.
    pub counting_since: Option<Millis>,
    /// The last backoff, 0 for none.
    pub last_backoff: Millis,
    /// When the last automatic restarts were decided, for the budget; never longer than its `max`.
    pub recent: VecDeque<Millis>,
}

impl RestartMemory {
    /// A person asked for a start, restart or reload: the past is forgiven.
    pub fn forgive(&mut self, now: Millis) {
        self.unstable = 0;
        self.counting_since = Some(now);
        self.last_backoff = Millis(0);
        self.recent.clear();
    }
}

/// What follows an exit that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Start it again now.
    Now,
    /// Start it again after this long.
    After(Millis),
    /// It stays down, and that is as it should be.
    Done(DoneReason),
    /// It stays down because it fails too often.
    GiveUp(GiveUpReason),
}

/// Why an ended app stays down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DoneReason {
    /// `autorestart` is off, or it is a one-shot.
    NoAutorestart,
    /// Its exit code is one of `stop_exit_codes`.
    StopExitCode,
}

/// Why an app is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GiveUpReason {
    /// So many unstable runs.
    TooManyUnstable(u32),
    /// The restart budget is spent.
    BudgetSpent(RestartBudget),
}

/// Decides after an exit at `now` of a run that lasted `uptime`. The restart itself is counted
/// when it is launched, as PM2 does.
pub fn decide(
    policy: &RestartPolicy,
    memory: &mut RestartMemory,
    cause: &ExitCause,
    uptime: Millis,
    now: Millis,
) -> Decision {
    if uptime > BACKOFF_FORGET {
        memory.last_backoff = Millis(0);
    }
    if policy.one_shot || !policy.autorestart {
        return Decision::Done(DoneReason::NoAutorestart);
    }
    if policy.stop_exit_codes.contains(&cause.pm2_code())
        && !matches!(cause, ExitCause::CouldNotStart { .. })
    {
        return Decision::Done(DoneReason::StopExitCode);
    }
    let window = Millis(
        policy
            .min_uptime
            .0
            .saturating_mul(u64::from(policy.max_restarts)),
    );
    let counted = memory
        .counting_since
        .is_some_and(|since| now.0.saturating_sub(since.0) < window.0);
    if counted && uptime < policy.min_uptime {
        memory.unstable = memory.unstable.saturating_add(1);
    }
    if memory.unstable >= policy.max_restarts {
        let unstable = std::mem::take(&mut memory.unstable);
        memory.counting_since = None;
        return Decision::GiveUp(GiveUpReason::TooManyUnstable(unstable));
    }
    if let Some(budget) = policy.budget {
        memory
            .recent
            .retain(|at| now.0.saturating_sub(at.0) < budget.window.0);
        if memory.recent.len() >= budget.max as usize {
            memory.recent.clear();
            return Decision::GiveUp(GiveUpReason::BudgetSpent(budget));
        }
        memory.recent.push_back(now);
    }
    let delay = match (policy.exp_backoff, policy.restart_delay) {
        (Some(first), _) if memory.last_backoff == Millis(0) => {
            memory.last_backoff = first;
            Some(first)
        }
        (Some(_), _) => {
            memory.last_backoff =
                Millis(BACKOFF_CEILING.min(memory.last_backoff.0.saturating_mul(3) / 2));
            Some(memory.last_backoff)
        }
        (None, delay) => delay,
    };
    match delay {
        Some(delay) if delay > Millis(0) => Decision::After(delay),
        _ => Decision::Now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::signal::Signal;

    fn crash() -> ExitCause {
        ExitCause::Code(1)
    }

    fn fresh() -> RestartMemory {
        RestartMemory {
            counting_since: Some(Millis(0)),
            ..RestartMemory::default()
        }
    }

    #[test]
    fn an_instant_crasher_is_launched_16_times_and_then_given_up() {
        let (policy, mut memory) = (RestartPolicy::default(), fresh());
        for launch in 1..16 {
            assert_eq!(
                decide(
                    &policy,
                    &mut memory,
                    &crash(),
                    Millis(5),
                    Millis(launch * 10)
                ),
                Decision::Now
            );
        }
        let last = decide(&policy, &mut memory, &crash(), Millis(5), Millis(200));
        assert_eq!(last, Decision::GiveUp(GiveUpReason::TooManyUnstable(16)));
        assert_eq!(memory.unstable, 0);
    }

    #[test]
    fn the_backoff_goes_as_pm2s() {
        let policy = RestartPolicy {
            exp_backoff: Some(Millis(100)),
            max_restarts: 1000,
            ..RestartPolicy::default()
        };
        let mut memory = fresh();
        let delays: Vec<u64> = (0..14)
            .map(
                |turn| match decide(&policy, &mut memory, &crash(), Millis(5), Millis(turn)) {
                    Decision::After(delay) => delay.0,
                    other => panic!("{other:?}"),
                },
            )
            .collect();
        assert_eq!(
            delays,
            [
                100, 150, 225, 337, 505, 757, 1135, 1702, 2553, 3829, 5743, 8614, 12921, 15000
            ]
        );
        let after_long_uptime = decide(&policy, &mut memory, &crash(), Millis(30_001), Millis(99));
        assert_eq!(after_long_uptime, Decision::After(Millis(100)));
    }

    #[test]
    fn a_slow_crasher_is_stopped_by_a_budget_only() {
        let slow = Millis(3_000);
        let (plain, mut memory) = (RestartPolicy::default(), fresh());
        for turn in 1..500 {
            assert_eq!(
                decide(&plain, &mut memory, &crash(), slow, Millis(turn * 3_000)),
                Decision::Now
            );
        }
        let budget = RestartBudget {
            max: 3,
            window: Millis(60_000),
        };
        let limited = RestartPolicy {
            budget: Some(budget),
            ..RestartPolicy::default()
        };
        let mut memory = fresh();
        for turn in 1..=3 {
            assert_eq!(
                decide(&limited, &mut memory, &crash(), slow, Millis(turn * 3_000)),
                Decision::Now
            );
        }
        let fourth = decide(&limited, &mut memory, &crash(), slow, Millis(12_000));
        assert_eq!(fourth, Decision::GiveUp(GiveUpReason::BudgetSpent(budget)));
    }

    #[test]
    fn done_is_told_by_exit_code_or_by_wish() {
        let stop_on_zero = RestartPolicy {
            stop_exit_codes: vec![0, 3],
            ..RestartPolicy::default()
        };
        let done = Decision::Done(DoneReason::StopExitCode);
        for (cause, want) in [
            (ExitCause::Code(0), &done),
            (ExitCause::Code(3), &done),
            (ExitCause::Code(1), &Decision::Now),
        ] {
            assert_eq!(
                &decide(
                    &stop_on_zero,
                    &mut fresh(),
                    &cause,
                    Millis(9_000),
                    Millis(0)
                ),
                want
            );
        }
        // PM2 counts a signal as code 0 (quirk 18).
        let killed = ExitCause::Signal(Signal::KILL);
        assert_eq!(
            decide(
                &stop_on_zero,
                &mut fresh(),
                &killed,
                Millis(9_000),
                Millis(0)
            ),
            done
        );
        let never = RestartPolicy {
            autorestart: false,
            ..RestartPolicy::default()
        };
        assert_eq!(
            decide(&never, &mut fresh(), &crash(), Millis(5), Millis(0)),
            Decision::Done(DoneReason::NoAutorestart)
        );
    }

    #[test]
    fn a_restart_delay_of_zero_is_none() {
        let policy = RestartPolicy {
            restart_delay: Some(Millis(0)),
            ..RestartPolicy::default()
        };
        assert_eq!(
            decide(&policy, &mut fresh(), &crash(), Millis(5), Millis(0)),
            Decision::Now
        );
        let policy = RestartPolicy {
            restart_delay: Some(Millis(300)),
            ..RestartPolicy::default()
        };
        assert_eq!(
            decide(&policy, &mut fresh(), &crash(), Millis(5), Millis(0)),
            Decision::After(Millis(300))
        );
    }
}
