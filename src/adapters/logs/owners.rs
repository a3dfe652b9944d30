//! Whose the lines of a file are: several streams may share one.

use crate::core::ids::{PmId, Stream};
use std::sync::Arc;

/// So many changes of owner are remembered for a file; the older half is forgotten when there are more.
const MOST_SPANS: usize = 4096;

/// One stream of an instance, over all its runs: an app that restarts for ever takes no more room than one that does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub instance: PmId,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub stream: Stream,
}

/// From line `from` on the lines are of one owner, until the next span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub from: u64,
    /// Its place among [`Owners::owners`].
    owner: u32,
}

/// The spans of one file, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Owners {
    spans: Vec<Span>,
    /// Each owner once.
    owners: Vec<Arc<Owner>>,
    /// The first ones of the spans that the journal has.
    saved: usize,
    /// What the journal has must be forgotten.
    rewritten: bool,
}

impl Owner {
    /// A stream of which an earlier process has not handed on the names.
    pub fn nameless(instance: PmId, stream: Stream) -> Self {
        let (name, namespace) = ("".into(), "".into());
        Self {
            instance,
            name,
            namespace,
            stream,
        }
    }
}

impl Owners {
    /// Spans of an earlier process, oldest first: the first line of each, and whose it is.
    pub fn restored(spans: impl IntoIterator<Item = (u64, Owner)>) -> Self {
        let mut owners = Self::default();
        for (from, owner) in spans {
            owners.note(from, &Arc::new(owner));
        }
        owners.saved();
        owners
    }

    /// All that is known, oldest first.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whose a span is.
    pub fn owner(&self, span: &Span) -> Option<&Arc<Owner>> {
        self.owners.get(span.owner as usize)
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
        for owner in &mut self.owners {
            if owner.instance == named.instance && owner.name.is_empty() {
                *owner = Arc::new(Owner {
                    stream: owner.stream,
                    ..named.clone()
                });
            }
        }
    }

    /// Tells that line `from` and those after it are of `owner`.
    pub fn note(&mut self, from: u64, owner: &Arc<Owner>) {
        let last = self.spans.last().and_then(|span| self.owner(span));
        if last.is_some_and(|last| Arc::ptr_eq(last, owner) || last == owner) {
            return;
        }
        if self.spans.len() >= MOST_SPANS {
            self.forget_older();
        }
        let same = |known: &Arc<Owner>| Arc::ptr_eq(known, owner) || known == owner;
        let at = self.owners.iter().position(same).unwrap_or_else(|| {
            self.owners.push(Arc::clone(owner));
            self.owners.len() - 1
        });
        // At most one owner for each span.
        let owner = u32::try_from(at).unwrap_or(u32::MAX);
        self.spans.push(Span { from, owner });
    }

    /// Forgets the older half, and who owns nothing any more.
    fn forget_older(&mut self) {
        let known = std::mem::take(&mut self.owners);
        let kept = self.spans.split_off(MOST_SPANS / 2);
        self.spans.clear();
        for span in kept {
            if let Some(owner) = known.get(span.owner as usize) {
                self.note(span.from, owner);
            }
        }
        self.rewritten = true;
    }

    /// Whose line `seq` is; `None`: not known any more.
    pub fn of(&self, seq: u64) -> Option<&Arc<Owner>> {
        let after = self.spans.partition_point(|span| span.from <= seq);
        let span = self.spans.get(after.checked_sub(1)?)?;
        self.owner(span)
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
        assert_eq!(owners.owners.len(), 2);
        assert!(owners.of(1).is_none());
        assert_eq!(owners.of(99_990).map(|o| o.instance), Some(PmId(1)));
        assert_eq!(owners.of(99_991).map(|o| o.instance), Some(PmId(2)));
        assert_eq!(
            (owners.next_change(99_985), owners.next_change(99_991)),
            (99_991, u64::MAX)
        );
    }

    #[test]
    fn an_app_that_restarts_takes_one_place() {
        let mut owners = Owners::default();
        for run in 0..10_000u64 {
            owners.note(run + 1, &owner(1));
        }
        assert_eq!((owners.spans.len(), owners.owners.len()), (1, 1));
        // Two apps that share a file take a place for each change, but are themselves there once.
        for run in 0..10_000u64 {
            owners.note(20_000 + run, &owner(1 + (run % 2) as u32));
        }
        assert_eq!(owners.owners.len(), 2);
        assert!(owners.spans.len() <= MOST_SPANS);
    }
}
