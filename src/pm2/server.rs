//! `rpc.sock` and `pub.sock`: connections, frames, calls and their answers (spec 3.1, 3.2).

use super::{amp, methods, publish};
use crate::daemon::handle::Handle;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::TaskTracker;

/// Calls that one connection may have open; further ones wait in its socket.
const CALLS_IN_FLIGHT: usize = 64;

/// Room for what a client usually asks, in bytes, so that it is read at once.
const USUAL_CALLS: usize = 512;

/// Serves both sockets until the daemon ends.
pub async fn serve(rpc: UnixListener, events: UnixListener, handle: Handle, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = handle.shutdown.cancelled() => return,
            accepted = rpc.accept() => accepted.map(|(stream, _)| {
                let handle = handle.clone();
                tasks.spawn(async move {
                    let ended = handle.shutdown.clone();
                    tokio::select! { () = ended.cancelled() => {}, served = connection(stream, handle) => log_end(served) }
                });
            }),
            accepted = events.accept() => accepted.map(|(stream, _)| {
                let handle = handle.clone();
                tasks.spawn(async move {
                    let ended = handle.shutdown.clone();
                    tokio::select! { () = ended.cancelled() => {}, served = publish::connection(stream, handle) => log_end(served) }
                });
            }),
        };
        if let Err(error) = accepted {
            // Out of descriptors, most likely: without a pause this would spin.
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

fn log_end(served: io::Result<()>) {
    if let Err(error) = served {
        tracing::debug!(%error, "a client's connection ended");
    }
}

/// One client of `rpc.sock`. One that connects and says nothing, as PM2's ping does, is served too.
async fn connection(mut stream: UnixStream, handle: Handle) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(USUAL_CALLS);
    let mut open = FuturesUnordered::new();
    loop {
        while open.len() < CALLS_IN_FLIGHT {
            let message = amp::decode(&mut buffer)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some(message) = message else { break };
            open.push(answer(message, &handle));
        }
        tokio::select! {
            read = stream.read_buf(&mut buffer), if open.len() < CALLS_IN_FLIGHT => {
                if read? == 0 {
                    return Ok(());
                }
            }
            Some(reply) = open.next() => {
                if let Some(reply) = reply {
                    stream.write_all(&reply).await?;
                }
            }
        }
    }
}

/// The reply to one message; `None` where PM2 never replies.
async fn answer(message: Vec<Bytes>, handle: &Handle) -> Option<Vec<u8>> {
    // The id is echoed as it came, whatever its encoding.
    let id = message.get(1).cloned().unwrap_or_default();
    let body = match message
        .first()
        .and_then(|call| amp::as_json(call))
        .map(serde_json::from_slice::<Value>)
    {
        Some(Ok(call)) => methods::call(call, handle).await?,
        Some(Err(error)) => error_reply(&format!("the call is not JSON: {error}")),
        None => error_reply("the call is not JSON"),
    };
    Some(amp::encode(&[&amp::json(&body), &id]))
}

/// An error as PM2's client reads it.
pub(super) fn error_reply(message: &str) -> String {
    let text = Value::from(message);
    format!(r#"{{"error":{text},"stack":{text}}}"#)
}
