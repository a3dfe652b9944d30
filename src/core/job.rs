//! A job from accepted to settled: one state, one function that moves it, and each attempt told.
//!
//! An instance's death is not the job's fault, but a job that instances die of is not tried for ever: the second death while it
//! ran makes it dead (comfyui-facts 6.4, point 8).

use super::refusal::RefusalClass;
use super::units::Millis;
use serde::{Deserialize, Serialize};

/// So many instances may die, or hang, while a job runs on them.
pub const KILLS: u32 = 2;
/// So often a node may fail, on different instances where there are some.
pub const NODE_FAILURES: u32 = 2;
/// So often an instance may run out of memory.
pub const OUT_OF_MEMORY: u32 = 3;
/// So often outputs may be missing after a success.
pub const MISSING_OUTPUTS: u32 = 3;
/// So many attempts a job has, unless it says so itself.
pub const ATTEMPTS: u32 = 20;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for an instance.
    Queued,
    /// It has been given to an instance, and waits there.
    Placed,
    /// An instance executes it.
    Running,
    /// It has ended well, and its outputs are being fetched.
    Fetching,
    /// Its outputs are in the store.
    Done,
    /// It cannot be done, and it is told why.
    Failed,
    /// Somebody has cancelled it.
    Cancelled,
    /// Instances die of it, or it was tried too often: a person should look.
    Dead,
}

impl JobState {
    /// Every state.
    pub const ALL: [JobState; 8] = [
        JobState::Queued,
        JobState::Placed,
        JobState::Running,
        JobState::Fetching,
        JobState::Done,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Dead,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Placed => "placed",
            JobState::Running => "running",
            JobState::Fetching => "fetching",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::Dead => "dead",
        }
    }

    /// From the word on the wire.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Nothing more happens to it.
    pub fn is_settled(self) -> bool {
        match self {
            JobState::Done | JobState::Failed | JobState::Cancelled | JobState::Dead => true,
            JobState::Queued | JobState::Placed | JobState::Running | JobState::Fetching => false,
        }
    }

    /// An instance has it.
    pub fn is_out(self) -> bool {
        !self.is_settled() && self != JobState::Queued
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum AttemptEnd {
    /// It ran to its end.
    Success,
    /// The instance refused the graph.
    Refused {
        /// What the refusal means.
        class: RefusalClass,
    },
    /// The instance took a part of the graph only, and the job wants all.
    Partial,
    /// A node failed.
    NodeFailed,
    /// The instance had too little memory.
    OutOfMemory,
    /// Somebody interrupted it there, not us.
    Interrupted,
    /// The instance died, or was stopped.
    InstanceLost {
        /// While it executed this job, rather than while the job waited there.
        running: bool,
    },
    /// The instance knows nothing of it: it was restarted, or never got it.
    Lost,
    /// It could not be submitted, or an input could not be uploaded.
    NotTaken,
    /// It made no progress for too long.
    Stalled,
    /// It took longer than the job allows.
    TimedOut,
    /// It succeeded, and a file that it names is missing, empty or short.
    OutputMissing,
    /// We took it back, as was asked for.
    Cancelled,
}

/// What a job allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobLimits {
    /// It waits no longer than this for an instance; `None`: for ever.
    pub queue: Option<Millis>,
    /// An attempt takes no longer than this; `None`: as long as it likes.
    pub run: Option<Millis>,
    /// An attempt that shows no progress for so long is given up. Loading models shows none, and takes minutes.
    pub stall: Millis,
    /// So many attempts, from 1.
    pub attempts: u32,
    /// A part of the graph will do, where the instance takes no more.
    pub partial: bool,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            queue: None,
            run: None,
            stall: Millis::from_secs(600),
            attempts: ATTEMPTS,
            partial: false,
        }
    }
}

