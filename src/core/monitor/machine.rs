//! The monitor of one run of a ComfyUI: facts in; a verdict, cures and canary jobs out.
//!
//! A job is never judged by how long it takes, only by how long nothing of a kind was seen: a step, an event or an end
//! (progress); processor, disk, memory or GPU at work; a thread that wakes up. The surer the sign, the longer the limit.

use super::super::spec::monitor::Monitor as Settings;
use super::super::units::Millis;
use super::cause::Cause;
use super::cures::Cure;
use super::facts::{Activity, Answer, Carried, Effect, Event, Look, Note};
use super::lines::{Phase, Told};
use super::signs::Sign;

/// How soon a failed canary job is run again.
const CANARY_AGAIN: Millis = Millis(30_000);
/// Failed jobs in a row, all for want of GPU memory, that make it more than a job that was too large.
const STARVED: u32 = 2;

#[derive(Debug)]
pub(super) struct Clocks {
    pub progress: Millis,
    pub works: Millis,
    pub stirs: Millis,
}

#[derive(Debug, Default)]
pub(super) struct Steps {
    pub at: Option<(Millis, u64, u64)>,
    pub longest: Millis,
}

#[derive(Debug)]
pub(super) struct Ill {
    pub cause: Cause,
    pub why: String,
    pub tried: usize,
    pub last: Option<Cure>,
    pub next_at: Millis,
    pub given_up: bool,
}

/// The monitor. Owner: the task that watches the run.
#[derive(Debug)]
pub struct Monitor {
    pub(super) settings: Settings,
    pub(super) start_limit: Millis,
    /// Since when it comes up; `None`: it is up.
    pub(super) starting: Option<Millis>,
    pub(super) phase: Phase,
    pub(super) was_up: bool,
    pub(super) late: u32,
    pub(super) queue: u64,
    pub(super) clocks: Option<Clocks>,
    sign: Sign,
    pub(super) steps: Steps,
    pub(super) ill: Option<Ill>,
    job: JobLog,
    canary_at: Millis,
    canary_runs: bool,
    canary_failed: u32,
    pub(super) restarting: bool,
    pub(super) carried: Carried,
}

/// What the log says about jobs.
#[derive(Debug, Default)]
struct JobLog {
    trouble: Option<Cause>,
    failed: bool,
    /// Failed jobs in a row for want of GPU memory.
    starved: u32,
}

impl Monitor {
    /// Of a run that begins now; `up`: it was seen healthy before, by another daemon.
    pub fn new(
        settings: Settings,
        start_limit: Millis,
        carried: Carried,
        up: bool,
        now: Millis,
    ) -> Self {
        Self {
            settings,
            start_limit,
            starting: (!up).then_some(now),
            phase: if up {
                Phase::Listening
            } else {
                Phase::Launching
            },
            was_up: up,
            late: 0,
            queue: 0,
            clocks: None,
            sign: Sign::None,
            steps: Steps::default(),
            ill: None,
            job: JobLog::default(),
            canary_at: now,
            canary_runs: false,
            canary_failed: 0,
            restarting: false,
            carried,
        }
    }

    /// What is left to the next run.
    pub fn carried(&self) -> Carried {
        self.carried.clone()
    }

    /// How many prompts run or wait, as last told.
    pub fn queue(&self) -> u64 {
        self.queue
    }

    /// What it is at.
    pub fn activity(&self) -> Activity {
        match (self.starting, self.late > 0, self.queue) {
            (Some(_), _, _) => Activity::Starting(self.phase),
            (None, true, _) => Activity::Unanswered,
            (None, false, 0) => Activity::Idle,
            (None, false, _) => match self.sign {
                Sign::Works if self.steps.at.is_some() => Activity::Sampling,
                Sign::Works => Activity::Working,
                Sign::Stirs => Activity::Waiting,
                Sign::None => Activity::Silent,
            },
        }
    }

