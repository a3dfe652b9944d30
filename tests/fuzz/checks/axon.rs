//! Bytes on `rpc.sock`, as the daemon and as a client read them: frames, and the answers in them.
//!
//! The first byte says how the stream is cut on its way.

use super::pieces;
use bytes::{Bytes, BytesMut};
use fornax::pm2::amp::{self, FrameError};
use fornax::pm2::client::{Client, ClientError};
use serde_json::Value;
use std::io::Write;
use std::os::unix::net::UnixListener;

/// What a socket takes with nobody reading, in bytes.
const SOCKET_TAKES: usize = 64 << 10;

pub fn check(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else {
        return;
    };
    let whole = frames(std::iter::once(stream));
    let cut = frames(pieces(stream, &[usize::from(*first), 1, 7]));
    assert_eq!(whole, cut, "how a stream is cut changes nothing");
    let (messages, left) = whole;
    let mut read = 0;
    for message in &messages {
        read += 1 + message.iter().map(|arg| arg.len() + 4).sum::<usize>();
        encoded_again(message);
    }
    // Where no message is whole there is nothing to be made of it.
    if !messages.is_empty() && stream.len() <= SOCKET_TAKES {
        answered(stream, &messages, first % 2 == 0);
    }
    if let Ok(left) = left {
        assert_eq!(
            read + left,
            stream.len(),
            "every byte is in a message or left"
        );
    }
}

/// The messages of a stream, and how many bytes are left of it or why it can't be read on.
fn frames<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Vec<Bytes>>, Result<usize, FrameError>) {
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match amp::decode(&mut buffer, amp::CALL_LIMIT) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "half a message is left as it is");
                    break;
                }
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, Ok(buffer.len()))
}

fn encoded_again(message: &[Bytes]) {
    let args: Vec<&[u8]> = message.iter().map(|arg| &arg[..]).collect();
    let mut again = BytesMut::from(&amp::encode(&args)[..]);
    assert_eq!(
        amp::decode(&mut again, amp::CALL_LIMIT)
            .as_ref()
            .map(Option::as_deref),
        Ok(Some(message))
    );
    assert!(again.is_empty());
}

/// What a client makes of the stream as the answer to its call, or to two of them at once.
fn answered(stream: &[u8], messages: &[Vec<Bytes>], one: bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rpc.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    let (mut daemon, _) = listener.accept().unwrap();
    daemon.write_all(stream).unwrap();
    daemon.shutdown(std::net::Shutdown::Write).unwrap();
    let error = if one {
        client.call::<Value>("ping", &[]).err()
    } else {
        let calls = [("ping", Vec::new()), ("ping", Vec::new())];
        client
            .call_all(&calls)
            .map(|all| assert_eq!(all.len(), calls.len(), "each call has its answer"))
            .err()
    };
    if let Some(ClientError::Broken { .. }) = error {
        let wanted = if one { 1 } else { 2 };
        assert!(messages.len() < wanted, "all answers were there");
    }
}
