//! The cluster's primary without Node: what workers are told, whose turn it is, and how another daemon takes listeners over.

#![allow(clippy::unwrap_used)]

use fornax::adapters::channel::Outgoing;
use fornax::adapters::cluster::{ClusterFact, ListenerState, Registry, WorkerSeat};
use fornax::adapters::keeper::Keeper;
use fornax::core::cluster::{Sched, WorkerId};
use fornax::core::ids::{Generation, PmId};
use serde_json::{Value, json};
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// A worker that does what the test says.
struct Worker {
    id: WorkerId,
    inbox: mpsc::Receiver<Outgoing>,
}

fn registry() -> Registry {
    Registry::new(TaskTracker::new(), std::env::temp_dir(), Keeper::default())
}

fn worker(registry: &Registry, id: u32, app: &str, sched: Sched) -> Worker {
    let (outbox, inbox) = mpsc::channel(64);
    let id = (PmId(id), Generation(1));
    let app = app.into();
    registry.enter(id, WorkerSeat { app, sched, outbox });
    Worker { id, inbox }
}

impl Worker {
    async fn hear(&mut self) -> Outgoing {
        let next = tokio::time::timeout(Duration::from_secs(30), self.inbox.recv());
        next.await.expect("a message").expect("of the registry")
    }

    fn listen(&self, registry: &Registry, port: u64) -> Option<ClusterFact> {
        let message = json!({"cmd": "NODE_CLUSTER", "act": "queryServer", "index": 0, "data": null, "address": "127.0.0.1", "port": port, "addressType": 4, "seq": 7});
        registry.take(self.id, &message)
    }

    /// The port that it was told.
    async fn listening(&mut self, registry: &Registry, port: u64) -> u16 {
        assert_eq!(self.listen(registry, port), None);
        let told = self.hear().await;
        assert!(told.handle.is_none());
        assert_eq!(
            (&told.message["errno"], &told.message["ack"]),
            (&Value::Null, &json!(7))
        );
        told.message["sockname"]["port"].as_u64().unwrap() as u16
    }

    /// Takes a connection, or not.
    async fn connection(&mut self, registry: &Registry, accepted: bool) -> Outgoing {
        let told = self.hear().await;
        assert_eq!(told.message["act"], "newconn");
        let answer =
            json!({"cmd": "NODE_CLUSTER", "ack": told.message["seq"], "accepted": accepted});
        assert_eq!(registry.take(self.id, &answer), None);
        told
    }
}

fn is_closed(mut stream: TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    // The end, or a reset: either way nobody holds it.
    !matches!(stream.read(&mut [0]), Ok(1..))
}

#[tokio::test]
async fn a_connection_refused_by_one_goes_to_the_next_and_by_all_is_closed() {
    let registry = registry();
    let mut first = worker(&registry, 0, "web", Sched::RoundRobin);
    let mut second = worker(&registry, 1, "web", Sched::RoundRobin);
    let port = first.listening(&registry, 0).await;
    assert_eq!(second.listening(&registry, 0).await, port);
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let refused = first.connection(&registry, false).await;
    drop(refused);
    second.connection(&registry, true).await;
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    drop(first.connection(&registry, false).await);
    drop(second.connection(&registry, false).await);
    let closed = tokio::task::spawn_blocking(move || is_closed(client));
    assert!(closed.await.unwrap());
}

#[tokio::test]
async fn what_a_worker_had_not_accepted_when_it_died_goes_to_another() {
    let registry = registry();
    let mut first = worker(&registry, 0, "web", Sched::RoundRobin);
    let mut second = worker(&registry, 1, "web", Sched::RoundRobin);
    let port = first.listening(&registry, 0).await;
    second.listening(&registry, 0).await;
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(first.hear().await.message["act"], "newconn");
    registry.leave(first.id);
    second.connection(&registry, true).await;
    // The last one closes it.
    registry.leave(second.id);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test]
