//! All listeners of all cluster apps, and the workers that use them: what a worker asks is answered here, at once.

use super::accept;
use super::bind;
use super::keep;
use super::listener::{self, Connection, Listener, Socket, text};
use super::query::{ClusterFact, Query};
use crate::adapters::channel::{HandleKind, Outgoing};
use crate::adapters::keeper::Keeper;
use crate::core::cluster::{ListenerKey, Sched, WorkerId};
use nix::errno::Errno;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Listeners that one worker may use; a further one is refused with EMFILE.
const LISTENERS: usize = 256;

/// What a worker is to the registry.
#[derive(Debug)]
pub struct WorkerSeat {
    /// Its app's name.
    pub app: Arc<str>,
    /// How its connections come to it.
    pub sched: Sched,
    /// Where messages to it go. Bounded: a worker that does not read is passed over.
    pub outbox: mpsc::Sender<Outgoing>,
}

/// The primary. Cheap to clone; empty, and without a task, while no cluster app runs.
/// A lock, not a message: every method is a few map accesses and calls that do not block, so an answer takes no hop, and
/// runners, accepting tasks and whoever hands descriptors over all see the same state.
#[derive(Debug, Clone)]
pub struct Registry {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<State>,
    tasks: TaskTracker,
    pub(super) folder: PathBuf,
    pub(super) keeper: Keeper,
    pub(super) workers_ever: AtomicU32,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) listeners: HashMap<Arc<ListenerKey>, Listener>,
    pub(super) workers: HashMap<WorkerId, Worker>,
    pub(super) seq: u64,
    /// The last listener's.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) struct Worker {
    seat: WorkerSeat,
    /// Its listeners, by the text that names them to it.
    pub(super) keys: HashMap<String, Arc<ListenerKey>>,
    /// Connections it has been given and has not accepted yet, by the message's number.
    owed: HashMap<u64, (Arc<ListenerKey>, Connection)>,
    /// It is to end, or wants to: no more connections, no more listeners.
    leaving: bool,
}

