//! Node's IPC channel (pm2 7.0.4, spec 7.1): one JSON value a line, both ways, over the socket that the app sees as fd 3.

use memchr::memchr;
use serde_json::Value;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// The longest message taken, in bytes; a longer one is dropped with a warning.
const MESSAGE_LIMIT: usize = 1 << 20;

/// Our end of a run's channel.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    held: Vec<u8>,
    skipping: bool,
}

impl Channel {
    /// From our end of the socket pair, which must be non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))?;
        Ok(Self {
            stream,
            held: Vec::new(),
            skipping: false,
        })
    }

    /// The next messages; empty when what came was none of use. `None` at the end. Cancel-safe.
    pub async fn receive(&mut self) -> Option<Vec<Value>> {
        self.stream.readable().await.ok()?;
        self.read()
    }

    /// Apart from the waiting, so that the buffer is not part of what each app's task holds for its whole life.
    fn read(&mut self) -> Option<Vec<Value>> {
        let mut buffer = [0_u8; 4096];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => None,
            Ok(length) => Some(self.take(&buffer[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Vec::new()),
            Err(_) => None,
        }
    }

    fn take(&mut self, mut chunk: &[u8]) -> Vec<Value> {
        let mut messages = Vec::new();
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if !std::mem::take(&mut self.skipping) {
                let message = if self.held.is_empty() {
                    parse(line)
                } else {
                    self.held.extend_from_slice(line);
                    parse(&self.held)
                };
                messages.extend(message);
            }
            self.held = Vec::new();
            chunk = rest;
        }
        if self.held.len() + chunk.len() > MESSAGE_LIMIT {
            tracing::warn!(
                bytes = self.held.len() + chunk.len(),
                "message on an app's channel is too long; dropped"
            );
            self.skipping = true;
            self.held = Vec::new();
        } else if !self.skipping {
            self.held.extend_from_slice(chunk);
        }
        messages
    }

    /// Sends one message. An error means that the app no longer listens.
    pub async fn send(&mut self, message: &Value) -> io::Result<()> {
        let mut line = message.to_string();
        line.push('\n');
        self.stream.write_all(line.as_bytes()).await
    }
}

/// What is no JSON, or is Node's own business (`cmd: NODE_…`), is nobody else's.
fn parse(line: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let internal = value
        .get("cmd")
        .and_then(Value::as_str)
        .is_some_and(|cmd| cmd.starts_with("NODE_"));
    (!internal).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn channel() -> Channel {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        Channel::new(ours.into()).unwrap()
    }

    #[tokio::test]
    async fn messages_are_cut_at_newlines_however_they_arrive() {
        let mut channel = channel();
        assert_eq!(channel.take(b"\"rea"), Vec::<Value>::new());
        assert_eq!(
            channel.take(b"dy\"\n{\"a\":1}\nnot json\n{\"cmd\":\"NODE_X\"}\n[2"),
            [json!("ready"), json!({"a": 1})]
        );
        assert_eq!(channel.take(b"]\n"), [json!([2])]);
    }

    #[tokio::test]
    async fn an_endless_message_is_dropped_and_the_next_one_is_heard() {
        let mut channel = channel();
        for _ in 0..40 {
            assert!(channel.take(&[b'x'; 65_536]).is_empty());
            assert!(channel.held.len() <= MESSAGE_LIMIT);
        }
        assert_eq!(channel.take(b"tail\n\"next\"\n"), [json!("next")]);
    }
}
