//! A descriptor held back, so that a daemon which has run out of them can still be asked.

use std::fs::File;
use std::os::fd::OwnedFd;

/// A descriptor held back: when all others are used up, giving it up lets one more client in, to ask what is going on.
#[derive(Debug)]
pub struct Reserve(Option<OwnedFd>);

impl Reserve {
    /// With one in hand, if there is one to be had.
    pub fn new() -> Self {
        let mut reserve = Self(None);
        reserve.refill();
        reserve
    }

    /// Gives it up. `false`: it was given up already.
    pub fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes one again where there is one.
    pub fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok().map(OwnedFd::from);
        }
    }
}

impl Default for Reserve {
    fn default() -> Self {
        Self::new()
    }
}
