//! How many clients a listener serves at once, how much may wait to be read by them, and who goes when that is too much.
//!
//! Whoever takes most pays first: a program that leaks connections loses its own, and nobody else notices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The most clients of one listener.
pub const CLIENTS: usize = 256;
/// The most that may wait to be read by the clients of one listener, in bytes.
pub const UNSENT_BYTES: usize = 64 << 20;
/// Descriptors left for everything else: a listener takes an eighth of what the process may have, and not fewer than this.
const FEWEST_CLIENTS: usize = 16;
/// A client that has not read for so long may be closed to make room.
const STALLED: Duration = Duration::from_secs(1);
/// What a closed client's task needs to let go of its descriptor.
const CLOSES_WITHIN: Duration = Duration::from_millis(5);
/// Where none can be closed.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is told that clients were closed.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The clients of one listener. Owner: the listener; a lock and not a task, because a client leaves in `drop`.
#[derive(Debug)]
pub struct Crowd {
    /// The listener's name, for the log.
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    /// Woken when there may be room.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    seats: Vec<Seat>,
    next: u64,
    told: Option<Instant>,
    closed: u64,
}

#[derive(Debug)]
struct Seat {
    id: u64,
    /// Whose it is: a process, an address.
    owner: u64,
    /// Requests of its in progress.
    working: usize,
    /// When that last changed.
    since: Instant,
    /// Since when it has not read what is written to it.
    stalled: Option<Instant>,
    /// What is made for it and not sent yet, in bytes.
    unsent: usize,
    evicted: CancellationToken,
}

/// A client's place. Dropping it frees it.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Crowd>,
    id: u64,
    /// Cancelled when the client has to go.
    pub evicted: CancellationToken,
}

/// A request in progress. Dropping it ends it.
#[derive(Debug)]
pub struct Work {
    crowd: Arc<Crowd>,
    id: u64,
    unsent: usize,
}

impl Crowd {
    /// Room for [`CLIENTS`], or fewer where this process may have few descriptors.
    pub fn new(name: &'static str) -> Arc<Self> {
        let soft = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .map_or(1024, |(soft, _)| soft);
        let share = usize::try_from(soft / 8).unwrap_or(CLIENTS);
        Self::with_limit(name, share.clamp(FEWEST_CLIENTS, CLIENTS))
    }

    fn with_limit(name: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            limit,
            state: Mutex::default(),
            freed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until [`Crowd::admit`] has a place to give.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            {
                let state = self.lock();
                if state.seats.len() < self.limit || state.victim().is_some() {
                    return;
                }
            }
            // A client becomes stalled by the passing of time alone.
            drop(tokio::time::timeout(STALLED, freed).await);
        }
    }

    /// A place for a client of `owner`'s, at the cost of another one if need be. `None`: all are at work.
    pub fn admit(self: &Arc<Self>, owner: u64) -> Option<Place> {
        let mut state = self.lock();
        if state.seats.len() >= self.limit {
            let victim = state.victim()?;
            state.close(victim, self.name, "there is no room for another");
        }
        let id = state.next;
        state.next += 1;
        let evicted = CancellationToken::new();
        state.seats.push(Seat {
            id,
            owner,
            working: 0,
            since: Instant::now(),
            stalled: None,
            unsent: 0,
            evicted: evicted.clone(),
        });
        Some(Place {
            crowd: Arc::clone(self),
            id,
            evicted,
        })
    }

    /// After an accept that failed, for want of descriptors most likely: closes the client that is missed the least, and waits a
    /// little, since the next attempt would fail as fast.
    pub async fn without_descriptors(&self) {
        let pause = {
            let mut state = self.lock();
            match state.victim() {
                Some(victim) => {
                    state.close(victim, self.name, "descriptors have run out");
                    CLOSES_WITHIN
                }
                None => PAUSE,
            }
        };
        tokio::time::sleep(pause).await;
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Seat)) {
        let mut state = self.lock();
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.id == id) {
            change(seat);
        }
        drop(state);
        self.freed.notify_one();
    }
}

impl State {
    /// Who is to go: of those that are idle, or do not read, one of whoever has most; and of these the longest idle.
    fn victim(&self) -> Option<usize> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for seat in &self.seats {
            *counts.entry(seat.owner).or_default() += 1;
        }
        let now = Instant::now();
        let rank = |seat: &Seat| {
            let idle = seat.working == 0 && seat.stalled.is_none();
            let count = counts.get(&seat.owner).copied().unwrap_or(0);
            let since = seat.stalled.unwrap_or(seat.since);
            (count, idle, now.duration_since(since))
        };
        let may_go = |seat: &Seat| match seat.stalled {
            Some(since) => now.duration_since(since) >= STALLED,
            None => seat.working == 0,
        };
        let candidates = self
            .seats
            .iter()
            .enumerate()
            .filter(|(_, seat)| may_go(seat));
        candidates
            .max_by_key(|(_, seat)| rank(seat))
            .map(|(at, _)| at)
    }

    fn close(&mut self, at: usize, listener: &'static str, why: &'static str) {
        let seat = self.seats.swap_remove(at);
        seat.evicted.cancel();
        self.closed += 1;
        let now = Instant::now();
        if self
            .told
            .is_none_or(|told| now.duration_since(told) >= TELL_EVERY)
        {
            tracing::warn!(listener, why, clients = self.closed, "clients are closed");
            (self.told, self.closed) = (Some(now), 0);
        }
    }
}