async fn workers_learn_why_they_cannot_listen() {
    let registry = registry();
    let mut ours = worker(&registry, 0, "web", Sched::RoundRobin);
    let mut theirs = worker(&registry, 1, "other", Sched::RoundRobin);
    let port = ours.listening(&registry, 0).await;
    theirs.listen(&registry, u64::from(port));
    let told = theirs.hear().await.message;
    assert_eq!(
        (&told["errno"], &told["ack"]),
        (&json!(-98), &json!(7)),
        "{told}"
    );
    // Once more by the same worker, and nonsense.
    ours.listen(&registry, 0);
    assert_eq!(ours.hear().await.message["errno"], -98);
    for message in [
        json!({"act": "queryServer", "addressType": "ipx", "seq": 1}),
        json!({"act": "queryServer", "address": "nowhere", "port": 1, "addressType": 4, "seq": 1}),
    ] {
        registry.take(ours.id, &message);
        assert_eq!(ours.hear().await.message["errno"], -22);
    }
    for message in [
        json!(null),
        json!({"ack": 99, "accepted": true}),
        json!({"act": 5}),
        json!({"act": "close", "key": "x"}),
    ] {
        assert_eq!(registry.take(ours.id, &message), None);
    }
    let stranger = (PmId(9), Generation(9));
    assert_eq!(
        registry.take(stranger, &json!({"act": "queryServer"})),
        None
    );
}

#[tokio::test]
async fn a_worker_that_leaves_is_given_nothing_more() {
    let registry = registry();
    let mut first = worker(&registry, 0, "web", Sched::RoundRobin);
    let mut second = worker(&registry, 1, "web", Sched::RoundRobin);
    let port = first.listening(&registry, 0).await;
    second.listening(&registry, 0).await;
    registry.disconnect(first.id);
    assert_eq!(first.hear().await.message["act"], "disconnect");
    for _ in 0..3 {
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        second.connection(&registry, true).await;
    }
    assert!(first.inbox.try_recv().is_err());
    let own = json!({"act": "exitedAfterDisconnect", "seq": 3});
    registry.take(second.id, &own);
    assert_eq!(second.hear().await.message["ack"], 3);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test]
async fn a_shared_listener_goes_to_each_worker_and_the_tasks_none() {
    let registry = registry();
    for id in 0..2 {
        let mut worker = worker(&registry, id, "web", Sched::Shared);
        worker.listen(&registry, 0);
        let told = worker.hear().await;
        assert_eq!(told.message["errno"], 0);
        assert!(told.handle.is_some() && told.message.get("sockname").is_none());
    }
    let kept = registry.export().unwrap();
    assert_eq!(
        (kept.len(), kept[0].0.workers.len(), kept[0].0.sched),
        (1, 2, Sched::Shared)
    );
}

/// A runtime that stands still once nothing blocks on it: a daemon that was killed.
fn stopping() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn another_daemon_takes_listeners_over_and_serves_on_in_turn() {
    let dead = stopping();
    let (kept, port, first) = dead.block_on(async {
        let first = registry();
        let mut one = worker(&first, 0, "web", Sched::RoundRobin);
        let mut two = worker(&first, 1, "web", Sched::RoundRobin);
        let port = one.listening(&first, 0).await;
        two.listening(&first, 0).await;
        (first.export().unwrap(), port, (first, one, two))
    });
    let waiting = TcpStream::connect(("127.0.0.1", port)).expect("the backlog takes it meanwhile");
    stopping().block_on(async {
        let second = registry();
        let mut one = worker(&second, 0, "web", Sched::RoundRobin);
        let mut two = worker(&second, 1, "web", Sched::RoundRobin);
        for (state, fd) in kept {
            let text = serde_json::to_string(&state).unwrap();
            let state: ListenerState = serde_json::from_str(&text).unwrap();
            second.adopt(state, fd).unwrap();
        }
        one.connection(&second, true).await;
        drop(waiting);
        for _ in 0..2 {
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            two.connection(&second, true).await;
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            one.connection(&second, true).await;
        }
        // A new worker joins what was taken over, though it asks for port 0.
        let mut three = worker(&second, 2, "web", Sched::RoundRobin);
        assert_eq!(three.listening(&second, 0).await, port);
        // A listener whose workers have not come along is closed.
        let third = registry();
        for (state, fd) in second.export().unwrap() {
            third.adopt(state, fd).unwrap();
        }
        assert!(third.export().unwrap().is_empty());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    });
    drop((first, dead));
}
