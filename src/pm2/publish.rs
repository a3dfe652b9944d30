//! One listener of `pub.sock`: events and log lines, as PM2 writes them (spec 3.7). Slow ones lose the oldest, and are told.

use super::amp;
use crate::adapters::logs::{Batch, Filter, FollowItem};
use crate::daemon::crowd::Place;
use crate::daemon::handle::Handle;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
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
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => encode(&event.topic, &event.payload),
                    Err(RecvError::Lagged(count)) => encode(MISSED, &json!({"events": count}).to_string()),
                    Err(RecvError::Closed) => return Ok(()),
                },
                item = lines.recv() => match item {
                    Some(FollowItem::Lines(batch)) => {
                        pending = Some((batch, 0));
                        continue;
                    }
                    Some(FollowItem::Missed(count)) => encode(MISSED, &json!({"lines": count}).to_string()),
                    None => return Ok(()),
                },
                // What was on its way when the daemon's end began has been told.
                () = idle(&handle) => return Ok(()),
                // Reading tells when it has gone.
                read = reader.read(&mut ignored) => match read? {
                    0 => return Ok(()),
                    length => {
                        said += length;
                        if said > CHATTER {
                            return Err(io::Error::new(io::ErrorKind::InvalidData, "a listener talks"));
                        }
                        continue;
                    }
                },
            }
        };
        place.stalled(true);
        writer.write_all(&message).await?;
        place.stalled(false);
        // In a flood there is always more; others' calls go in between.
        tokio::task::yield_now().await;
    }
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