impl Place {
    /// A request begins.
    pub fn work(&self) -> Work {
        self.crowd.change(self.id, |seat| {
            seat.working += 1;
            seat.since = Instant::now();
        });
        Work {
            crowd: Arc::clone(&self.crowd),
            id: self.id,
            unsent: 0,
        }
    }

    /// Whether it is waited for the client to read.
    pub fn stalled(&self, stalled: bool) {
        self.crowd
            .change(self.id, |seat| match (stalled, seat.stalled) {
                (true, None) => seat.stalled = Some(Instant::now()),
                (true, Some(_)) => {}
                (false, _) => seat.stalled = None,
            });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.crowd.lock();
        state.seats.retain(|seat| seat.id != self.id);
        drop(state);
        self.crowd.freed.notify_one();
    }
}

impl Work {
    /// Its answer is made, and as large as this. While more than [`UNSENT_BYTES`] wait to be read, those who have had theirs for
    /// the longest are closed.
    pub fn answers(&mut self, bytes: usize) {
        self.unsent += bytes;
        self.crowd.change(self.id, |seat| {
            seat.unsent += bytes;
            seat.since = Instant::now();
        });
        let mut state = self.crowd.lock();
        while state.seats.iter().map(|seat| seat.unsent).sum::<usize>() > UNSENT_BYTES {
            let others = state.seats.iter().enumerate();
            let holding = others.filter(|(_, seat)| seat.id != self.id && seat.unsent > 0);
            let Some((at, _)) = holding.min_by_key(|(_, seat)| seat.since) else {
                break;
            };
            state.close(at, self.crowd.name, "too much waits to be read");
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let unsent = self.unsent;
        self.crowd.change(self.id, |seat| {
            seat.working -= 1;
            seat.unsent -= unsent;
            seat.since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;

    #[tokio::test(start_paused = true)]
    async fn whoever_has_most_loses_its_longest_idle_one_first() {
        let crowd = Crowd::with_limit("test", 4);
        let single = crowd.admit(A).unwrap();
        let mut many = Vec::new();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_millis(10)).await;
            many.push(crowd.admit(B).unwrap());
        }
        let _work = many[0].work();
        let newcomer = crowd.admit(A).unwrap();
        let gone = |place: &Place| place.evicted.is_cancelled();
        assert!(!gone(&single) && !gone(&many[0]) && gone(&many[1]) && !gone(&many[2]));
        assert!(!gone(&newcomer));
    }

    #[tokio::test(start_paused = true)]
    async fn those_at_work_stay_and_those_who_do_not_read_go() {
        let crowd = Crowd::with_limit("test", 2);
        let places = [crowd.admit(A).unwrap(), crowd.admit(A).unwrap()];
        let _works = [places[0].work(), places[1].work()];
        assert!(crowd.admit(B).is_none());
        places[1].stalled(true);
        assert!(crowd.admit(B).is_none(), "it may be reading");
        tokio::time::timeout(Duration::from_secs(5), crowd.room())
            .await
            .unwrap();
        assert!(crowd.admit(B).is_some());
        assert!(places[1].evicted.is_cancelled() && !places[0].evicted.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_left_is_free() {
        let crowd = Crowd::with_limit("test", 1);
        let place = crowd.admit(A).unwrap();
        let work = place.work();
        let waiting = tokio::spawn({
            let crowd = Arc::clone(&crowd);
            async move { crowd.room().await }
        });
        drop(work);
        drop(place);
        waiting.await.unwrap();
        assert!(crowd.admit(B).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_reads_are_bounded() {
        let crowd = Crowd::with_limit("test", 8);
        let places: Vec<_> = (0..5).map(|_| crowd.admit(A).unwrap()).collect();
        let mut works: Vec<_> = places.iter().map(Place::work).collect();
        for work in &mut works {
            tokio::time::advance(Duration::from_millis(1)).await;
            work.answers(UNSENT_BYTES / 4);
        }
        let gone: Vec<_> = places
            .iter()
            .map(|place| place.evicted.is_cancelled())
            .collect();
        assert_eq!(gone, [true, false, false, false, false]);
        drop(works);
        let state = crowd.lock();
        assert!(
            state
                .seats
                .iter()
                .all(|seat| seat.unsent == 0 && seat.working == 0)
        );
    }
}