/// What has gone wrong so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Instances that died or hung while they executed it.
    pub kills: u32,
    /// Failures of nodes.
    pub node_failures: u32,
    /// Ends for lack of memory.
    pub out_of_memory: u32,
    /// Successes without outputs.
    pub missing_outputs: u32,
    /// Validations in which the code of a node raised.
    pub raised: u32,
}

/// The moving part of a job. Owner: the jobs engine; a copy is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Where it is.
    pub state: JobState,
    /// It is to be cancelled as soon as that can be.
    #[serde(default)]
    pub cancelling: bool,
    /// What it allows.
    pub limits: JobLimits,
    /// Attempts begun.
    pub attempts: u32,
    /// What has gone wrong.
    #[serde(default)]
    pub tally: Tally,
    /// Instances that have refused it for what they lack: not these.
    #[serde(default)]
    pub not_on: Vec<String>,
    /// Instances on which an attempt failed: rather not these.
    #[serde(default)]
    pub avoid: Vec<String>,
}

/// What happens to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// It was given to an instance.
    Placed,
    /// The instance began to execute it.
    Started,
    /// The attempt on this instance ended.
    Ended {
        /// How.
        end: AttemptEnd,
        /// Where.
        instance: String,
        /// Whether another instance could take it that has not refused it.
        elsewhere: bool,
    },
    /// Its outputs are in the store.
    Fetched,
    /// Somebody wants it cancelled.
    Cancel,
    /// It has waited for longer than it may.
    Expired,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Wait,
    /// Find an instance for it.
    Place,
    /// Fetch its outputs.
    Fetch,
    /// Take it back from its instance.
    TakeBack,
    /// It is settled: tell everybody.
    Settle,
}

impl Job {
    /// A job that has just been accepted.
    pub fn new(limits: JobLimits) -> Self {
        Self {
            state: JobState::Queued,
            cancelling: false,
            limits,
            attempts: 0,
            tally: Tally::default(),
            not_on: Vec::new(),
            avoid: Vec::new(),
        }
    }

    /// Moves it. What does not fit its state changes nothing: late news of an attempt that has ended.
    pub fn step(&mut self, event: JobEvent) -> Next {
        match (self.state, event) {
            (
                JobState::Done | JobState::Failed | JobState::Cancelled | JobState::Dead,
                JobEvent::Placed
                | JobEvent::Started
                | JobEvent::Ended { .. }
                | JobEvent::Fetched
                | JobEvent::Cancel
                | JobEvent::Expired,
            ) => Next::Wait,
            (JobState::Queued, JobEvent::Placed) => {
                self.attempts += 1;
                self.state = JobState::Placed;
                Next::Wait
            }
            (JobState::Queued, JobEvent::Cancel) => self.settle(JobState::Cancelled),
            (JobState::Queued, JobEvent::Expired) => self.settle(JobState::Failed),
            (JobState::Queued, JobEvent::Started | JobEvent::Ended { .. } | JobEvent::Fetched) => {
                Next::Wait
            }
            (JobState::Placed, JobEvent::Started) => {
                self.state = JobState::Running;
                Next::Wait
            }
            (JobState::Running | JobState::Fetching, JobEvent::Started) => Next::Wait,
            (JobState::Placed | JobState::Running, JobEvent::Cancel) => {
                self.cancelling = true;
                Next::TakeBack
            }
            // Its work is done: what was asked for too late is not thrown away.
            (JobState::Fetching, JobEvent::Cancel) => Next::Wait,
            (JobState::Fetching, JobEvent::Fetched) => self.settle(JobState::Done),
            (
                JobState::Placed | JobState::Running | JobState::Fetching,
                JobEvent::Ended {
                    end,
                    instance,
                    elsewhere,
                },
            ) => self.ended(end, instance, elsewhere),
            (JobState::Placed | JobState::Running, JobEvent::Fetched) => Next::Wait,
            (
                JobState::Placed | JobState::Running | JobState::Fetching,
                JobEvent::Placed | JobEvent::Expired,
            ) => Next::Wait,
        }
    }

    fn settle(&mut self, state: JobState) -> Next {
        self.state = state;
        Next::Settle
    }

