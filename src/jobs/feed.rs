//! What followers of jobs are told, numbered so that one who comes back is told what was missed.

use crate::core::job::JobState;
use bytes::Bytes;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events of one job that are kept for whoever comes back; older ones are forgotten.
pub(super) const KEPT: usize = 128;
/// Events on their way to followers; one that is slower is told the job's state anew.
pub(super) const WAITING: usize = 1024;

/// States of all jobs that are kept for who follows the machine and comes back.
pub(super) const RECENT: usize = 1024;

/// Something happened to a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobNews {
    /// Counts all events of this daemon, from 1.
    pub seq: u64,
    /// Which job.
    pub job: Arc<str>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// It is in another state, or on another attempt.
    State(StateNews),
    /// A node begins, or makes a step.
    Progress(Progress),
    /// A picture of work in progress: told to who wants it, and not kept.
    Preview {
        /// Which node makes it.
        node: Option<String>,
        /// `image/jpeg` or `image/png`.
        media_type: &'static str,
        /// The picture.
        image: Bytes,
    },
}

/// A job's state, in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StateNews {
    /// Where it is.
    pub state: JobState,
    /// Which attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// On which instance.
    pub instance: Option<String>,
    /// Why, of an attempt that failed or a job that is not done.
    pub message: Option<String>,
    /// Names of its outputs, once it is done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// Which.
    pub node: String,
    /// Steps done; 0 when it begins.
    pub value: f64,
    /// Of so many; 0 when that is not known.
    pub max: f64,
}

/// The latest events of one job. Owner: the engine.
#[derive(Debug, Default)]
pub(super) struct Past(VecDeque<Arc<JobNews>>);

impl Past {
    pub fn push(&mut self, news: Arc<JobNews>) {
        if matches!(news.what, What::Preview { .. }) {
            return;
        }
        if self.0.len() >= KEPT {
            // States stay as long as steps can go.
            let step = self
                .0
                .iter()
                .position(|old| matches!(old.what, What::Progress(_)));
            self.0.remove(step.unwrap_or(0));
        }
        self.0.push_back(news);
    }

    /// Those after `seq`.
    pub fn after(&self, seq: u64) -> Vec<Arc<JobNews>> {
        self.0
            .iter()
            .filter(|news| news.seq > seq)
            .cloned()
            .collect()
    }
}

/// The latest states of all jobs. Owner: the engine.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<Arc<JobNews>>);

/// What was told since some event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Since {
    /// The states, oldest first.
    pub states: Vec<Arc<JobNews>>,
    /// There were more, which are not kept.
    pub missed: bool,
}

impl Recent {
    pub fn push(&mut self, news: &Arc<JobNews>) {
        if !matches!(news.what, What::State(_)) {
            return;
        }
        if self.0.len() >= RECENT {
            self.0.pop_front();
        }
        self.0.push_back(Arc::clone(news));
    }

    /// Those after `seq`.
    pub fn after(&self, seq: u64) -> Since {
        let after = self.0.iter().filter(|news| news.seq > seq);
        let oldest = self.0.front().map_or(0, |news| news.seq);
        Since {
            states: after.cloned().collect(),
            // With room left nothing has ever been forgotten.
            missed: self.0.len() >= RECENT && oldest > seq + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_is_told_what_was_told_since_and_whether_that_is_all() {
        let state = |seq| {
            let news = StateNews {
                state: JobState::Queued,
                attempt: 0,
                instance: None,
                message: None,
                outputs: Vec::new(),
            };
            let what = What::State(news);
            Arc::new(JobNews {
                seq,
                job: "a".into(),
                at_ms: 0,
                what,
            })
        };
        let mut recent = Recent::default();
        let told = |recent: &Recent, seq| {
            let since = recent.after(seq);
            (
                since.states.first().map(|news| news.seq),
                since.states.len(),
                since.missed,
            )
        };
        assert_eq!(told(&recent, 7), (None, 0, false));
        for seq in 1..=3 {
            recent.push(&state(seq));
        }
        assert_eq!(told(&recent, 0), (Some(1), 3, false));
        assert_eq!(told(&recent, 2), (Some(3), 1, false));
        for seq in 4..=RECENT as u64 + 2 {
            recent.push(&state(seq));
        }
        assert_eq!(told(&recent, 1), (Some(3), RECENT, true));
        assert_eq!(told(&recent, 2), (Some(3), RECENT, false));
    }
}
