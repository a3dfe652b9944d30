//! Node's cluster as its primary sees it: what names a listener, how connections are spread, whose turn it is.

use super::ids::{Generation, PmId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// A worker: one run of one instance.
pub type WorkerId = (PmId, Generation);

/// Who hands connections to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Sched {
    /// The daemon accepts, and gives each connection to the worker that has been free for longest (Node's `SCHED_RR`).
    #[default]
    RoundRobin,
    /// Every worker accepts from the one listening socket, and the kernel chooses (Node's `SCHED_NONE`).
    Shared,
}

/// What kind of address a worker listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// TCP over IPv4; without an address over both.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// A unix socket.
    Unix,
    /// Datagrams over IPv4.
    Udp4,
    /// Datagrams over IPv6.
    Udp6,
}

impl Family {
    /// Datagram sockets have no connections to hand out: they are always shared.
    pub fn is_udp(self) -> bool {
        matches!(self, Family::Udp4 | Family::Udp6)
    }
}

/// What names a listener: the workers of one app that ask for the same share one socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListenerKey {
    /// The app's name: two apps never share a port by accident.
    pub app: String,
    /// A numeric address, or a path. `None`: any address.
    pub address: Option<String>,
    /// The port as it was asked for; 0 for one that the kernel chooses, −1 for none.
    pub port: i64,
    /// What kind of address.
    pub family: Family,
    /// The descriptor that was asked for in place of an address.
    pub fd: Option<i64>,
    /// Which listen of the worker on this very address it is, from 0.
    pub index: u64,
}

/// As workers see it; the app's name is not in it, since they never see another's.
impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_deref().unwrap_or("null");
        write!(f, "{address}:{}:{:?}:", self.port, self.family)?;
        match self.fd {
            Some(fd) => write!(f, "{fd}:{}", self.index),
            None => write!(f, "undefined:{}", self.index),
        }
    }
}

/// The workers of a listener, and which are free, longest first.
#[derive(Debug, Default)]
pub struct Rota {
    all: Vec<WorkerId>,
    free: VecDeque<WorkerId>,
}

impl Rota {
    /// A worker that listens, and is free.
    pub fn add(&mut self, worker: WorkerId) {
        if !self.all.contains(&worker) {
            self.all.push(worker);
            self.free.push_back(worker);
        }
    }

    /// It listens no more. Whether it did.
    pub fn remove(&mut self, worker: WorkerId) -> bool {
        let before = self.all.len();
        self.all.retain(|other| *other != worker);
        self.free.retain(|other| *other != worker);
        self.all.len() < before
    }

    /// Takes the worker whose turn it is, for one connection.
    pub fn take(&mut self) -> Option<WorkerId> {
        self.free.pop_front()
    }

    /// Takes the one whose turn it is of those that have not refused the connection.
    pub fn take_but(&mut self, refused: &[WorkerId]) -> Option<WorkerId> {
        let at = self
            .free
            .iter()
            .position(|worker| !refused.contains(worker))?;
        self.free.remove(at)
    }

    /// It has answered, and is free again.
    pub fn release(&mut self, worker: WorkerId) {
        if self.all.contains(&worker) && !self.free.contains(&worker) {
            self.free.push_back(worker);
        }
    }

    /// Whether someone is free.
    pub fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them.
    pub fn workers(&self) -> &[WorkerId] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u32) -> WorkerId {
        (PmId(id), Generation(1))
    }

    #[test]
    fn turns_go_to_whoever_has_been_free_for_longest() {
        let mut rota = Rota::default();
        for id in [0, 1, 2, 1] {
            rota.add(worker(id));
        }
        assert_eq!(rota.take(), Some(worker(0)));
        assert_eq!(rota.take(), Some(worker(1)));
        rota.release(worker(0));
        rota.release(worker(0));
        assert_eq!(rota.take_but(&[worker(2)]), Some(worker(0)));
        assert_eq!(rota.take(), Some(worker(2)));
        assert!(!rota.has_free());
        assert!(rota.remove(worker(1)) && !rota.remove(worker(1)));
        rota.release(worker(1));
        assert!(!rota.has_free() && !rota.is_empty());
    }

    #[test]
    fn a_key_goes_through_json_and_workers_see_no_app_in_it() {
        let key = ListenerKey {
            app: "web".into(),
            address: None,
            port: 80,
            family: Family::Tcp4,
            fd: None,
            index: 0,
        };
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<ListenerKey>(&text).unwrap(), key);
        assert_eq!(key.to_string(), "null:80:Tcp4:undefined:0");
    }
}