    fn ended(&mut self, end: AttemptEnd, instance: String, elsewhere: bool) -> Next {
        if end == AttemptEnd::Success {
            if self.state == JobState::Fetching {
                return Next::Wait;
            }
            self.state = JobState::Fetching;
            return Next::Fetch;
        }
        if self.cancelling {
            return self.settle(JobState::Cancelled);
        }
        let over = match end {
            AttemptEnd::Success | AttemptEnd::Cancelled => Some(JobState::Cancelled),
            AttemptEnd::Partial | AttemptEnd::Interrupted | AttemptEnd::TimedOut => {
                Some(JobState::Failed)
            }
            AttemptEnd::Refused { class } => self.refused(class, &instance, elsewhere),
            AttemptEnd::NodeFailed => {
                self.tally.node_failures += 1;
                (self.tally.node_failures >= NODE_FAILURES).then_some(JobState::Failed)
            }
            AttemptEnd::OutOfMemory => {
                self.tally.out_of_memory += 1;
                (self.tally.out_of_memory >= OUT_OF_MEMORY).then_some(JobState::Failed)
            }
            AttemptEnd::OutputMissing => {
                self.tally.missing_outputs += 1;
                (self.tally.missing_outputs >= MISSING_OUTPUTS).then_some(JobState::Failed)
            }
            AttemptEnd::InstanceLost { running: true } | AttemptEnd::Stalled => {
                self.tally.kills += 1;
                (self.tally.kills >= KILLS).then_some(JobState::Dead)
            }
            AttemptEnd::InstanceLost { running: false }
            | AttemptEnd::Lost
            | AttemptEnd::NotTaken => None,
        };
        if let Some(state) = over {
            return self.settle(state);
        }
        if self.attempts >= self.limits.attempts {
            return self.settle(JobState::Dead);
        }
        if !self.avoid.contains(&instance) {
            self.avoid.push(instance);
        }
        self.state = JobState::Queued;
        Next::Place
    }

