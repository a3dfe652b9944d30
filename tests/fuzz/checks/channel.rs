//! Bytes on an app's channel: the messages in them, and what the daemon makes of each.
//!
//! The first byte says how the stream is cut on its way.

use super::{machine, pieces, rig::Rig};
use fornax::adapters::channel::{Channel, Incoming};
use fornax::core::ids::PmId;
use serde_json::Value;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// What is kept of one app of a kind.
const KEPT: usize = 256;

pub fn check(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else {
        return;
    };
    machine::run(async {
        let whole = messages(std::iter::once(stream)).await;
        let cut = messages(pieces(stream, &[usize::from(*first), 1, 5])).await;
        assert_eq!(whole, cut, "how a stream is cut changes nothing");
        heard(whole).await;
    });
}

/// What a channel gives of an app that writes these pieces, each once the one before has been read.
async fn messages<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Value> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut channel = Channel::new(ours.into()).unwrap();
    let mut messages = Vec::new();
    for piece in pieces.flat_map(|piece| piece.chunks(512)) {
        theirs.write_all(piece).unwrap();
        messages.extend(channel.next().await.unwrap());
    }
    drop(theirs);
    while let Some(rest) = channel.next().await {
        messages.extend(rest);
    }
    // What is for Node's primary is no app's message.
    let of_app = |message| match message {
        Incoming::App(message) => Some(message),
        Incoming::Cluster(_) => None,
    };
    messages.into_iter().filter_map(of_app).collect()
}

/// An app says all that to a daemon that somebody listens to.
async fn heard(messages: Vec<Value>) {
    if messages.is_empty() {
        return;
    }
    let rig = Rig::new();
    rig.start("web").await;
    let options = ["axm:option:configuration", "axm:option:setPID"].map(Value::from);
    let any = messages
        .iter()
        .any(|message| options.contains(&message["type"]));
    for message in messages {
        rig.say(PmId(0), message).await;
    }
    rig.until_quiet().await;
    let axm = Arc::clone(&rig.handle.snapshot().instances[0].axm);
    assert!(
        any || axm.options.is_empty(),
        "{:?}: nobody set one",
        axm.options
    );
    assert!(axm.actions.len() <= KEPT && axm.monitor.len() <= KEPT && axm.options.len() <= KEPT);
    rig.check().await;
}