    /// Takes a look.
    pub fn look(&mut self, look: Look, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.restarting {
            return effects;
        }
        match look.answer {
            Answer::Queue(queue) => self.answered(queue, now, &mut effects),
            Answer::Refused => self.refused(now, &mut effects),
            Answer::Late => {
                self.late = self.late.saturating_add(1);
                if self.starting.is_none() {
                    self.clocks(now);
                }
            }
        }
        self.signs(look.sign, now, &mut effects);
        if let Some(since) = self.starting {
            if now.0.saturating_sub(since.0) >= self.start_limit.0 && self.ill.is_none() {
                let why = format!(
                    "it has not come up within {}; it has come so far: {}",
                    self.start_limit,
                    self.phase.words()
                );
                self.fall_ill(Cause::StartTimeout, why, now, &mut effects);
            }
        } else if self.ill.is_none() {
            self.judge(look, now, &mut effects);
        } else if look.thread_gone == Some(true) && self.queue > 0 {
            self.surer(Cause::DeadPromptThread);
        }
        self.treat(now, &mut effects);
        self.wish_canary(now, &mut effects);
        effects
    }

    /// Takes what happened.
    pub fn event(&mut self, event: Event, now: Millis) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.restarting {
            return effects;
        }
        match event {
            Event::Progress(step) => self.progress(step, now, &mut effects),
            Event::Queue(queue) => {
                if self.starting.is_none() {
                    self.answered(queue, now, &mut effects);
                }
            }
            Event::Told(told) => self.told(told, now, &mut effects),
            Event::CanaryPassed => {
                self.canary_over(now);
                self.canary_failed = 0;
                self.recover_if(&[Cause::CanaryFailed], now, &mut effects);
            }
            Event::CanaryFailed(why) => {
                self.canary_over(now);
                self.canary_at = now.plus(CANARY_AGAIN);
                self.canary_failed += 1;
                if self.canary_failed >= 2 && self.ill.is_none() {
                    let why = format!("{}: {why}", Cause::CanaryFailed.meaning());
                    self.fall_ill(Cause::CanaryFailed, why, now, &mut effects);
                }
            }
            Event::CanaryLost => {
                self.canary_over(now);
                if self.ill.is_none() && self.starting.is_none() {
                    let why = "a job of one pixel did not end: a node before it still holds the prompt thread, or it has ended";
                    self.fall_ill(Cause::NodeHung, why.to_owned(), now, &mut effects);
                    self.treat(now, &mut effects);
                }
            }
            Event::CanaryVoid => self.canary_over(now),
        }
        effects
    }

    fn canary_over(&mut self, now: Millis) {
        self.canary_runs = false;
        self.canary_at = now.plus(self.settings.canary);
    }

    fn answered(&mut self, queue: u64, now: Millis, effects: &mut Vec<Effect>) {
        if self.late > 0 && queue > 0 {
            // It was mute; the silence was not the job's.
            self.quiet_ended(now);
        }
        self.late = 0;
        if let Some(since) = self.starting.take() {
            let took = Millis(now.0.saturating_sub(since.0));
            effects.push(Effect::Note(Note::Up(took)));
            self.phase = Phase::Listening;
            self.was_up = true;
            self.canary_at = now;
            self.recover_if(&[Cause::StartTimeout], now, effects);
        }
        self.recover_if(&[Cause::InterpreterLockHeld], now, effects);
        if queue == 0 {
            self.clocks = None;
            self.steps = Steps::default();
            self.recover_if(
                &[Cause::NodeHung, Cause::NoProgress, Cause::DeadPromptThread],
                now,
                effects,
            );
        } else if queue < self.queue {
            // One has ended, and the next one has begun.
            self.progress(None, now, effects);
        } else {
            self.clocks(now);
        }
        self.queue = queue;
    }

    /// A live process that refuses connections, having served, starts anew in place (as ComfyUI-Manager does) or is on its way out.
    fn refused(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.starting.is_none() {
            self.begin_anew(now, effects);
        }
    }

    fn begin_anew(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        self.starting = Some(now);
        self.phase = Phase::Launching;
        (self.queue, self.late, self.clocks) = (0, 0, None);
        (self.steps, self.ill) = (Steps::default(), None);
        (self.job, self.canary_runs) = (JobLog::default(), false);
        effects.push(Effect::Note(Note::Reboots));
    }

    pub(super) fn clocks(&mut self, now: Millis) -> &mut Clocks {
        self.clocks.get_or_insert(Clocks {
            progress: now,
            works: now,
            stirs: now,
        })
    }

    fn quiet_ended(&mut self, now: Millis) {
        if let Some(clocks) = &mut self.clocks {
            let quiet = Millis(now.0.saturating_sub(clocks.stirs.0));
            self.carried.longest_quiet = self.carried.longest_quiet.max(quiet);
            clocks.stirs = now;
        }
    }

    fn signs(&mut self, sign: Sign, now: Millis, effects: &mut Vec<Effect>) {
        self.sign = sign;
        if sign == Sign::None {
            return;
        }
        self.quiet_ended(now);
        if sign == Sign::Works {
            if let Some(clocks) = &mut self.clocks {
                clocks.works = now;
            }
            // It has only been slow; what it does now is measured anew.
            self.recover_if(&[Cause::NodeHung], now, effects);
        }
    }

    fn progress(&mut self, step: Option<(u64, u64)>, now: Millis, effects: &mut Vec<Effect>) {
        if let Some((value, most)) = step {
            if let Some((at, before, of)) = self.steps.at
                && value > before
                && of == most
            {
                let took = Millis(now.0.saturating_sub(at.0));
                self.steps.longest = self.steps.longest.max(took);
            }
            self.steps.at = Some((now, value, most));
        } else {
            self.steps = Steps::default();
        }
        self.quiet_ended(now);
        if self.queue > 0 || step.is_some() {
            let clocks = self.clocks(now);
            (clocks.progress, clocks.works, clocks.stirs) = (now, now, now);
        }
        self.recover_if(
            &[Cause::NodeHung, Cause::NoProgress, Cause::DeadPromptThread],
            now,
            effects,
        );
    }

    fn told(&mut self, told: Told, now: Millis, effects: &mut Vec<Effect>) {
        match told {
            Told::Phase(Phase::Core) if self.starting.is_none() && self.was_up => {
                self.begin_anew(now, effects);
                self.phase = Phase::Core;
            }
            Told::Reboot if self.starting.is_none() => self.begin_anew(now, effects),
            Told::Phase(phase) => {
                if self.starting.is_some() {
                    self.phase = phase;
                }
            }
            Told::ImportFailed(pack) => effects.push(Effect::Note(Note::ImportFailed(pack))),
            Told::GotPrompt => {
                self.job = JobLog {
                    starved: self.job.starved,
                    ..JobLog::default()
                }
            }
            Told::NodeFailed => self.job.failed = true,
            Told::Trouble(cause) => self.trouble(cause, now, effects),
            Told::Executed => {
                self.progress(None, now, effects);
                let over = std::mem::take(&mut self.job);
                self.job.starved = over.starved;
                if over.trouble.is_none() && !over.failed {
                    self.job.starved = 0;
                    self.canary_at = now.plus(self.settings.canary);
                    self.recover_if(&[Cause::OutOfVram, Cause::OutOfRam], now, effects);
                }
            }
            Told::Loads(_) => self.progress(None, now, effects),
            Told::Reboot => {}
        }
    }

    fn trouble(&mut self, cause: Cause, now: Millis, effects: &mut Vec<Effect>) {
        if self.starting.is_some() || self.job.trouble == Some(cause) {
            return;
        }
        match cause {
            Cause::CudaContextPoisoned => {
                self.job.trouble = Some(cause);
                self.fall_ill(cause, cause.meaning().to_owned(), now, effects);
                self.treat(now, effects);
            }
            Cause::OutOfVram | Cause::OutOfRam => {
                self.job.trouble = Some(cause);
                self.job.starved += 1;
                effects.push(Effect::Note(Note::Job(cause)));
                if self.job.starved >= STARVED && self.ill.is_none() {
                    let why = format!("{} ({} jobs)", cause.meaning(), self.job.starved);
                    self.fall_ill(cause, why, now, effects);
                    self.treat(now, effects);
                } else if let Some(ill) = self.ill.as_mut().filter(|ill| ill.cause == cause) {
                    // The cure has not helped: the next one is due.
                    ill.next_at = now;
                }
            }
            // Causes of a failed start, in the output of a node that goes on.
            _ => {}
        }
    }

    fn wish_canary(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let wanted = self.settings.canary.0 > 0
            && self.starting.is_none()
            && self.late == 0
            && self.queue == 0
            && !self.canary_runs
            && now >= self.canary_at
            && self
                .ill
                .as_ref()
                .is_none_or(|ill| ill.cause == Cause::CanaryFailed);
        if wanted {
            self.canary_runs = true;
            effects.push(Effect::Canary);
        }
    }
}
