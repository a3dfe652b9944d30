//! How fast automatic restarts follow each other when many apps crash at once: so many at once, then so many a second, in
//! the order in which they fell due. One app alone, however fast it crashes within PM2's `max_restarts`, never waits.

use super::ids::{Generation, PmId};
use super::units::Millis;
use std::collections::VecDeque;

/// Restarts that may follow each other at once.
pub const BURST: u64 = 64;
/// After these, one in so many milliseconds.
pub const SPACING: Millis = Millis(10);

/// Restarts let through, and those that wait. Owner: the daemon loop.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the bucket would be full again: each restart moves it on by [`SPACING`].
    full_at: Millis,
    /// One entry for an instance at most, so never longer than the table.
    held: VecDeque<Held>,
}

/// A restart that waits for its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Of which instance.
    pub id: PmId,
    /// The run that is to be.
    pub generation: Generation,
    /// Since when.
    pub since: Millis,
}

impl Pace {
    /// Whether a restart may go now. If not, it is held until [`Pace::release`] gives it out.
    pub fn admit(&mut self, id: PmId, generation: Generation, now: Millis) -> bool {
        if self.held.is_empty() && self.take(now) {
            return true;
        }
        self.held.retain(|held| held.id != id);
        self.held.push_back(Held {
            id,
            generation,
            since: now,
        });
        false
    }

    /// The next one whose turn has come.
    pub fn release(&mut self, now: Millis) -> Option<Held> {
        if self.held.is_empty() || !self.take(now) {
            return None;
        }
        self.held.pop_front()
    }

    /// Takes out what waits of an instance.
    pub fn forget(&mut self, id: PmId) -> Option<Held> {
        let at = self.held.iter().position(|held| held.id == id)?;
        self.held.remove(at)
    }

    /// When [`Pace::release`] has something to give; `None` while nothing waits.
    pub fn next(&self) -> Option<Millis> {
        let room = BURST * SPACING.0 - SPACING.0;
        (!self.held.is_empty()).then(|| Millis(self.full_at.0.saturating_sub(room)))
    }

    fn take(&mut self, now: Millis) -> bool {
        let full_at = self.full_at.0.max(now.0) + SPACING.0;
        let fits = full_at <= now.0 + BURST * SPACING.0;
        if fits {
            self.full_at = Millis(full_at);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(pace: &mut Pace, apps: std::ops::Range<u32>, now: u64) -> u64 {
        let all = apps.filter(|app| pace.admit(PmId(*app), Generation(1), Millis(now)));
        all.count() as u64
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_in_order_at_its_pace() {
        let mut pace = Pace::default();
        assert_eq!(admitted(&mut pace, 0..200, 5_000), BURST);
        let mut out = Vec::new();
        while let Some(at) = pace.next() {
            let held = pace.release(at).expect("due");
            assert_eq!(pace.release(at), None, "one at a time");
            out.push((at.0, held.id.0));
        }
        let want: Vec<(u64, u32)> = (0..136)
            .map(|turn| (5_010 + turn * 10, 64 + turn as u32))
            .collect();
        assert_eq!(out, want);
    }

    #[test]
    fn a_single_app_within_pm2s_limit_never_waits_and_calm_fills_the_bucket() {
        let mut pace = Pace::default();
        for now in [0, 700] {
            for _ in 0..BURST {
                assert!(pace.admit(PmId(0), Generation(1), Millis(now)));
            }
        }
        assert!(!pace.admit(PmId(0), Generation(1), Millis(700)));
    }

    #[test]
    fn an_instance_waits_once_and_can_be_taken_out() {
        let mut pace = Pace::default();
        admitted(&mut pace, 0..66, 0);
        assert!(!pace.admit(PmId(64), Generation(2), Millis(1)));
        let forgotten = pace.forget(PmId(64)).map(|held| held.generation);
        assert_eq!(forgotten, Some(Generation(2)));
        assert_eq!(pace.forget(PmId(64)), None);
        assert_eq!(pace.release(Millis(10)).map(|held| held.id), Some(PmId(65)));
        assert_eq!(pace.next(), None);
    }
}
