//! A job in work, as the loop and the job's task share it.

use super::entry::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A claimed entry that is not settled yet.
pub struct Held {
    /// As it came.
    pub entry: Entry,
    /// Its claims, this one among them.
    pub deliveries: u64,
    /// Somebody else has it now, or it is settled.
    pub lost: CancellationToken,
    /// We are to end.
    pub stop: CancellationToken,
    /// A lock and not a message: it is held for a copy.
    heard: Mutex<Instant>,
    /// It has ended, and its result is on its way.
    finishing: AtomicBool,
}

impl Held {
    pub fn new(entry: Entry, deliveries: u64, stop: &CancellationToken) -> Self {
        Self {
            entry,
            deliveries,
            lost: CancellationToken::new(),
            stop: stop.child_token(),
            heard: Mutex::new(Instant::now()),
            finishing: AtomicBool::new(false),
        }
    }

    /// The daemon has told that it goes on.
    pub fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Its result is there.
    pub fn finish(&self) {
        self.finishing.store(true, Ordering::Relaxed);
    }

    /// Its lease is to be renewed: it goes on, as far as was heard within `limit`.
    pub fn is_alive(&self, limit: Duration) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.finishing.load(Ordering::Relaxed) || heard.elapsed() < limit
    }
}
