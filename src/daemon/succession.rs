//! What the servers need to know of the daemons before and after this one.

use super::command::CommandError;
use crate::adapters::keeper::Keeper;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::sys::fds;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// A program to be executed in our place, and where the refusal goes, if it is refused.
pub type HandOver = (PathBuf, oneshot::Sender<Result<(), String>>);

/// The most listeners that HTTP has held.
const MOST_LISTENERS: u64 = 16;

/// Before and after this daemon.
#[derive(Debug, Default)]
pub struct Succession {
    keeper: Keeper,
    /// How the daemon before this one ended; `None` for the first.
    pub predecessor: Option<Arc<str>>,
    hand_overs: Option<mpsc::Sender<HandOver>>,
    /// A lock, since whoever binds first takes what fits.
    http: Mutex<Vec<OwnedFd>>,
}

impl Succession {
    /// Of a daemon with this keeper. `http` are the listeners that the one before it has left.
    pub fn new(
        keeper: Keeper,
        predecessor: Option<Arc<str>>,
        hand_overs: mpsc::Sender<HandOver>,
        http: Vec<OwnedFd>,
    ) -> Self {
        Self {
            keeper,
            predecessor,
            hand_overs: Some(hand_overs),
            http: Mutex::new(http),
        }
    }

    /// Makes room for another program: it goes on with everything, and no app notices. An error says why not, and then this
    /// daemon goes on.
    pub async fn hand_over(&self, program: PathBuf) -> Result<(), String> {
        let gone = || CommandError::Gone.to_string();
        let (reply, answer) = oneshot::channel();
        let hand_overs = self.hand_overs.as_ref().ok_or_else(gone)?;
        hand_overs
            .send((program, reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The keeper's pid, if there is one.
    pub fn keeper_pid(&self) -> Option<u32> {
        self.keeper.pid()
    }

    /// Whether somebody had switched HTTP off in the daemon before this one. It has left something that is no socket then.
    pub fn http_was_off(&self) -> bool {
        let left = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        !left.is_empty() && !left.iter().any(fds::is_socket)
    }

    /// Leaves it to a daemon after this one that HTTP is switched off, whatever its environment says.
    pub fn leave_http_off(&self) {
        match File::open("/dev/null") {
            Ok(nothing) => self.leave_http(&[nothing.as_fd()]),
            Err(error) => {
                self.leave_http(&[]);
                tracing::warn!(%error, "a daemon after this one would serve HTTP again");
            }
        }
    }

    /// The listeners of HTTP that the daemon before this one has left; only for the first who asks.
    pub fn inherited_http(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.http.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves these listeners of HTTP, and no others, to a daemon after this one.
    pub fn leave_http(&self, listeners: &[BorrowedFd<'_>]) {
        let key = |at: u64| Key::run(Held::Http, PmId(0), Generation(at));
        for at in listeners.len() as u64..MOST_LISTENERS {
            self.keeper.release(key(at));
        }
        for (at, listener) in (0..MOST_LISTENERS).zip(listeners) {
            if let Err(error) = self.keeper.hold(&[(key(at), *listener)]) {
                tracing::warn!(%error, "HTTP's listener would not outlive this daemon");
            }
        }
    }
}
