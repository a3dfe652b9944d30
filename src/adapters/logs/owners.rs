//! Whose the lines of a file are: several streams may share one.

use crate::core::ids::{Generation, PmId, Stream};
use std::sync::Arc;

/// So many changes of owner are remembered for a file; the older half is forgotten when there are more.
const MOST_SPANS: usize = 4096;

/// One stream of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub instance: PmId,
    pub generation: Generation,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub stream: Stream,
}

/// From line `from` on the lines are of `owner`, until the next span.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub from: u64,
    pub owner: Arc<Owner>,
}

/// The spans of one file, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners {
    spans: Vec<Span>,
    /// The first ones of them that the journal has.
    saved: usize,
    /// What the journal has must be forgotten.
    rewritten: bool,
}

impl Owners {
    /// Spans of an earlier process, oldest first.
    pub fn restored(spans: Vec<Span>) -> Self {
        Self {
            saved: spans.len(),
            spans,
            rewritten: false,
        }
    }

    /// All that is known, oldest first.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The spans since [`Owners::saved`]; `None`: others have changed too.
    pub fn unsaved(&self) -> Option<&[Span]> {
        (!self.rewritten).then(|| self.spans.get(self.saved..).unwrap_or_default())
    }

    /// The journal has them all now.
    pub fn saved(&mut self) {
        (self.saved, self.rewritten) = (self.spans.len(), false);
    }

    /// Gives the spans of an instance the names of its app, which an earlier process has not handed on.
    pub fn name(&mut self, named: &Owner) {
        for span in &mut self.spans {
            let owner = &span.owner;
            if owner.instance == named.instance && owner.name.is_empty() {
                span.owner = Arc::new(Owner {
                    generation: owner.generation,
                    stream: owner.stream,
                    ..named.clone()
                });
            }
        }
    }

    /// Tells that line `from` and those after it are of `owner`.
    pub fn note(&mut self, from: u64, owner: &Arc<Owner>) {
        if self
            .spans
            .last()
            .is_some_and(|span| Arc::ptr_eq(&span.owner, owner))
        {
            return;
        }
        if self.spans.len() >= MOST_SPANS {
            self.spans.drain(..MOST_SPANS / 2);
            self.rewritten = true;
        }
        self.spans.push(Span {
            from,
            owner: Arc::clone(owner),
        });
    }

    /// Whose line `seq` is; `None`: not known any more.
    pub fn of(&self, seq: u64) -> Option<&Arc<Owner>> {
        let after = self.spans.partition_point(|span| span.from <= seq);
        after.checked_sub(1).map(|at| &self.spans[at].owner)
    }

    /// The first line after `seq` that may have another owner.
    pub fn next_change(&self, seq: u64) -> u64 {
        let after = self.spans.partition_point(|span| span.from <= seq);
        self.spans.get(after).map_or(u64::MAX, |span| span.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(id: u32) -> Arc<Owner> {
        let (name, namespace) = ("a".into(), "n".into());
        Arc::new(Owner {
            instance: PmId(id),
            generation: Generation(1),
            name,
            namespace,
            stream: Stream::Out,
        })
    }

    #[test]
    fn lines_are_found_by_their_owner_and_old_spans_are_forgotten() {
        let (one, two) = (owner(1), owner(2));
        let mut owners = Owners::default();
        for n in 0..10_000u64 {
            owners.note(n * 10 + 1, if n % 2 == 0 { &one } else { &two });
            owners.note(n * 10 + 5, if n % 2 == 0 { &one } else { &two });
            assert!(owners.spans.len() <= MOST_SPANS);
        }
        assert!(owners.of(1).is_none());
        assert_eq!(owners.of(99_990).map(|o| o.instance), Some(PmId(1)));
        assert_eq!(owners.of(99_991).map(|o| o.instance), Some(PmId(2)));
        assert_eq!(
            (owners.next_change(99_985), owners.next_change(99_991)),
            (99_991, u64::MAX)
        );
    }
}
