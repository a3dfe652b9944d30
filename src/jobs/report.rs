//! What tasks report to the engine.

use super::fetch::FetchError;
use super::store::{Inserted, Output, Record, StoreError};
use crate::comfyui::client::{Event, HistoryEntry};
use crate::core::refusal::Refusal;
use tokio::sync::oneshot;

/// A task's result. The engine drops what concerns an attempt or a link that is over.
pub(super) enum Report {
    /// A new job is written, or it is known, or it cannot be written.
    Inserted {
        job: String,
        result: Result<Inserted, StoreError>,
    },
    /// An attempt is written down: it may be given to its instance.
    Written {
        job: String,
        prompt_id: String,
        result: Result<(), StoreError>,
    },
    /// It was given to its instance.
    Delivered {
        prompt_id: String,
        delivery: Delivery,
    },
    /// The websocket of a link was opened or closed.
    Socket { link: u64, open: bool },
    /// Something came by it.
    Event { link: u64, event: Event },
    /// A prompt was looked for.
    Found { prompt_id: String, found: Found },
    /// Outputs were fetched.
    Fetched {
        prompt_id: String,
        result: Result<Vec<Output>, FetchError>,
    },
    /// A device's free memory.
    Stats { link: u64, free_vram: u64 },
    /// A settled job is on disk, or not.
    Settled {
        record: Box<Record>,
        result: Result<(), StoreError>,
    },
    /// A job was looked up in the store for somebody who wants to cancel it.
    Stored {
        found: Result<Option<Box<Record>>, StoreError>,
        reply: oneshot::Sender<Result<super::handle::Cancelled, StoreError>>,
    },
}

/// What became of a submission.
pub(super) enum Delivery {
    /// All of it was taken.
    Taken,
    /// A part was taken.
    Partial(Refusal),
    /// It was refused.
    Refused(Refusal),
    /// It was certainly not taken.
    NotTaken(String),
    /// It may have been taken.
    Unsure(String),
}

/// Where a prompt is.
pub(super) enum Found {
    /// It has ended so.
    Ended(Box<HistoryEntry>),
    /// It is executed.
    Running,
    /// It waits.
    Waiting,
    /// The instance does not know it.
    Nowhere,
    /// The instance could not be asked.
    Unanswered(String),
}
