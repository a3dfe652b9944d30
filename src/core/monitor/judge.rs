//! When it is hung, what is tried then, and how it is told.

use super::super::probe::Verdict;
use super::super::units::Millis;
use super::cause::Cause;
use super::cures::{Cure, ladder, patience};
use super::facts::{Diagnosis, Effect, Look, Note};
use super::machine::{Ill, Monitor};

/// Answers that must fail in a row before it is told as unhealthy.
const LATE: u32 = 3;
/// How far the limit for silence grows with what the instance has survived.
const GROWTH: u64 = 4;
/// A sampler is hung when it has made no step in so many times its longest.
const STEPS: u64 = 30;

impl Monitor {
    /// A job, or silence, for which nothing at all may be seen for so long.
    pub fn quiet_limit(&self) -> Millis {
        let stall = self.settings.stall.0;
        let learned = self.carried.longest_quiet.0.saturating_mul(3);
        Millis(stall.max(learned.min(stall.saturating_mul(GROWTH))))
    }

    /// How long nothing at all has been seen of a job that runs.
    pub fn quiet_for(&self, now: Millis) -> Option<Millis> {
        let clocks = self.clocks.as_ref()?;
        Some(Millis(now.0.saturating_sub(clocks.stirs.0)))
    }

    /// How it is.
    pub fn diagnosis(&self) -> Diagnosis {
        let told = |verdict, cause, message: String| Diagnosis {
            verdict,
            cause,
            message,
        };
        if self.restarting
            && let Some(ill) = &self.ill
        {
            let message = format!("{}; it is being restarted", ill.why);
            return told(Verdict::Dead, Some(ill.cause), message);
        }
        if let Some(ill) = &self.ill {
            let message = match (ill.given_up, ill.last) {
                (true, _) => format!(
                    "{}; its {} restarts within {} are used up, so a person must act, or time pass",
                    ill.why,
                    self.settings.restarts,
                    self.carried.budget.window()
                ),
                (false, Some(cure)) => format!("{}; tried: {}", ill.why, cure.as_str()),
                (false, None) => ill.why.clone(),
            };
            return told(Verdict::Unhealthy, Some(ill.cause), message);
        }
        if self.starting.is_some() {
            let anew = if self.was_up {
                "starting anew: "
            } else {
                "starting up: "
            };
            return told(
                Verdict::Starting,
                None,
                format!("{anew}{}", self.phase.words()),
            );
        }
        if self.late >= LATE {
            let message = Cause::Unresponsive.meaning().to_owned();
            return told(Verdict::Unhealthy, Some(Cause::Unresponsive), message);
        }
        told(
            Verdict::Healthy,
            None,
            "answers, and its jobs go on".to_owned(),
        )
    }

    /// Whether what has not been seen for how long says that it is hung.
    pub(super) fn judge(&mut self, look: Look, now: Millis, effects: &mut Vec<Effect>) {
        let Some(clocks) = &self.clocks else {
            return;
        };
        let passed = |since: Millis| Millis(now.0.saturating_sub(since.0));
        let mute = self.late > 0;
        if !mute && self.queue > 0 && look.thread_gone == Some(true) {
            let why = Cause::DeadPromptThread.meaning().to_owned();
            return self.fall_ill(Cause::DeadPromptThread, why, now, effects);
        }
        let hung = |cause: Cause, how: &str, limit: Millis| {
            (cause, format!("{}: {how} for {limit}", cause.meaning()))
        };
        let stuck = match look.thread_gone {
            Some(_) => Cause::DeadPromptThread,
            None => Cause::NodeHung,
        };
        let quiet = self.quiet_limit();
        let found = if passed(clocks.stirs) >= quiet {
            let cause = if mute {
                Cause::InterpreterLockHeld
            } else {
                stuck
            };
            Some(hung(cause, "no sign of life", quiet))
        } else if passed(clocks.works) >= self.settings.waiting {
            let limit = self.settings.waiting;
            let cause = if mute {
                Cause::InterpreterLockHeld
            } else {
                stuck
            };
            Some(hung(cause, "it has only waited", limit))
        } else if mute && passed(clocks.progress) >= self.settings.unanswered {
            let limit = self.settings.unanswered;
            Some(hung(Cause::InterpreterLockHeld, "no answer", limit))
        } else {
            let limit = self.busy_limit();
            let over = !mute && passed(clocks.progress) >= limit;
            over.then(|| hung(Cause::NoProgress, "nothing", limit))
        };
        if let Some((cause, why)) = found {
            self.fall_ill(cause, why, now, effects);
        }
    }

    /// A sampler that has made steps and is not through is known to make more; what else computes may take long.
    fn busy_limit(&self) -> Millis {
        let busy = self.settings.busy;
        match self.steps.at {
            Some((_, value, most)) if value < most && self.steps.longest.0 > 0 => {
                let steps = self.steps.longest.0.saturating_mul(STEPS);
                Millis(steps.max(self.quiet_limit().0).min(busy.0))
            }
            _ => busy,
        }
    }

    pub(super) fn fall_ill(
        &mut self,
        cause: Cause,
        why: String,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Note(Note::Ill(cause, why.clone())));
        self.ill = Some(Ill {
            cause,
            why,
            tried: 0,
            last: None,
            next_at: now,
            given_up: false,
        });
    }

    pub(super) fn surer(&mut self, cause: Cause) {
        if let Some(ill) = self.ill.as_mut().filter(|ill| ill.cause == Cause::NodeHung) {
            ill.cause = cause;
            ill.why = cause.meaning().to_owned();
            ill.tried = 0;
        }
    }

    /// The next cure, when it is due.
    pub(super) fn treat(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let Some(ill) = self.ill.as_mut() else {
            return;
        };
        if now < ill.next_at {
            return;
        }
        let cures = ladder(ill.cause);
        // A start that has never been completed is left to whoever waits for it.
        let first_start = ill.cause == Cause::StartTimeout && !self.was_up;
        let Some(cure) = cures.get(ill.tried).filter(|_| !first_start) else {
            return;
        };
        if *cure == Cure::Restart {
            if !self.carried.budget.take(now) {
                if !ill.given_up {
                    ill.given_up = true;
                    effects.push(Effect::Note(Note::GivenUp(ill.cause, ill.why.clone())));
                }
                return;
            }
            self.restarting = true;
        }
        ill.given_up = false;
        ill.tried += 1;
        ill.last = Some(*cure);
        ill.next_at = now.plus(patience(*cure));
        effects.push(Effect::Cure(*cure, ill.cause));
    }

    pub(super) fn recover_if(&mut self, causes: &[Cause], now: Millis, effects: &mut Vec<Effect>) {
        let well = self
            .ill
            .as_ref()
            .is_some_and(|ill| causes.contains(&ill.cause));
        if well && let Some(ill) = self.ill.take() {
            effects.push(Effect::Note(Note::Cured(ill.cause, ill.last)));
            if self.queue > 0 {
                self.clocks = None;
                self.clocks(now);
            }
        }
    }
}
