//! The journal in the engine's hands, or its absence: without one nothing is noted and nothing is protected.

use super::carry::StreamSeat;
use super::layout::{SINKS, STREAMS, head};
use super::slots::Slots;
use super::turn::Progress;
use crate::adapters::logs::owners::Owner;
use crate::core::ids::{Generation, PmId, Stream};
use crate::sys::shm::{Rest, Words};
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::Arc;

/// Owner: the engine thread.
#[derive(Debug)]
pub(in super::super) struct Book {
    kept: Option<Kept>,
    /// Streams of an adopted journal whose runs have not been attached again yet.
    pub waiting: HashMap<(PmId, Generation, Stream), StreamSeat>,
}

/// What there is where there is a journal.
#[derive(Debug)]
pub(super) struct Kept {
    pub words: Words,
    pub rest: Rest,
    /// The last turn, under way if `open`.
    pub turn: u64,
    pub open: bool,
    pub progress: Progress,
    pub sinks: Slots,
    pub streams: Slots,
    /// How many more steps are done: a test ends the engine at each of them.
    steps_left: u64,
    /// It was told that there are no slots left.
    pub told_full: bool,
}

/// The engine ends here, as after a SIGKILL.
#[derive(Debug)]
struct Stopped;

impl Book {
    /// None: nothing is protected.
    pub fn none() -> Self {
        Self {
            kept: None,
            waiting: HashMap::new(),
        }
    }

    pub(super) fn new(kept: Kept) -> Self {
        let waiting = kept.found_streams().into_iter().collect();
        Self {
            kept: Some(kept),
            waiting,
        }
    }

    /// Whose slot this is, of the streams of an adopted journal that wait for their runs.
    pub fn waiting_at(&self, slot: u32) -> Option<(Arc<Owner>, Generation)> {
        let found = self.waiting.iter().find(|(_, seat)| seat.slot == slot);
        found.map(|((instance, generation, stream), _)| {
            (Arc::new(Owner::nameless(*instance, *stream)), *generation)
        })
    }

    /// Whether there is a journal.
    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    pub(super) fn kept(&mut self) -> Option<&mut Kept> {
        self.kept.as_mut()
    }

    /// Whether a turn is under way.
    pub fn is_open(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.open)
    }

    /// Commits a turn that has no stream.
    pub fn commit(&mut self) {
        if let Some(kept) = self.kept() {
            kept.commit();
        }
    }
}

impl Kept {
    pub(super) fn new(words: Words, rest: Rest) -> Self {
        let used = |at| u32::try_from(words.load(at)).unwrap_or(u32::MAX);
        let (sinks, streams) = (used(head::SINKS_USED), used(head::STREAMS_USED));
        let state = words.load(head::STATE);
        Self {
            words,
            rest,
            turn: state >> 1,
            open: state & 1 == 1,
            progress: Progress::default(),
            sinks: Slots::new(sinks, SINKS),
            streams: Slots::new(streams, STREAMS),
            steps_left: u64::MAX,
            told_full: false,
        }
    }

    /// As another process left it; `None`: it says what cannot be.
    pub(super) fn adopt(words: Words, rest: Rest) -> Option<Self> {
        let mut kept = Self::new(words, rest);
        kept.progress = kept.stored_progress();
        if !(kept.sinks.is_valid() && kept.streams.is_valid()) || kept.open && kept.turn == 0 {
            return None;
        }
        kept.forget_uncommitted();
        Some(kept)
    }

    /// A point where a test may stop us.
    pub(super) fn step(&mut self) {
        if self.steps_left != u64::MAX {
            self.steps_left = self.steps_left.saturating_sub(1);
            if self.steps_left == 0 {
                resume_unwind(Box::new(Stopped));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn stop_after(&mut self, steps: u64) {
        self.steps_left = steps;
    }
}