impl Registry {
    /// An empty one. Accepting tasks are spawned on `tasks`; what workers load first is written into `folder`; every listener is
    /// held by `keeper` too.
    pub fn new(tasks: TaskTracker, folder: PathBuf, keeper: Keeper) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                tasks,
                folder,
                keeper,
                workers_ever: AtomicU32::new(0),
            }),
        }
    }

    /// The next worker's `NODE_UNIQUE_ID`, from 1 as Node counts.
    pub fn unique_id(&self) -> u32 {
        self.inner.workers_ever.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// PM2_HOME, where what workers load first is put.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// A worker has been spawned, or taken over.
    pub fn enter(&self, worker: WorkerId, seat: WorkerSeat) {
        let entry = Worker {
            seat,
            keys: HashMap::new(),
            owed: HashMap::new(),
            leaving: false,
        };
        self.lock().workers.insert(worker, entry);
    }

    /// It has closed its channel or ended. What it was given and had not accepted goes to others; a listener that nobody else
    /// uses is closed.
    pub fn leave(&self, worker: WorkerId) {
        let mut state = self.lock();
        self.retire(&mut state, worker);
        let Some(gone) = state.workers.remove(&worker) else {
            return;
        };
        let mut keys = Vec::new();
        for (_, (key, connection)) in gone.owed {
            if let Some(listener) = state.listeners.get_mut(&key) {
                listener.waiting.push_front(connection);
                keys.push(key);
            }
        }
        for key in keys {
            state.deal(&key);
        }
    }

    /// Asks it to close its servers and its channel. No connection is given to it from now on.
    pub fn disconnect(&self, worker: WorkerId) {
        let mut state = self.lock();
        self.retire(&mut state, worker);
        state.send(worker, json!({"act": "disconnect"}), None);
    }

    /// Takes what a worker said to its primary.
    pub fn take(&self, worker: WorkerId, message: &Value) -> Option<ClusterFact> {
        let mut state = self.lock();
        if let Some(ack) = message.get("ack").and_then(Value::as_u64) {
            state.acknowledged(
                worker,
                ack,
                message.get("accepted") == Some(&Value::Bool(true)),
            );
            return None;
        }
        match message.get("act").and_then(Value::as_str)? {
            "online" => return Some(ClusterFact::Online),
            "listening" => return Some(ClusterFact::Listening),
            "queryServer" => self.query(&mut state, worker, message),
            "close" => {
                let name = message.get("key").and_then(Value::as_str)?;
                let key = state.workers.get_mut(&worker)?.keys.remove(name)?;
                self.close(&mut state, worker, &key);
            }
            "exitedAfterDisconnect" => {
                let seq = message.get("seq").cloned().unwrap_or(Value::Null);
                state.send(worker, json!({"ack": seq}), None);
                self.retire(&mut state, worker);
            }
            _ => {}
        }
        None
    }

    /// Whether a worker of the listener is free and nothing waits for it.
    pub(super) fn wants_connection(&self, key: &ListenerKey) -> bool {
        self.lock()
            .listeners
            .get(key)
            .is_some_and(|listener| listener.rota.has_free() && listener.waiting.is_empty())
    }

    /// A connection for whoever's turn it is.
    pub(super) fn offer(&self, key: &Arc<ListenerKey>, connection: OwnedFd) {
        let mut state = self.lock();
        if let Some(listener) = state.listeners.get_mut(key) {
            listener.waiting.push_back(Connection {
                fd: Arc::new(connection),
                refused: Vec::new(),
            });
            state.deal(key);
        }
    }

    /// Answers a worker that wants to listen.
    fn query(&self, state: &mut State, worker: WorkerId, message: &Value) {
        let Some(entry) = state.workers.get(&worker).filter(|entry| !entry.leaving) else {
            return;
        };
        let ack = message.get("seq").cloned().unwrap_or(Value::Null);
        let (sched, full) = (entry.seat.sched, entry.keys.len() >= LISTENERS);
        let Some(query) = Query::read(&entry.seat.app, message) else {
            return state.refuse(worker, ack, Errno::EINVAL, "");
        };
        let name = query.key.to_string();
        if full || entry.keys.contains_key(&name) {
            let errno = if full {
                Errno::EMFILE
            } else {
                Errno::EADDRINUSE
            };
            return state.refuse(worker, ack, errno, &name);
        }
        let key = match state.listeners.get_key_value(&query.key) {
            Some((key, _)) => Arc::clone(key),
            None => match self.open(&query, sched) {
                Ok((key, mut listener)) => {
                    state.number += 1;
                    listener.number = state.number;
                    keep::hold(&self.inner.keeper, listener.number, listener.fd());
                    state.listeners.insert(Arc::clone(&key), listener);
                    key
                }
                Err(errno) => match listener::of_another_app(state, &query.key, sched, errno) {
                    Some(key) => key,
                    None => return state.refuse(worker, ack, errno, &name),
                },
            },
        };
        state.join(worker, &key, ack, query.data);
        self.describe(state, &key);
    }

    /// It is given no more connections.
    fn retire(&self, state: &mut State, worker: WorkerId) {
        let Some(entry) = state.workers.get_mut(&worker) else {
            return;
        };
        entry.leaving = true;
        for (_, key) in std::mem::take(&mut entry.keys) {
            self.close(state, worker, &key);
        }
    }

    /// It listens there no more; with its last worker the socket is closed.
    fn close(&self, state: &mut State, worker: WorkerId, key: &Arc<ListenerKey>) {
        let Some(listener) = state.listeners.get_mut(key) else {
            return;
        };
        listener.rota.remove(worker);
        if listener.rota.is_empty() {
            tracing::debug!(app = key.app, listener = %key, "cluster listener closed");
            keep::release(&self.inner.keeper, listener.number);
            state.listeners.remove(key);
        } else {
            // What the others were not free for may be theirs alone now.
            state.deal(key);
            self.describe(state, key);
        }
    }

    fn open(&self, query: &Query, sched: Sched) -> Result<(Arc<ListenerKey>, Listener), Errno> {
        let bound = bind::open(query, sched)?;
        let mut listener = Listener::new(bound, sched, query.key.family.is_udp())
            .map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))?;
        let key = Arc::new(query.key.clone());
        self.begin_accepting(&key, &mut listener);
        tracing::debug!(app = key.app, listener = %key, sched = ?listener.sched(), "cluster listener opened");
        Ok((key, listener))
    }

    pub(super) fn begin_accepting(&self, key: &Arc<ListenerKey>, listener: &mut Listener) {
        if let Socket::Ours(socket) = &listener.socket {
            let (key, free) = (Arc::clone(key), Arc::clone(&listener.free));
            let task = accept::run(Arc::downgrade(socket), self.clone(), key, free);
            listener.accepting = Some(self.inner.tasks.spawn(task).abort_handle());
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Maps of handles, whole after any panic.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts a message in a worker's outbox. `false`: it does not read, or has gone.
    fn send(
        &mut self,
        worker: WorkerId,
        message: Value,
        handle: Option<(Arc<OwnedFd>, HandleKind)>,
    ) -> bool {
        let seq = self.seq;
        self.seq += 1;
        let Some(entry) = self.workers.get(&worker) else {
            return false;
        };
        let mut whole = Map::from_iter([("cmd".to_owned(), "NODE_CLUSTER".into())]);
        if let Value::Object(fields) = message {
            whole.extend(fields);
        }
        whole.insert("seq".to_owned(), seq.into());
        let message = Value::Object(whole);
        let sent = entry.seat.outbox.try_send(Outgoing { message, handle });
        if let Err(mpsc::error::TrySendError::Full(_)) = sent {
            tracing::warn!(
                app = &*entry.seat.app,
                instance = worker.0.0,
                "a worker reads nothing; a message for it is dropped"
            );
        }
        sent.is_ok()
    }

    fn refuse(&mut self, worker: WorkerId, ack: Value, errno: Errno, key: &str) {
        let answer = json!({"errno": -(errno as i32), "key": key, "ack": ack, "data": null});
        self.send(worker, answer, None);
    }

    /// The worker listens there from now on.
    fn join(&mut self, worker: WorkerId, key: &Arc<ListenerKey>, ack: Value, data: Value) {
        let Some(listener) = self.listeners.get_mut(key) else {
            return;
        };
        if listener.data.is_null() {
            listener.data = data;
        }
        let (data, sockname) = (listener.data.clone(), listener.sockname.clone());
        let kind = if key.family.is_udp() {
            HandleKind::Dgram
        } else {
            HandleKind::Net
        };
        let lent = match &listener.socket {
            Socket::Ours(_) => None,
            Socket::Lent(fd) => Some((Arc::clone(fd), kind)),
        };
        let mut answer = match &lent {
            None => json!({"errno": null, "key": text(key), "ack": ack, "data": data}),
            Some(_) => json!({"errno": 0, "key": text(key), "ack": ack, "data": data}),
        };
        if lent.is_none() && !sockname.is_null() {
            answer["sockname"] = sockname;
        }
        listener.rota.add(worker);
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.keys.insert(key.to_string(), Arc::clone(key));
        }
        self.send(worker, answer, lent);
        self.deal(key);
    }

    /// Hands out what waits, as far as workers are free.
    fn deal(&mut self, key: &Arc<ListenerKey>) {
        while let Some((worker, mut connection)) =
            self.listeners.get_mut(key).and_then(Listener::deal)
        {
            let message = json!({"act": "newconn", "key": text(key)});
            let handle = Some((Arc::clone(&connection.fd), HandleKind::Net));
            let seq = self.seq;
            if self.send(worker, message, handle) {
                if let Some(entry) = self.workers.get_mut(&worker) {
                    entry.owed.insert(seq, (Arc::clone(key), connection));
                }
            } else if let Some(listener) = self.listeners.get_mut(key) {
                connection.refused.push(worker);
                listener.waiting.push_front(connection);
                listener.rota.release(worker);
            }
        }
    }

    /// A worker has answered to a connection: it is free for the next.
    fn acknowledged(&mut self, worker: WorkerId, seq: u64, accepted: bool) {
        let owed = self
            .workers
            .get_mut(&worker)
            .and_then(|entry| entry.owed.remove(&seq));
        let Some((key, mut connection)) = owed else {
            return;
        };
        if let Some(listener) = self.listeners.get_mut(&key) {
            if !accepted {
                connection.refused.push(worker);
                listener.waiting.push_front(connection);
            }
            listener.rota.release(worker);
            self.deal(&key);
        }
    }
}