    fn refused(
        &mut self,
        class: RefusalClass,
        instance: &str,
        elsewhere: bool,
    ) -> Option<JobState> {
        match class {
            RefusalClass::Permanent => Some(JobState::Failed),
            RefusalClass::NodeSet | RefusalClass::Elsewhere => {
                self.not_on.push(instance.to_owned());
                (!elsewhere).then_some(JobState::Failed)
            }
            RefusalClass::Once => {
                self.tally.raised += 1;
                (self.tally.raised >= 2).then_some(JobState::Failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(end: AttemptEnd) -> JobEvent {
        JobEvent::Ended {
            end,
            instance: "gpu0".into(),
            elsewhere: true,
        }
    }

    fn run(events: &[JobEvent]) -> (Job, Next) {
        let mut job = Job::new(JobLimits::default());
        let mut next = Next::Place;
        for event in events {
            next = job.step(event.clone());
        }
        (job, next)
    }

    #[test]
    fn a_job_is_done_only_when_its_outputs_are_there() {
        let (mut job, next) = run(&[
            JobEvent::Placed,
            JobEvent::Started,
            end(AttemptEnd::Success),
        ]);
        assert_eq!((job.state, next), (JobState::Fetching, Next::Fetch));
        assert_eq!(job.step(JobEvent::Fetched), Next::Settle);
        assert_eq!(job.state, JobState::Done);
    }

    #[test]
    fn an_instances_death_is_not_the_jobs_fault_but_the_second_one_is_told() {
        let death = end(AttemptEnd::InstanceLost { running: true });
        let (mut job, next) = run(&[JobEvent::Placed, JobEvent::Started, death.clone()]);
        assert_eq!((job.state, next), (JobState::Queued, Next::Place));
        job.step(JobEvent::Placed);
        job.step(JobEvent::Started);
        assert_eq!(job.step(death), Next::Settle);
        assert_eq!((job.state, job.tally.kills), (JobState::Dead, 2));
    }

    #[test]
    fn a_job_that_only_waited_on_an_instance_that_died_is_not_blamed() {
        let mut job = Job::new(JobLimits::default());
        for _ in 0..10 {
            job.step(JobEvent::Placed);
            assert_eq!(
                job.step(end(AttemptEnd::InstanceLost { running: false })),
                Next::Place
            );
        }
        assert_eq!(job.tally, Tally::default());
    }

    #[test]
    fn refusals_are_final_where_no_other_instance_may_help() {
        for (class, elsewhere, want) in [
            (RefusalClass::Permanent, true, JobState::Failed),
            (RefusalClass::Elsewhere, true, JobState::Queued),
            (RefusalClass::Elsewhere, false, JobState::Failed),
            (RefusalClass::NodeSet, false, JobState::Failed),
            (RefusalClass::Once, true, JobState::Queued),
        ] {
            let refused = JobEvent::Ended {
                end: AttemptEnd::Refused { class },
                instance: "gpu0".into(),
                elsewhere,
            };
            let (job, _) = run(&[JobEvent::Placed, refused]);
            assert_eq!(job.state, want, "{class:?} {elsewhere}");
        }
    }

    #[test]
    fn a_cancel_takes_back_what_is_out_and_a_finished_one_is_kept() {
        let (mut job, next) = run(&[JobEvent::Placed, JobEvent::Started, JobEvent::Cancel]);
        assert_eq!(next, Next::TakeBack);
        assert_eq!(
            job.step(end(AttemptEnd::InstanceLost { running: true })),
            Next::Settle
        );
        assert_eq!(job.state, JobState::Cancelled);
        let (mut job, _) = run(&[JobEvent::Placed, JobEvent::Cancel, end(AttemptEnd::Success)]);
        assert_eq!(job.step(JobEvent::Fetched), Next::Settle);
        assert_eq!(job.state, JobState::Done);
    }

    fn any_event() -> impl Strategy<Value = JobEvent> {
        let ends = prop_oneof![
            Just(AttemptEnd::Success),
            Just(AttemptEnd::Partial),
            Just(AttemptEnd::NodeFailed),
            Just(AttemptEnd::OutOfMemory),
            Just(AttemptEnd::Lost),
            Just(AttemptEnd::NotTaken),
            Just(AttemptEnd::Stalled),
            Just(AttemptEnd::OutputMissing),
            Just(AttemptEnd::TimedOut),
            any::<bool>().prop_map(|running| AttemptEnd::InstanceLost { running }),
            Just(AttemptEnd::Refused {
                class: RefusalClass::Elsewhere
            }),
        ];
        prop_oneof![
            4 => Just(JobEvent::Placed), 2 => Just(JobEvent::Started), 1 => Just(JobEvent::Fetched),
            1 => Just(JobEvent::Cancel), 1 => Just(JobEvent::Expired),
            4 => (ends, any::<bool>()).prop_map(|(end, elsewhere)| JobEvent::Ended { end, instance: "gpu0".into(), elsewhere }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_a_settled_job_stays_and_attempts_are_bounded(events in proptest::collection::vec(any_event(), 0..200)) {
            let mut job = Job::new(JobLimits::default());
            let (mut settled, mut fetching) = (None, false);
            for event in events {
                let fetched = event == JobEvent::Fetched;
                let next = job.step(event);
                prop_assert_eq!(next == Next::Settle, settled.is_none() && job.state.is_settled());
                if let Some(state) = settled {
                    prop_assert_eq!(job.state, state);
                }
                if job.state == JobState::Done && settled.is_none() {
                    prop_assert!(fetching && fetched, "done without its outputs");
                }
                fetching = job.state == JobState::Fetching;
                settled = job.state.is_settled().then_some(job.state);
                prop_assert!(job.attempts <= job.limits.attempts);
                prop_assert!(job.tally.kills <= KILLS && job.tally.node_failures <= NODE_FAILURES);
            }
        }
    }
}
