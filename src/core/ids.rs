//! Newtypes for everything that is counted or named, so that no two of them can be mixed up.

use serde::{Deserialize, Serialize};
use std::fmt;

/// PM2's process id: a counter from 0, reused only after the list has become empty (pm2 7.0.4).
/// It names an *instance*: one slot of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PmId(pub u32);

impl fmt::Display for PmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of an instance. Every spawn gets a new one, unique in the daemon's life; every event that
/// concerns a run carries it, and an event of a past generation is dropped and counted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// How many runs the instance has had, for people: each instance counts in a range of its own, this is the place in it.
    pub fn number(self) -> u32 {
        self.0 as u32
    }

    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of an instance's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output (PM2: `out`).
    Out,
    /// Standard error (PM2: `err`, in file names `error`).
    Err,
}

impl Stream {
    /// PM2's short word for the stream.
    pub fn as_str(self) -> &'static str {
        match self {
            Stream::Out => "out",
            Stream::Err => "err",
        }
    }
}
