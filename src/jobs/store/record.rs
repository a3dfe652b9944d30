//! A job as it is kept, and as it is told.

use crate::comfyui::client::FileKind;
use crate::core::job::{AttemptEnd, Job, JobLimits, JobState};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A job. Owner: the engine while the job is not settled; then the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Ours: a lower-case UUID.
    pub id: String,
    /// The caller's: the same key is the same job.
    pub key: Option<String>,
    /// Who wants it, as they say themselves; callers of one priority take turns.
    pub caller: String,
    /// Higher is sooner.
    pub priority: i32,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was settled.
    pub ended_ms: Option<u64>,
    /// Where it is, and what it allows.
    pub job: Job,
    /// Each attempt, oldest first.
    pub attempts: Vec<Attempt>,
    /// Files in the store.
    pub outputs: Vec<Output>,
    /// What output nodes told besides files, by node.
    #[serde(default)]
    pub results: Value,
    /// Why it is not done, in words.
    pub error: Option<String>,
    /// ComfyUI's errors by node, of a graph that was refused or taken in part.
    #[serde(default)]
    pub node_errors: Value,
    /// Models that its graph names.
    #[serde(default)]
    pub models: Vec<String>,
    /// Files to upload before it is submitted.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// Whom to tell when it is settled.
    pub webhook: Option<Webhook>,
    /// SHA-256 of the graph and the inputs, in hexadecimal digits.
    pub digest: String,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Its id at the instance: new for each attempt.
    pub prompt_id: String,
    /// The service.
    pub instance: String,
    /// Its `pm_id`.
    pub pm_id: u32,
    /// Which run of it.
    pub generation: u64,
    /// That run's process.
    pub pid: u32,
    /// When it was given to the instance, in milliseconds since the Unix epoch.
    pub placed_ms: u64,
    /// When the instance began to execute it.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How it ended.
    pub end: Option<AttemptEnd>,
    /// The same in words.
    pub message: Option<String>,
}

/// A file in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its name, unique within the job, without a folder.
    pub name: String,
    /// The node that made it.
    pub node: String,
    /// What ComfyUI called it: `output`, or `temp` for a preview.
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Its size.
    pub bytes: u64,
}

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// As the graph calls it.
    pub name: String,
    /// Its name in the job's folder of inputs.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, in hexadecimal digits.
    pub digest: String,
}

/// Whom to tell, and how they know that it is us.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Where.
    pub url: String,
    /// The secret of the signature.
    pub secret: Option<String>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Record {
    /// Its state.
    pub fn state(&self) -> JobState {
        self.job.state
    }

    /// The attempt that is under way, or was the last.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The limits it was given.
    pub fn limits(&self) -> JobLimits {
        self.job.limits
    }

    /// Bytes of its outputs.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.bytes).sum()
    }
}
