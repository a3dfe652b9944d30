//! The table of sinks: one owner a path, however many streams write there, and which stream writes where.

use super::disk;
use super::format::Moment;
use super::journal::Book;
use super::shown::Piece;
use super::sink::Sink;
use super::stats::{PlaneStats, SinkStats};
use super::trouble::RETRY_EVERY;
use crate::core::ids::{PmId, Stream};
use crate::core::spec::fornax::LogRotation;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// So many sinks without a stream are remembered, for followers that resume; the one unused for longest goes first.
const MOST_IDLE: usize = 1024;

/// All sinks. Owner: the engine thread.
#[derive(Debug, Default)]
pub(super) struct Sinks {
    by_path: HashMap<PathBuf, u64>,
    sinks: HashMap<u64, Sink>,
    /// Which sink a stream writes to, or wrote to last.
    places: HashMap<(PmId, Stream), u64>,
    next_id: u64,
    /// Sinks in trouble are looked for only while there may be some.
    maybe_trouble: bool,
    forgotten: SinkStats,
}

/// Whether PM2 means "no file" by this path.
fn is_nowhere(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/dev/null") || path == Path::new("NULL")
}

impl Sinks {
    /// The sink of `path` for one more stream. Without a file it is the stream's own, and only numbers lines.
    pub fn acquire(
        &mut self,
        path: Option<&Path>,
        own: (PmId, Stream),
        rotation: LogRotation,
        now: Moment,
        book: &mut Book,
    ) -> u64 {
        let path = path.filter(|path| !is_nowhere(path));
        let known = match path {
            Some(path) => self.by_path.get(path).copied(),
            None => self
                .places
                .get(&own)
                .copied()
                .filter(|id| self.sinks.get(id).is_some_and(|s| s.path.is_none())),
        };
        if let Some(path) = path {
            disk::make_if_absent(path);
        }
        let id = known.unwrap_or_else(|| {
            let mut sink = Sink::new(path.map(Path::to_owned), now);
            sink.seat = book.seat_sink(path);
            self.add(sink)
        });
        if let Some(sink) = self.sinks.get_mut(&id) {
            sink.users += 1;
            sink.set_rotation(rotation, book);
        }
        id
    }

    fn add(&mut self, sink: Sink) -> u64 {
        self.next_id += 1;
        if let Some(path) = &sink.path {
            self.by_path.insert(path.clone(), self.next_id);
        }
        self.maybe_trouble |= sink.retry_at().is_some();
        self.sinks.insert(self.next_id, sink);
        self.next_id
    }

    /// Takes over the sinks of an adopted journal: none of them has a stream yet.
    pub fn restore(&mut self, book: &mut Book, now: Moment) {
        for found in book.found_sinks() {
            let owners: Vec<_> = found.spans.iter().map(|s| (s.instance, s.stream)).collect();
            let id = self.add(Sink::restored(found, now, book));
            for own in owners {
                self.places.entry(own).or_insert(id);
            }
        }
    }

    /// The slot of a sink in the journal.
    pub fn slot_of(&self, id: u64) -> Option<u32> {
        let seat = self.sinks.get(&id)?.seat.as_ref()?;
        Some(seat.slot)
    }

    /// The sink in a slot of the journal.
    pub fn at_slot(&mut self, slot: u32) -> Option<&mut Sink> {
        let holds = |sink: &&mut Sink| sink.seat.as_ref().is_some_and(|seat| seat.slot == slot);
        self.sinks.values_mut().find(holds)
    }

    /// Remembers where a stream writes.
    pub fn set_place(&mut self, own: (PmId, Stream), sink: u64) {
        self.places.insert(own, sink);
    }

    /// Where a stream writes, or wrote last.
    pub fn place(&self, own: (PmId, Stream)) -> Option<u64> {
        self.places.get(&own).copied()
    }

