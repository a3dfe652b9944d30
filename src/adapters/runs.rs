//! The runs in progress: where a run's descriptors are found.

use super::runner::RunHandle;
use crate::core::ids::{Generation, PmId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The runs in progress, by instance: the one place where a run's descriptors are found.
///
/// A lock, not a message: the loop, the sampler and the protocol's threads look a handle up and let go at once.
#[derive(Debug, Default)]
pub struct Runs {
    by_id: Mutex<HashMap<(PmId, Generation), Arc<RunHandle>>>,
}

impl Runs {
    pub(super) fn insert(&self, id: PmId, generation: Generation, handle: Arc<RunHandle>) {
        self.lock().insert((id, generation), handle);
    }

    pub(super) fn remove(&self, id: PmId, generation: Generation) {
        self.lock().remove(&(id, generation));
    }

    /// The run, if it has not ended. While a worker is reloaded its instance has two.
    pub fn get(&self, id: PmId, generation: Generation) -> Option<Arc<RunHandle>> {
        self.lock().get(&(id, generation)).map(Arc::clone)
    }

    /// All of them, an instance's latest last.
    pub fn all(&self) -> Vec<(PmId, Generation, Arc<RunHandle>)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .map(|((id, generation), handle)| (*id, *generation, Arc::clone(handle)))
            .collect();
        all.sort_unstable_by_key(|(_, generation, _)| *generation);
        all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PmId, Generation), Arc<RunHandle>>> {
        // A map of handles is whole after any panic.
        self.by_id
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
