//! Listeners from one daemon to the next: what is told of them, and how they are taken over.

use super::bind::{self, Bound};
use super::keep;
use super::listener::Listener;
use super::registry::{Registry, State};
use crate::adapters::keeper::Inheritance;
use crate::core::cluster::{ListenerKey, Sched, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A listener as another daemon takes it over, apart from its descriptor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerState {
    /// Names it in one daemon's life and the next's.
    pub number: u64,
    /// How many workers there have ever been.
    pub workers_ever: u32,
    /// What names it.
    pub key: ListenerKey,
    /// Who accepts.
    pub sched: Sched,
    /// What new workers are told of its data.
    #[serde(default)]
    pub data: Value,
    /// The workers that use it.
    pub workers: Vec<WorkerId>,
    /// The file to remove when it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

impl Registry {
    /// Every listener with a dup of its descriptor, for whoever keeps them over our life.
    pub fn export(&self) -> io::Result<Vec<(ListenerState, OwnedFd)>> {
        let state = self.lock();
        let export = |(key, listener): (&Arc<ListenerKey>, &Listener)| {
            Ok((
                self.told(key, listener),
                listener.fd().try_clone_to_owned()?,
            ))
        };
        state.listeners.iter().map(export).collect()
    }

    fn told(&self, key: &ListenerKey, listener: &Listener) -> ListenerState {
        ListenerState {
            number: listener.number,
            workers_ever: self.inner.workers_ever.load(Ordering::Relaxed),
            key: key.clone(),
            sched: listener.sched(),
            data: listener.data.clone(),
            workers: listener.rota.workers().to_vec(),
            path: listener.path.clone(),
        }
    }

    /// Tells the keeper what has become of a listener.
    pub(super) fn describe(&self, state: &State, key: &ListenerKey) {
        if self.inner.keeper.pid().is_some()
            && let Some(listener) = state.listeners.get(key)
        {
            keep::describe(&self.inner.keeper, &self.told(key, listener));
        }
    }

    /// Takes over every listener that another daemon has left. After its workers have entered; within a runtime.
    pub fn inherit(&self, all: &mut Inheritance) {
        for (told, fd) in keep::inherited(all) {
            let (name, number) = (told.key.to_string(), told.number);
            if let Err(error) = self.adopt(told, fd) {
                keep::release(&self.inner.keeper, number);
                tracing::error!(listener = name, %error, "a listener is lost");
            }
        }
    }

    /// Takes over a listener whose workers have entered already; one that has not is passed over. Within a runtime.
    pub fn adopt(&self, told: ListenerState, fd: OwnedFd) -> io::Result<()> {
        let mut state = self.lock();
        state.number = state.number.max(told.number);
        let ever = &self.inner.workers_ever;
        ever.fetch_max(told.workers_ever, Ordering::Relaxed);
        let bound = Bound {
            sockname: bind::sockname(&fd),
            fd,
            path: told.path,
        };
        // Its workers may still answer what our predecessor asked: our numbers begin where its cannot have come to.
        state.seq = state.seq.max(1 << 40);
        let mut listener = Listener::new(bound, told.sched, told.key.family.is_udp())?;
        (listener.number, listener.data) = (told.number, told.data);
        let key = Arc::new(told.key);
        for id in told.workers {
            if let Some(worker) = state.workers.get_mut(&id) {
                worker.keys.insert(key.to_string(), Arc::clone(&key));
                listener.rota.add(id);
            }
        }
        if listener.rota.is_empty() {
            keep::release(&self.inner.keeper, listener.number);
            return Ok(());
        }
        self.begin_accepting(&key, &mut listener);
        state.listeners.insert(key, listener);
        Ok(())
    }
}