    /// One stream less for a sink; the last one closes its file.
    pub fn release(&mut self, id: u64, book: &mut Book) {
        if let Some(sink) = self.sinks.get_mut(&id) {
            sink.users = sink.users.saturating_sub(1);
            if sink.users == 0 {
                sink.close();
                self.forget_idle(book);
            }
        }
    }

    fn forget_idle(&mut self, book: &mut Book) {
        let idle = |sink: &&Sink| sink.users == 0;
        if self.sinks.values().filter(idle).count() <= MOST_IDLE {
            return;
        }
        let oldest = self
            .sinks
            .iter()
            .filter(|(_, sink)| idle(sink))
            .min_by_key(|(_, sink)| sink.used_at)
            .map(|(id, _)| *id);
        if let Some(sink) = oldest.and_then(|id| self.sinks.remove(&id).map(|sink| (id, sink))) {
            let (id, sink) = sink;
            if let Some(seat) = &sink.seat {
                book.free_sink(seat);
            }
            self.places.retain(|_, place| *place != id);
            self.by_path.retain(|_, known| *known != id);
            let mut sum = PlaneStats {
                total: std::mem::take(&mut self.forgotten),
                ..PlaneStats::default()
            };
            sum.absorb(&sink.stats());
            self.forgotten = sum.total;
        }
    }

    /// Writes whole lines to a sink; returns the first one's number.
    pub fn append(&mut self, id: u64, piece: &Piece, now: Moment, book: &mut Book) -> u64 {
        let Some(sink) = self.sinks.get_mut(&id) else {
            return 0;
        };
        let first = sink.append(piece, now, book);
        self.maybe_trouble |= sink.retry_at().is_some();
        first
    }

    /// Shows more of an unfinished line in a sink; `false`: not now.
    pub fn show(&mut self, id: u64, piece: &Piece, now: Moment, book: &mut Book) -> bool {
        let Some(sink) = self.sinks.get_mut(&id) else {
            return false;
        };
        let shown = sink.show(piece, now, book);
        self.maybe_trouble |= sink.retry_at().is_some();
        shown
    }

    /// A sink by its id.
    pub fn get(&self, id: u64) -> Option<&Sink> {
        self.sinks.get(&id)
    }

    /// A sink by its id.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Sink> {
        self.sinks.get_mut(&id)
    }

    /// A sink by its path.
    pub fn at_path(&mut self, path: &Path) -> Option<&mut Sink> {
        let id = self.by_path.get(path)?;
        self.sinks.get_mut(id)
    }

    /// Every sink.
    pub fn all_mut(&mut self) -> impl Iterator<Item = (u64, &mut Sink)> {
        self.sinks.iter_mut().map(|(id, sink)| (*id, sink))
    }

    /// When some sink must be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.maybe_trouble
            .then(|| {
                self.sinks
                    .values()
                    .filter(|s| s.users > 0)
                    .filter_map(Sink::retry_at)
                    .min()
            })
            .flatten()
    }

    /// Tries those again for which it is time.
    pub fn retry(&mut self, now: Moment, book: &mut Book) {
        if self.maybe_trouble {
            self.sinks
                .values_mut()
                .filter(|sink| sink.users > 0)
                .for_each(|sink| sink.retry(now, book));
            self.maybe_trouble = self.sinks.values().any(|sink| sink.retry_at().is_some());
        }
    }

    /// At the very end: a last try for what is in trouble.
    pub fn retry_all(&mut self, now: Moment, book: &mut Book) {
        let later = Moment {
            at: now.at + RETRY_EVERY,
            ..now
        };
        self.sinks
            .values_mut()
            .for_each(|sink| sink.retry(later, book));
    }

    /// The counters of all.
    pub fn stats(&self) -> PlaneStats {
        let mut stats = PlaneStats {
            total: self.forgotten.clone(),
            ..PlaneStats::default()
        };
        let mut files: Vec<&Sink> = self.sinks.values().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for sink in files {
            match sink.path {
                Some(_) => stats.push(sink.stats()),
                None => stats.absorb(&sink.stats()),
            }
        }
        stats
    }
}
