//! What the monitor is told, what it tells, and what it wants done.

use super::super::probe::Verdict;
use super::super::spec::monitor::Monitor as Settings;
use super::super::units::Millis;
use super::cause::Cause;
use super::cures::{Budget, Cure};
use super::lines::{Phase, Told};
use super::signs::Sign;

/// One look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What `GET /prompt` was answered.
    pub answer: Answer,
    /// What its counters say about the time since the last look.
    pub sign: Sign,
    /// See [`super::signs::PromptThread::gone`].
    pub thread_gone: Option<bool>,
}

/// What `GET /prompt` was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// So many prompts run or wait.
    Queue(u64),
    /// Nothing, or nothing sensible, in time.
    Late,
    /// Nobody listens.
    Refused,
}

/// What happens between looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A job goes on: a websocket event, another running prompt, a worker's report. With the step of a sampler, if it is one.
    Progress(Option<(u64, u64)>),
    /// The queue has changed: so many prompts run or wait.
    Queue(u64),
    /// A line of its log.
    Told(Told),
    /// The canary job ran.
    CanaryPassed,
    /// It was run and failed, for this reason.
    CanaryFailed(String),
    /// It did not end in time, and nothing ran before it.
    CanaryLost,
    /// It could not be tried: others were first, or this ComfyUI lacks its nodes.
    CanaryVoid,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Apply this cure.
    Cure(Cure, Cause),
    /// Run the canary job.
    Canary,
    /// Tell people.
    Note(Note),
}

/// Something worth a line in the log and on port 9090.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// It came up; so long after its start.
    Up(Millis),
    /// It starts anew by itself.
    Reboots,
    /// Something is wrong with it.
    Ill(Cause, String),
    /// A job met this; the instance itself goes on.
    Job(Cause),
    /// This node pack could not be imported.
    ImportFailed(String),
    /// It is well again; what was tried last.
    Cured(Cause, Option<Cure>),
    /// Nothing more is tried.
    GivenUp(Cause, String),
}

/// What it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Coming up.
    Starting(Phase),
    /// Nothing runs.
    Idle,
    /// A job runs, and no step of it has been seen: a model is being loaded, say.
    Working,
    /// A job makes steps.
    Sampling,
    /// A job runs and only wakes up now and then.
    Waiting,
    /// A job runs and nothing is to be seen of it.
    Silent,
    /// It does not answer.
    Unanswered,
}

impl Activity {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Activity::Starting(_) => "starting",
            Activity::Idle => "idle",
            Activity::Working => "working",
            Activity::Sampling => "sampling",
            Activity::Waiting => "waiting",
            Activity::Silent => "silent",
            Activity::Unanswered => "unanswered",
        }
    }
}

/// How it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// For the loop.
    pub verdict: Verdict,
    /// What is wrong.
    pub cause: Option<Cause>,
    /// In a sentence. It changes when its meaning does, not with every second.
    pub message: String,
}

/// What a run leaves to the next one of its instance.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Restarts left.
    pub budget: Budget,
    /// The longest silence in a job that then went on.
    pub longest_quiet: Millis,
}

impl Carried {
    /// Of an instance that was never watched.
    pub fn new(settings: &Settings) -> Self {
        Self {
            budget: Budget::new(settings.restarts, settings.restart_window),
            longest_quiet: Millis(0),
        }
    }
}
