//! Calls to the daemon, one a line: each line is the JSON text of a call. Every answer is one that PM2's client can read, and the
//! daemon goes on.

use super::machine;
use super::rig::Rig;
use bytes::BytesMut;
use fornax::pm2::{amp, server};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::TaskTracker;

/// Calls of one input; more say nothing new.
const CALLS: usize = 8;
/// How long the daemon is listened to once it is silent, on the virtual clock.
const SILENCE: Duration = Duration::from_millis(200);

pub fn check(data: &[u8]) {
    let calls: Vec<&[u8]> = data
        .split(|byte| *byte == b'\n')
        .filter(|call| !reaches_out(call))
        .take(CALLS)
        .collect();
    machine::run(asked(&calls));
}

/// Whether a call would have an effect outside: `killMe` signals the client that it names, and an app of node's has the daemon
/// run that node to ask for its version.
fn reaches_out(call: &[u8]) -> bool {
    let Ok(call) = serde_json::from_slice::<Value>(call) else {
        return false;
    };
    let interpreter = call["args"][0]["exec_interpreter"]
        .as_str()
        .unwrap_or_default();
    call["method"] == "killMe"
        || std::path::Path::new(interpreter)
            .file_name()
            .is_some_and(|name| name == "node")
}

async fn asked(calls: &[&[u8]]) {
    let rig = Rig::new();
    rig.start("web").await;
    let (rpc, mut client) = socket();
    let (events, _) = socket();
    let tasks = TaskTracker::new();
    let serving = tokio::spawn(server::serve(rpc, events, rig.handle.clone(), tasks));
    let list = br#"{"type":"call","method":"getMonitorData","args":[{}]}"#;
    let mut answered = BTreeSet::new();
    for (number, call) in calls.iter().copied().chain([&list[..]]).enumerate() {
        let body = [b"j:", call].concat();
        let id = amp::text(&format!("1:{number}"));
        client.write_all(&amp::encode(&[&body, &id])).await.unwrap();
        // A call whose answer takes longer than this is overtaken by the next one.
        answers(&mut client, &mut answered).await;
        rig.change_a_file().await;
    }
    assert!(answered.iter().all(|id| *id <= calls.len()), "{answered:?}");
    assert!(answered.contains(&calls.len()), "the list is always told");
    assert!(!serving.is_finished(), "no call ends the server");
    rig.check().await;
}

/// A socket that no other process or run has, and a client of it.
fn socket() -> (UnixListener, UnixStream) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("fornax-fuzz-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    let client = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    client.set_nonblocking(true).unwrap();
    let client = UnixStream::from_std(client).unwrap();
    (UnixListener::from_std(listener).unwrap(), client)
}

/// Adds the numbers of the calls that are answered before it is silent. None is answered twice.
async fn answers(client: &mut UnixStream, answered: &mut BTreeSet<usize>) {
    let mut buffer = BytesMut::new();
    while let Ok(read) = tokio::time::timeout(SILENCE, client.read_buf(&mut buffer)).await {
        assert_ne!(read.unwrap(), 0, "the daemon has hung up");
        while let Some(message) = amp::decode(&mut buffer, amp::ANSWER_LIMIT).unwrap() {
            let [body, id] = &message[..] else {
                panic!("an answer of {} parts", message.len());
            };
            let reply: Value = serde_json::from_slice(amp::as_json(body).unwrap()).unwrap();
            let known = reply["args"].is_array()
                || reply["error"].is_string()
                || reply["methods"].is_object();
            assert!(known, "{reply}");
            let id = std::str::from_utf8(id)
                .unwrap()
                .strip_prefix("s:1:")
                .unwrap();
            assert!(
                answered.insert(id.parse().unwrap()),
                "{id} is answered twice"
            );
        }
    }
    assert!(buffer.is_empty(), "half an answer");
}
