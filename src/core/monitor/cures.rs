//! Cures, from mild to strong, with a budget: what is tried next against a cause.

use super::super::units::Millis;
use super::cause::Cause;
use serde::Serialize;
use std::collections::VecDeque;

/// Something that may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cure {
    /// `POST /interrupt`: works at a step of a sampler and between nodes.
    Interrupt,
    /// `POST /free`: unloads models and forgets results, once the prompt thread is idle.
    Free,
    /// The stop ladder, and a new run.
    Restart,
}

impl Cure {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Cure::Interrupt => "interrupt",
            Cure::Free => "free",
            Cure::Restart => "restart",
        }
    }
}

/// What is tried against a cause, in order. Nothing: a person must act.
pub fn ladder(cause: Cause) -> &'static [Cure] {
    use Cure::{Free, Interrupt, Restart};
    match cause {
        // Nobody is left to take an interrupt, or nobody can.
        Cause::DeadPromptThread | Cause::InterpreterLockHeld | Cause::CudaContextPoisoned => {
            &[Restart]
        }
        Cause::NodeHung | Cause::NoProgress => &[Interrupt, Restart],
        // Of a run that had come up before.
        Cause::StartTimeout => &[Restart],
        Cause::OutOfVram | Cause::OutOfRam => &[Free, Restart],
        Cause::ImportFailures
        | Cause::PortClash
        | Cause::MissingDriver
        | Cause::TorchMismatch
        | Cause::MissingPackage
        | Cause::BadFlag
        | Cause::MissingFile
        | Cause::Database
        | Cause::NativeCrash
        | Cause::CanaryFailed
        | Cause::Unresponsive => &[],
    }
}

/// How long a cure is given before the next one.
pub fn patience(cure: Cure) -> Millis {
    match cure {
        // One step of a sampler may take that long on a slow card.
        Cure::Interrupt => Millis(10_000),
        Cure::Free => Millis(20_000),
        Cure::Restart => Millis(60_000),
    }
}

/// How often an instance may be restarted to cure it. It outlives the runs. Owner: the monitor of the instance.
#[derive(Debug, Clone)]
pub struct Budget {
    most: u32,
    window: Millis,
    spent: VecDeque<Millis>,
}

impl Budget {
    /// At most so many restarts within so long.
    pub fn new(most: u32, window: Millis) -> Self {
        Self {
            most,
            window,
            spent: VecDeque::new(),
        }
    }

    /// Takes one, if there is one left.
    pub fn take(&mut self, now: Millis) -> bool {
        if self.left(now) == 0 {
            return false;
        }
        self.spent.push_back(now);
        true
    }

    /// How many are left.
    pub fn left(&mut self, now: Millis) -> u32 {
        while self
            .spent
            .front()
            .is_some_and(|at| at.plus(self.window) <= now)
        {
            self.spent.pop_front();
        }
        let spent = u32::try_from(self.spent.len()).unwrap_or(u32::MAX);
        self.most.saturating_sub(spent)
    }

    /// Within how long.
    pub fn window(&self) -> Millis {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_comes_back_with_time() {
        let mut budget = Budget::new(2, Millis(100));
        assert!(budget.take(Millis(0)) && budget.take(Millis(50)));
        assert!(!budget.take(Millis(99)));
        assert!(budget.take(Millis(100)), "the first has lapsed");
        assert!(!budget.take(Millis(149)));
        assert_eq!(budget.left(Millis(1_000)), 2);
        assert!(!Budget::new(0, Millis(100)).take(Millis(0)));
    }

    #[test]
    fn cures_grow_and_end_with_a_restart() {
        for cause in Cause::ALL {
            let cures = ladder(cause);
            if let Some(last) = cures.last() {
                assert_eq!(*last, Cure::Restart, "{cause:?}");
            }
        }
    }
}
