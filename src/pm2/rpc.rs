//! One client of `rpc.sock`: its calls and their answers (spec 3.1, 3.2), in bounded memory and time.

use super::{amp, methods};
use crate::daemon::crowd::{Place, Work};
use crate::daemon::handle::Handle;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Calls that one connection may have open; further ones wait in its socket.
const CALLS_IN_FLIGHT: usize = 64;
/// What is read at once, at least, in bytes.
const READ: usize = 4 << 10;
/// A call is large from here on, in bytes.
const LARGE: usize = 64 << 10;
/// Large calls of all clients that are received or carried out at once; further ones wait in their sockets.
pub(super) const LARGE_CALLS: usize = 2;
/// Values that a large call may hold: in memory one takes many times its two bytes of text.
const VALUES: usize = 250_000;
/// A message that has begun must be whole by then.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
/// The same for a large one, from its turn on.
const LARGE_WITHIN: Duration = Duration::from_secs(10);
/// An answer must have been read by then.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// Serves one client. One that connects and says nothing, as PM2's ping does, is served too.
pub(super) async fn connection(
    mut stream: UnixStream,
    handle: Handle,
    place: Arc<Place>,
    large: Arc<Semaphore>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut open = FuturesUnordered::new();
    let mut turn: Option<Arc<OwnedSemaphorePermit>> = None;
    let mut until: Option<Instant> = None;
    loop {
        while has_room(open.len(), turn.as_ref()) {
            let Some(message) = decode(&mut buffer)? else {
                break;
            };
            until = None;
            open.push(answer(message, &handle, place.work(), turn.clone()));
        }
        if buffer.len() < LARGE {
            // What a large message took is not kept for small ones.
            if turn.take().is_some() || buffer.capacity() > 2 * LARGE {
                buffer = BytesMut::from(&buffer[..]);
            }
        }
        buffer.reserve(READ);
        let room = has_room(open.len(), turn.as_ref());
        let wants_turn = room && turn.is_none() && buffer.len() >= LARGE;
        if buffer.is_empty() || !room || wants_turn {
            until = None;
        } else if until.is_none() {
            let limit = if turn.is_some() {
                LARGE_WITHIN
            } else {
                WHOLE_WITHIN
            };
            until = Some(Instant::now() + limit);
        }
        tokio::select! {
            permit = Arc::clone(&large).acquire_owned(), if wants_turn => {
                turn = Some(Arc::new(permit.map_err(io::Error::other)?));
            }
            read = stream.read_buf(&mut buffer), if room && !wants_turn => {
                if read? == 0 {
                    return Ok(());
                }
            }
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "half a message"));
            }
            Some((reply, work)) = open.next() => {
                if let Some(reply) = reply {
                    place.stalled(true);
                    tokio::time::timeout(READ_WITHIN, stream.write_all(&reply)).await??;
                    place.stalled(false);
                }
                drop(work);
            }
        }
    }
}

/// Whether another call may be taken on. Beside a large one there is none.
fn has_room(open: usize, turn: Option<&Arc<OwnedSemaphorePermit>>) -> bool {
    open < CALLS_IN_FLIGHT && turn.is_none_or(|turn| Arc::strong_count(turn) == 1)
}

fn decode(buffer: &mut BytesMut) -> io::Result<Option<Vec<Bytes>>> {
    amp::decode(buffer, amp::CALL_LIMIT)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The reply to one message; `None` where PM2 never replies.
async fn answer(
    message: Vec<Bytes>,
    handle: &Handle,
    mut work: Work,
    turn: Option<Arc<OwnedSemaphorePermit>>,
) -> (Option<Vec<u8>>, Work) {
    // The id is echoed as it came, whatever its encoding.
    let id = message.get(1).cloned().unwrap_or_default();
    let call = read(message.first());
    drop(message);
    let body = match call {
        Ok(call) => methods::call(call, handle).await,
        Err(why) => Some(error_reply(&why)),
    };
    drop(turn);
    let reply = body.map(|body| amp::encode(&[&amp::json(&body), &id]));
    work.answers(reply.as_ref().map_or(0, Vec::len));
    (reply, work)
}

fn read(argument: Option<&Bytes>) -> Result<Value, String> {
    let Some(text) = argument.and_then(|argument| amp::as_json(argument)) else {
        return Err("the call is not JSON".to_owned());
    };
    let begins = |byte: &&u8| matches!(byte, b',' | b':' | b'[' | b'{');
    if text.len() > LARGE && text.iter().filter(begins).count() > VALUES {
        return Err(format!("the call holds more than {VALUES} values"));
    }
    serde_json::from_slice(text).map_err(|error| format!("the call is not JSON: {error}"))
}

/// An error as PM2's client reads it.
pub(super) fn error_reply(message: &str) -> String {
    let text = Value::from(message);
    format!(r#"{{"error":{text},"stack":{text}}}"#)
}

/// What is no call at all is refused by axon itself, which has no stack to tell.
pub(super) fn transport_error(message: &str) -> String {
    format!(r#"{{"error":{}}}"#, Value::from(message))
}
