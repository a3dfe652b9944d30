//! One listener: its socket, its workers, and the connections that wait for one of them.

use super::bind::Bound;
use super::registry::State;
use crate::core::cluster::{Family, ListenerKey, Rota, Sched, WorkerId};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A connection that no worker has taken yet.
#[derive(Debug)]
pub(super) struct Connection {
    pub fd: Arc<OwnedFd>,
    /// Workers that would not have it.
    pub refused: Vec<WorkerId>,
}

/// The socket, and who accepts from it.
#[derive(Debug)]
pub(super) enum Socket {
    /// We do.
    Ours(Arc<AsyncFd<OwnedFd>>),
    /// Every worker has it, too.
    Lent(Arc<OwnedFd>),
}

/// Owner: the registry.
#[derive(Debug)]
pub(super) struct Listener {
    /// Names it to the keeper.
    pub number: u64,
    pub socket: Socket,
    pub sockname: Value,
    /// The first worker's data, which the others are given.
    pub data: Value,
    pub rota: Rota,
    /// Refused by some, and waiting for the others. No more are accepted meanwhile.
    pub waiting: VecDeque<Connection>,
    /// Rung when a worker has become free.
    pub free: Arc<Notify>,
    pub accepting: Option<AbortHandle>,
    pub path: Option<PathBuf>,
}

impl Listener {
    /// Of a bound socket; in round robin it must listen. Within a runtime.
    pub fn new(bound: Bound, sched: Sched, udp: bool) -> io::Result<Self> {
        let socket = if sched == Sched::Shared || udp {
            Socket::Lent(Arc::new(bound.fd))
        } else {
            #[expect(
                deprecated,
                reason = "the safe constructor; an OwnedFd is never swapped under the poller here"
            )]
            let polled = AsyncFd::new(bound.fd)?;
            Socket::Ours(Arc::new(polled))
        };
        Ok(Self {
            number: 0,
            socket,
            sockname: bound.sockname,
            data: Value::Null,
            rota: Rota::default(),
            waiting: VecDeque::new(),
            free: Arc::default(),
            accepting: None,
            path: bound.path,
        })
    }

    /// The socket's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Ours(fd) => fd.get_ref().as_fd(),
            Socket::Lent(fd) => fd.as_fd(),
        }
    }

    /// How connections are spread.
    pub fn sched(&self) -> Sched {
        match self.socket {
            Socket::Ours(_) => Sched::RoundRobin,
            Socket::Lent(_) => Sched::Shared,
        }
    }

    /// The next connection and who is to have it. One that everybody has refused is closed here.
    pub fn deal(&mut self) -> Option<(WorkerId, Connection)> {
        let workers = self.rota.workers();
        let refused_by_all = |connection: &Connection| {
            workers
                .iter()
                .all(|worker| connection.refused.contains(worker))
        };
        self.waiting
            .retain(|connection| !refused_by_all(connection));
        for at in 0..self.waiting.len() {
            if let Some(worker) = self.rota.take_but(&self.waiting[at].refused) {
                return self
                    .waiting
                    .remove(at)
                    .map(|connection| (worker, connection));
            }
        }
        if self.rota.has_free() && self.waiting.is_empty() {
            self.free.notify_one();
        }
        None
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(task) = &self.accepting {
            task.abort();
        }
        // At once, whoever still has a copy: its port may be asked for again before they have let go. Datagram sockets have
        // nothing to shut down.
        let _ = shutdown(self.fd().as_raw_fd(), Shutdown::Both);
        if let Some(path) = self.path.as_ref().filter(|path| path.is_absolute()) {
            // As libuv does. Gone is what is wanted.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// How messages name a listener.
pub(super) fn text(key: &ListenerKey) -> Value {
    Value::String(key.to_string())
}

/// The listener of another app that has this very address, which is shared as PM2 shares it; a port that the kernel chooses
/// is an app's own.
pub(super) fn of_another_app(
    state: &State,
    key: &ListenerKey,
    sched: Sched,
    errno: Errno,
) -> Option<Arc<ListenerKey>> {
    if errno != Errno::EADDRINUSE || key.port == 0 || key.family == Family::Unix {
        return None;
    }
    let (other, _) = state.listeners.iter().find(|(other, listener)| {
        let same = ListenerKey {
            app: key.app.clone(),
            ..ListenerKey::clone(other)
        };
        same == *key && listener.sched() == sched
    })?;
    tracing::warn!(app = key.app, other = other.app, listener = %key, "two cluster apps share an address");
    Some(Arc::clone(other))
}
