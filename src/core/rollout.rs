//! Bringing the instances of a workspace to another build, one by one: what is done, how far it is, and who goes first.

use super::comfyui::imports::Import;
use serde::{Deserialize, Serialize};

/// The form of the state file.
pub const VERSION: u32 = 1;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// To a new build, which one instance tries before it becomes the one that runs.
    Update,
    /// Back to a build that has run before.
    Rollback,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// One instance tries the new build; every other start is of the old one.
    Trying,
    /// The new build is the one that runs; the instances take it one by one.
    Rolling,
    /// Something failed: whoever runs the new build goes back.
    Undoing,
    /// All run it.
    Done,
    /// All run the old one, and `error` tells why.
    Failed,
}

impl Phase {
    /// Nothing more is to be done.
    pub fn is_over(self) -> bool {
        match self {
            Phase::Done | Phase::Failed => true,
            Phase::Trying | Phase::Rolling | Phase::Undoing => false,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Trying => "trying",
            Phase::Rolling => "rolling",
            Phase::Undoing => "undoing",
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }
}

/// `.fornax/rollout.json`: a rollout, so that a daemon that follows can go on with it. Owner: its task in the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The form of this file.
    pub version: u32,
    /// What is wanted.
    pub kind: Kind,
    /// The workspace's folder.
    pub workspace: String,
    /// The build that ran when it began.
    pub from: Option<String>,
    /// The last good one before that.
    pub before: Option<String>,
    /// The build that is to run.
    pub to: String,
    /// How long an instance may have jobs before that ends the rollout, in milliseconds.
    pub wait_ms: u64,
    /// How far it is.
    pub phase: Phase,
    /// Who tries the new build.
    pub canary: Option<String>,
    /// Who runs it by our doing, in their order.
    pub renewed: Vec<String>,
    /// Whom we have told to take no jobs, and not yet to take some again.
    pub drained: Vec<String>,
    /// What is done at this moment, in words.
    pub message: String,
    /// Why it failed, and how to mend it.
    pub error: Option<String>,
    /// When it began, in milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// When it was last changed.
    pub updated_ms: u64,
}

/// An instance that could go first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its app.
    pub name: String,
    /// It is healthy.
    pub healthy: bool,
    /// Prompts that wait or run in it.
    pub queue: u64,
}

/// Who tries the new build: one that is well, so that what goes wrong is the build's doing; of those the least busy.
pub fn first(running: &[Candidate]) -> Option<&Candidate> {
    running.iter().min_by_key(|one| (!one.healthy, one.queue))
}

/// What could be imported before and cannot be now.
pub fn newly_failing<'a>(before: &[Import], now: &'a [Import]) -> Vec<&'a Import> {
    let failed = |import: &&Import| !import.ok;
    now.iter()
        .filter(failed)
        .filter(|import| {
            let mut failing = before.iter().filter(failed);
            !failing.any(|old| old.name == import.name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, healthy: bool, queue: u64) -> Candidate {
        Candidate {
            name: name.to_owned(),
            healthy,
            queue,
        }
    }

    #[test]
    fn the_canary_is_a_healthy_instance_with_the_least_to_do() {
        let name = |all: &[Candidate]| first(all).map(|one| one.name.clone());
        assert_eq!(name(&[]), None);
        assert_eq!(name(&[one("a", false, 0)]).as_deref(), Some("a"));
        let all = [
            one("a", false, 0),
            one("b", true, 2),
            one("c", true, 1),
            one("d", true, 1),
        ];
        assert_eq!(name(&all).as_deref(), Some("c"));
    }

    #[test]
    fn what_failed_before_is_not_the_new_builds_doing() {
        let import = |name: &str, ok| Import {
            name: name.to_owned(),
            ok,
            why: String::new(),
        };
        let before = [import("old", false), import("good", true)];
        let now = [
            import("old", false),
            import("good", false),
            import("new", false),
        ];
        let told: Vec<&str> = newly_failing(&before, &now)
            .iter()
            .map(|import| import.name.as_str())
            .collect();
        assert_eq!(told, ["good", "new"]);
    }
}
