//! The log plane: one thread takes the output of every app to its files and to whoever follows.
//!
//! ```text
//! app ══pipe══► engine (one thread, one 256 KiB buffer) ─ splitter ─ formatter ─┬─► sink: one a file, lossless ─► rotation ─► gzip
//!                                                                               └─► hub: bounded queues ─► followers (lossy, counted)
//! tail, resume ─► chain: the file and its rotated ones, with the index of line numbers
//! ```
//!
//! Files are lossless: a slow disk makes the apps wait; a full one costs lines, which are counted and told of in the file.
//! Followers are lossy: a slow one loses its oldest lines and is told how many.
//! What is being done stands in the journal, a memfd: whoever adopts it after a SIGKILL completes it.

mod backward;
mod chain;
mod command;
mod config;
mod disk;
mod engine;
mod follow;
mod format;
mod gzip;
mod hub;
mod index;
mod intake;
mod journal;
mod keeping;
mod obey;
mod owners;
mod plane;
mod recovery;
mod replay;
mod rotate;
mod shown;
mod sink;
mod sink_files;
mod sinks;
mod source;
mod stats;
mod tail;
mod trouble;

pub use config::{LogConfig, LogFormat, LogOptions, RunLogs};
pub use follow::{FollowItem, Follower};
pub use hub::{Batch, Filter, Position};
pub use journal::{Journal, JournalError};
pub use plane::{Finished, LogError, LogPlane};
pub use stats::{PlaneStats, SinkStats};
pub use tail::{LogLine, TailAnswer, TailQuery, TailTarget};
