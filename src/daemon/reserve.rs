//! A descriptor held back, so that a daemon which has run out of them can still be asked.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long after it was given up another one is taken: what is freed meanwhile is for those who wait.
const CALM: Duration = Duration::from_secs(5);

/// A descriptor held back: when all others are used up, giving it up lets a client in, to ask what is going on. Its place
/// serves one client after another.
#[derive(Debug)]
pub struct Reserve {
    held: Option<OwnedFd>,
    given_up: Option<Instant>,
}

impl Reserve {
    /// With one in hand, if there is one to be had.
    pub fn new() -> Self {
        let mut reserve = Self {
            held: None,
            given_up: None,
        };
        reserve.refill();
        reserve
    }

    /// Gives it up. `false`: it was given up already.
    pub fn give_up(&mut self) -> bool {
        self.given_up = Some(Instant::now());
        self.held.take().is_some()
    }

    /// Takes one again where there is one, once descriptors have not been missed for a while.
    pub fn refill(&mut self) {
        if self.held.is_none() && self.given_up.is_none_or(|at| at.elapsed() > CALM) {
            self.held = File::open("/dev/null").ok().map(OwnedFd::from);
        }
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new()
    }
}
