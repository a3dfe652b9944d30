//! One listener of `pub.sock`: events and log lines, as PM2 writes them (spec 3.7). Slow ones lose the oldest, and are told.

use super::amp;
use crate::adapters::logs::{Batch, Filter, FollowItem};
use crate::daemon::handle::Handle;
use serde_json::{Value, json};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;

/// Topic of the notice that something was missed; PM2 has none.
const MISSED: &str = "fornax:missed";

/// Serves until the listener goes.
pub(super) async fn connection(stream: UnixStream, handle: Handle) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let mut events = handle.bus.subscribe();
    let mut lines = handle
        .plane
        .follow(Filter::default(), Vec::new())
        .map_err(io::Error::other)?;
    let mut ignored = [0_u8; 256];
    loop {
        let message = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => encode(&event.topic, &event.payload),
                Err(RecvError::Lagged(count)) => encode(MISSED, &json!({"events": count}).to_string()),
                Err(RecvError::Closed) => return Ok(()),
            },
            item = lines.recv() => match item {
                Some(FollowItem::Lines(batch)) => log_messages(&batch),
                Some(FollowItem::Missed(count)) => encode(MISSED, &json!({"lines": count}).to_string()),
                None => return Ok(()),
            },
            // A listener has nothing to say; reading tells when it has gone.
            read = reader.read(&mut ignored) => match read? {
                0 => return Ok(()),
                _ => continue,
            },
        };
        writer.write_all(&message).await?;
    }
}

fn encode(topic: &str, payload: &str) -> Vec<u8> {
    amp::encode(&[&amp::text(topic), &amp::json(payload)])
}

/// One message a line: what PM2's listeners print is then never cut inside one.
fn log_messages(batch: &Batch) -> Vec<u8> {
    let topic = format!("log:{}", batch.stream.as_str());
    let process = json!({"pm_id": batch.instance, "name": &*batch.name, "rev": null, "namespace": &*batch.namespace});
    let mut out = Vec::new();
    for line in batch.text.split_inclusive(|byte| *byte == b'\n') {
        let data = Value::from(String::from_utf8_lossy(line));
        out.extend(encode(
            &topic,
            &format!(
                r#"{{"process":{process},"at":{},"data":{data}}}"#,
                batch.at_ms
            ),
        ));
    }
    out
}
