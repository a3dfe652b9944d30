//! Node's IPC channel (pm2 7.0.4, spec 7.1): one JSON value a line, both ways, over the socket that the app sees as fd 3;
//! and descriptors with them, one at a time, each acknowledged before anything else is sent (child_process, "sendHandle").

use crate::sys::fdpass;
use memchr::memchr;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest message taken, in bytes; a longer one is dropped with a warning.
const MESSAGE_LIMIT: usize = 1 << 20;
/// Messages taken to be written; when so many wait, the app's outbox waits.
const WAITING: usize = 8;
/// Descriptors that came ahead of their messages; further ones are closed.
const EARLY_FDS: usize = 8;
/// How often a descriptor that did not arrive is sent again (Node's own number).
const RETRANSMISSIONS: u8 = 3;
/// What is read in one go, in bytes.
const READ: usize = 8 << 10;

/// What a descriptor is to Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleKind {
    /// A stream socket, connected or listening.
    Net,
    /// A datagram socket.
    Dgram,
}

/// A message to an app.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The message.
    pub message: Value,
    /// What goes with it.
    pub handle: Option<(Arc<OwnedFd>, HandleKind)>,
}

impl From<Value> for Outgoing {
    fn from(message: Value) -> Self {
        Self {
            message,
            handle: None,
        }
    }
}

impl Outgoing {
    fn line(&self) -> Vec<u8> {
        let mut text = match self.handle {
            None => self.message.to_string(),
            Some((_, kind)) => {
                let kind = match kind {
                    HandleKind::Net => "net.Native",
                    HandleKind::Dgram => "dgram.Native",
                };
                json!({"cmd": "NODE_HANDLE", "type": kind, "msg": self.message}).to_string()
            }
        };
        text.push('\n');
        text.into_bytes()
    }
}

/// A message from an app.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// For whoever listens to it.
    App(Value),
    /// For Node's cluster primary.
    Cluster(Value),
}

/// Our end of a run's channel.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    held: Vec<u8>,
    skipping: bool,
    fds: VecDeque<OwnedFd>,
    waiting: VecDeque<Outgoing>,
    /// The line on its way, and how much of it has gone.
    line: Vec<u8>,
    written: usize,
    /// It goes with the first byte of the line.
    line_fd: Option<Arc<OwnedFd>>,
    /// The message with a descriptor that is not acknowledged yet, and how often it was sent.
    in_flight: Option<(Outgoing, u8)>,
    /// Acknowledgements that we owe, and refusals. They go ahead of everything.
    owed: (u32, u32),
    /// The app reads no more.
    deaf: bool,
}

