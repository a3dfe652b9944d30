//! One listener of `pub.sock`: events and log lines, as PM2 writes them (spec 3.7). Slow ones lose the oldest, and are told.

use super::amp;
use crate::adapters::logs::{Batch, Filter, FollowItem, Follower};
use crate::daemon::bus::BusEvent;
use crate::daemon::crowd::Place;
use crate::daemon::handle::Handle;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Topic of the notice that something was missed; PM2 has none.
const MISSED: &str = "fornax:missed";
/// About so much is made for a listener at once, in bytes: what one that does not read costs.
const CHUNK: usize = 32 << 10;
/// How long nothing must have come for a listener before its connection ends with the daemon.
const IDLE: Duration = Duration::from_millis(20);
/// A listener has nothing to say. One that says more than this, in bytes, is closed.
const CHATTER: usize = 64 << 10;

/// Serves until the listener goes.
pub(super) async fn connection(
    stream: UnixStream,
    handle: Handle,
    place: Arc<Place>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let mut events = handle.bus.subscribe();
    let mut lines = handle
        .plane
        .follow(Filter::default(), Vec::new())
        .map_err(io::Error::other)?;
    let mut ignored = [0_u8; 256];
    let mut said = 0;
    // Lines that are not written yet, from which byte on.
    let mut pending: Option<(Arc<Batch>, usize)> = None;
    loop {
        let message = if let Some((batch, from)) = pending.take() {
            let (message, from) = log_messages(&batch, from);
            if from < batch.text.len() {
                pending = Some((batch, from));
            }
            message
        } else {
            let came = tokio::select! {
                // What has come goes first: a busy machine may show both at once.
                biased;
                came = next(&mut events, &mut lines, &mut reader, &mut ignored) => came?,
                // What was on its way when the daemon's end began has been told.
                () = idle(&handle) => return Ok(()),
            };
            match came {
                Came::Message(message) => message,
                Came::Lines(batch) => {
                    pending = Some((batch, 0));
                    continue;
                }
                Came::Chatter(length) => {
                    said += length;
                    if said > CHATTER {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "a listener talks",
                        ));
                    }
                    continue;
                }
                Came::End => return Ok(()),
            }
        };
        place.stalled(true);
        writer.write_all(&message).await?;
        place.stalled(false);
        // In a flood there is always more; others' calls go in between.
        tokio::task::yield_now().await;
    }
}

/// What one wait brings.
enum Came {
    /// To be written as it is.
    Message(Vec<u8>),
    /// To be written bit by bit.
    Lines(Arc<Batch>),
    /// So many bytes from the listener, which nobody wants.
    Chatter(usize),
    /// One of both sides has gone.
    End,
}

/// Waits for an event, for lines or for the listener. What is not taken stays where it is.
async fn next(
    events: &mut Receiver<BusEvent>,
    lines: &mut Follower,
    reader: &mut OwnedReadHalf,
    ignored: &mut [u8],
) -> io::Result<Came> {
    Ok(tokio::select! {
        event = events.recv() => match event {
            Ok(event) => Came::Message(encode(&event.topic, &event.payload)),
            Err(RecvError::Lagged(count)) => Came::Message(encode(MISSED, &json!({"events": count}).to_string())),
            Err(RecvError::Closed) => Came::End,
        },
        item = lines.recv() => match item {
            Some(FollowItem::Lines(batch)) => Came::Lines(batch),
            Some(FollowItem::Missed(count)) => Came::Message(encode(MISSED, &json!({"lines": count}).to_string())),
            None => Came::End,
        },
        // Reading tells when it has gone.
        read = reader.read(ignored) => match read? {
            0 => Came::End,
            length => Came::Chatter(length),
        },
    })
}

/// Nothing more has come for a moment after the daemon's end has begun.
async fn idle(handle: &Handle) {
    handle.shutdown.cancelled().await;
    tokio::time::sleep(IDLE).await;
}

fn encode(topic: &str, payload: &str) -> Vec<u8> {
    amp::encode(&[&amp::text(topic), &amp::json(payload)])
}

/// Messages for some of the batch's lines from a byte on, and where the next begins. One message a line: what PM2's listeners print
/// is then never cut inside one.
fn log_messages(batch: &Batch, from: usize) -> (Vec<u8>, usize) {
    let topic = format!("log:{}", batch.stream.as_str());
    let process = json!({"pm_id": batch.instance, "name": &*batch.name, "rev": null, "namespace": &*batch.namespace});
    let (mut out, mut next) = (Vec::new(), from);
    for line in batch.text[from..].split_inclusive(|byte| *byte == b'\n') {
        let data = Value::from(String::from_utf8_lossy(line));
        out.extend(encode(
            &topic,
            &format!(
                r#"{{"process":{process},"at":{},"data":{data}}}"#,
                batch.at_ms
            ),
        ));
        next += line.len();
        if out.len() >= CHUNK {
            break;
        }
    }
    (out, next)
}