impl Channel {
    /// From our end of the socket pair, which must be non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))?;
        Ok(Self {
            stream,
            held: Vec::new(),
            skipping: false,
            fds: VecDeque::new(),
            waiting: VecDeque::new(),
            line: Vec::new(),
            written: 0,
            line_fd: None,
            in_flight: None,
            owed: (0, 0),
            deaf: false,
        })
    }

    /// Whether another message is taken. It is if `next` has written what waits.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// Takes a message to be written by `next`.
    pub fn push(&mut self, message: Outgoing) {
        self.waiting.push_back(message);
    }

    /// Writes what waits, as far as the app reads, until it says something: the next messages, empty when what came was none of
    /// use. `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<Incoming>> {
        loop {
            let blocked = !self.deaf && self.write();
            let interest = if blocked {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let ready = self.stream.ready(interest).await.ok()?;
            if !ready.is_readable() && !ready.is_read_closed() {
                continue;
            }
            match self.read() {
                Ok(None) => return None,
                Ok(Some(messages)) => return Some(messages),
                // The second is told once when the app has closed with messages of ours unread; what it said is still there.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(_) => return None,
            }
        }
    }

    /// `None` at the end.
    fn read(&mut self) -> io::Result<Option<Vec<Incoming>>> {
        // On this call's stack only: the task that holds the channel stays small.
        let mut buffer = [0_u8; READ];
        let stream = &self.stream;
        let (length, fds) = stream.try_io(Interest::READABLE, || {
            fdpass::receive(stream.as_fd(), &mut buffer)
        })?;
        if length == 0 {
            return Ok(None);
        }
        let room = EARLY_FDS.saturating_sub(self.fds.len());
        self.fds.extend(fds.into_iter().take(room));
        Ok(Some(self.take(&buffer[..length])))
    }

    /// Whether something is left that the socket did not take.
    fn write(&mut self) -> bool {
        loop {
            if self.written == self.line.len() && !self.next_line() {
                return false;
            }
            let (stream, rest) = (&self.stream, &self.line[self.written..]);
            let fd = self.line_fd.as_ref().map(|fd| fd.as_fd());
            let sent = stream.try_io(Interest::WRITABLE, || {
                fdpass::send(stream.as_fd(), rest, fd)
            });
            match sent {
                Ok(length) => {
                    self.written += length;
                    self.line_fd = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.deaf = true;
                    self.waiting.clear();
                    self.in_flight = None;
                    return false;
                }
            }
        }
    }

    /// Makes the next line ready, if there is one that may go now.
    fn next_line(&mut self) -> bool {
        self.written = 0;
        self.line = Vec::new();
        let answer = |count: &mut u32, cmd| {
            let due = *count > 0;
            *count = count.saturating_sub(1);
            due.then(|| format!("{{\"cmd\":\"{cmd}\"}}\n").into_bytes())
        };
        let (acks, refusals) = (&mut self.owed.0, &mut self.owed.1);
        if let Some(line) =
            answer(acks, "NODE_HANDLE_ACK").or_else(|| answer(refusals, "NODE_HANDLE_NACK"))
        {
            self.line = line;
            return true;
        }
        if self.in_flight.is_some() {
            return false;
        }
        let Some(message) = self.waiting.pop_front() else {
            return false;
        };
        self.line = message.line();
        self.line_fd = message.handle.as_ref().map(|(fd, _)| Arc::clone(fd));
        if message.handle.is_some() {
            self.in_flight = Some((message, 0));
        }
        true
    }

    fn take(&mut self, mut chunk: &[u8]) -> Vec<Incoming> {
        let mut messages = Vec::new();
        while let Some(end) = memchr(b'\n', chunk) {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            if !std::mem::take(&mut self.skipping) {
                let message = if self.held.is_empty() {
                    serde_json::from_slice(line)
                } else {
                    self.held.extend_from_slice(line);
                    serde_json::from_slice(&self.held)
                };
                // What is no JSON is nobody's.
                messages.extend(message.ok().and_then(|message| self.sort(message)));
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

    /// What Node says to Node (`cmd: NODE_…`) is nobody else's.
    fn sort(&mut self, mut message: Value) -> Option<Incoming> {
        let cmd = message
            .get("cmd")
            .and_then(Value::as_str)
            .unwrap_or_default();
        match cmd {
            "NODE_CLUSTER" => Some(Incoming::Cluster(message)),
            "NODE_HANDLE_ACK" => {
                self.in_flight = None;
                None
            }
            "NODE_HANDLE_NACK" => {
                self.send_again();
                None
            }
            "NODE_HANDLE" => {
                // Nobody here wants an app's socket: taken, acknowledged and closed, or the app would wait for ever.
                match self.fds.pop_front() {
                    Some(_) => self.owed.0 = self.owed.0.saturating_add(1),
                    None => self.owed.1 = self.owed.1.saturating_add(1),
                }
                let inner = message.get_mut("msg").map(Value::take)?;
                let internal = inner
                    .get("cmd")
                    .and_then(Value::as_str)
                    .is_some_and(|cmd| cmd.starts_with("NODE_"));
                (!internal && !inner.is_null()).then_some(Incoming::App(inner))
            }
            cmd if cmd.starts_with("NODE_") => None,
            _ => Some(Incoming::App(message)),
        }
    }

    fn send_again(&mut self) {
        let Some((message, sent)) = self.in_flight.take() else {
            return;
        };
        // The line may be on its way still; it is not, since it was refused.
        if sent < RETRANSMISSIONS && self.written == self.line.len() {
            self.written = 0;
            self.line = message.line();
            self.line_fd = message.handle.as_ref().map(|(fd, _)| Arc::clone(fd));
            self.in_flight = Some((message, sent + 1));
        } else {
            tracing::warn!("an app took no descriptor; given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream as StdStream;

    fn pair() -> (Channel, StdStream) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Channel::new(ours.into()).unwrap(), theirs)
    }

    fn app(value: Value) -> Incoming {
        Incoming::App(value)
    }

    #[tokio::test]
    async fn messages_are_cut_at_newlines_however_they_arrive() {
        let (mut channel, _theirs) = pair();
        assert_eq!(channel.take(b"\"rea"), Vec::<Incoming>::new());
        assert_eq!(
            channel.take(b"dy\"\n{\"a\":1}\nnot json\n{\"cmd\":\"NODE_X\"}\n[2"),
            [app(json!("ready")), app(json!({"a": 1}))]
        );
        assert_eq!(channel.take(b"]\n"), [app(json!([2]))]);
        let online = json!({"cmd": "NODE_CLUSTER", "act": "online"});
        let line = format!("{online}\n");
        assert_eq!(channel.take(line.as_bytes()), [Incoming::Cluster(online)]);
    }

    #[tokio::test]
    async fn an_endless_message_is_dropped_and_the_next_one_is_heard() {
        let (mut channel, _theirs) = pair();
        for _ in 0..40 {
            assert!(channel.take(&[b'x'; 65_536]).is_empty());
            assert!(channel.held.len() <= MESSAGE_LIMIT);
        }
        assert_eq!(channel.take(b"tail\n\"next\"\n"), [app(json!("next"))]);
    }

    /// Lets the channel work until the other end has read a line.
    async fn line(channel: &mut Channel, reader: &mut BufReader<StdStream>) -> Option<Value> {
        for _ in 0..50 {
            let turn = std::time::Duration::from_millis(2);
            // Nothing is said to it: it only writes.
            let _ = tokio::time::timeout(turn, channel.next()).await;
            let mut text = String::new();
            if reader.read_line(&mut text).is_ok() && !text.is_empty() {
                return serde_json::from_str(&text).ok();
            }
        }
        None
    }

    #[tokio::test]
    async fn one_descriptor_is_in_flight_and_all_else_waits_behind_it() {
        let (mut channel, theirs) = pair();
        theirs.set_nonblocking(true).unwrap();
        let mut reader = BufReader::new(theirs.try_clone().unwrap());
        let fd: Arc<OwnedFd> = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        channel.push(Outgoing {
            message: json!(1),
            handle: Some((Arc::clone(&fd), HandleKind::Net)),
        });
        channel.push(json!(2).into());
        let first = line(&mut channel, &mut reader).await.unwrap();
        assert_eq!(
            first,
            json!({"cmd": "NODE_HANDLE", "type": "net.Native", "msg": 1})
        );
        assert_eq!(line(&mut channel, &mut reader).await, None);
        (&theirs)
            .write_all(b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n")
            .unwrap();
        assert_eq!(line(&mut channel, &mut reader).await, Some(first));
        (&theirs)
            .write_all(b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n")
            .unwrap();
        assert_eq!(line(&mut channel, &mut reader).await, Some(json!(2)));
        assert_eq!(Arc::strong_count(&fd), 1);
    }

    #[tokio::test]
    async fn an_apps_descriptor_is_acknowledged_and_its_message_heard() {
        let (mut channel, theirs) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let wrapped = b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":{\"a\":1}}\n";
        fdpass::send(theirs.as_fd(), wrapped, Some(null.as_fd())).unwrap();
        fdpass::send(theirs.as_fd(), wrapped, None).unwrap();
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.extend(channel.next().await.unwrap());
        }
        assert_eq!(heard, [app(json!({"a": 1})), app(json!({"a": 1}))]);
        theirs.set_nonblocking(true).unwrap();
        let mut reader = BufReader::new(theirs);
        for cmd in ["NODE_HANDLE_ACK", "NODE_HANDLE_NACK"] {
            let answer = line(&mut channel, &mut reader).await.unwrap();
            assert_eq!(answer, json!({"cmd": cmd}));
        }
    }
}
