//! A client of `rpc.sock` and `pub.sock`, without a runtime: a command starts, asks, prints and ends.

mod alive;

use super::amp;
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon listens on {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error(
        "the connection to the daemon broke during `{method}`: {source}; see pm2.log in PM2_HOME"
    )]
    Broken {
        /// During which call.
        method: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came back is not the protocol.
    #[error("the daemon's answer to `{method}` cannot be read: {reason}")]
    Answer {
        /// To which call.
        method: String,
        /// Why.
        reason: String,
    },
    /// It answers neither the call nor a ping.
    #[error("the daemon has not answered `{method}`, and answers no ping: {state}")]
    Silent {
        /// Which call.
        method: String,
        /// What is known of its process, and what may help.
        state: String,
    },
    /// The daemon is PM2's, and was asked for what only ours has.
    #[error(
        "the daemon of this PM2_HOME is PM2's own and cannot do that (it does not know `{method}`); `fornax takeover` moves its apps to Fornax"
    )]
    Foreign {
        /// The method.
        method: String,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// Bytes taken from a socket at once.
const CHUNK: usize = 32 << 10;

/// A connection to `rpc.sock`.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    buffer: BytesMut,
    calls: u64,
    /// An answer that takes longer than the limit is not waited for, whether the daemon lives or not.
    strict: bool,
}

impl Client {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = alive::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stream,
            path: path.to_owned(),
            buffer: BytesMut::new(),
            calls: 0,
            strict: false,
        })
    }

    /// How long an answer may take at most. A call that takes longer is `Silent`, and the connection is of no more use.
    pub fn set_limit(&mut self, limit: Duration) -> io::Result<()> {
        self.strict = true;
        self.stream.set_read_timeout(Some(limit))
    }

    /// Calls and reads the first result (`null` if there is none). Waits as long as the daemon answers a ping.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        args: &[Value],
    ) -> Result<T, ClientError> {
        self.send(method, args)?;
        let results = self.receive::<(T,)>(method)?;
        results.map(|(result,)| result)
    }

    /// Calls without waiting for an answer.
    pub fn send(&mut self, method: &str, args: &[Value]) -> Result<(), ClientError> {
        let message = self.message(method, args);
        self.write(method, &message)
    }

    /// Two calls in one go, so that the second does not wait for the answer to the first. Both results as `call` gives them.
    pub fn call_both<A: DeserializeOwned, B: DeserializeOwned>(
        &mut self,
        first: (&str, &[Value]),
        second: (&str, &[Value]),
    ) -> Result<(A, B), ClientError> {
        let number = self.calls;
        let mut messages = self.message(first.0, first.1);
        messages.extend(self.message(second.0, second.1));
        self.write(first.0, &messages)?;
        let (mut a, mut b) = (None, None);
        // In whatever order they come.
        loop {
            let answer = self.answer(first.0)?;
            match answer.call.and_then(|call| call.checked_sub(number)) {
                Some(0) => a = Some(answer.read::<(A,)>(first.0)??.0),
                Some(1) => b = Some(answer.read::<(B,)>(second.0)??.0),
                _ => {
                    return Err(ClientError::Answer {
                        method: first.0.to_owned(),
                        reason: "it answers a call that was not made".to_owned(),
                    });
                }
            }
            (a, b) = match (a, b) {
                (Some(a), Some(b)) => return Ok((a, b)),
                incomplete => incomplete,
            };
        }
    }

    fn message(&mut self, method: &str, args: &[Value]) -> Vec<u8> {
        let call = serde_json::json!({"type": "call", "method": method, "args": args}).to_string();
        let id = format!("{}:{}", std::process::id(), self.calls);
        self.calls += 1;
        amp::encode(&[&amp::json(&call), &amp::text(&id)])
    }

    fn write(&mut self, method: &str, messages: &[u8]) -> Result<(), ClientError> {
        self.stream
            .write_all(messages)
            .map_err(|source| self.broken(method, source))
    }

    fn broken(&self, method: &str, source: io::Error) -> ClientError {
        let method = method.to_owned();
        if alive::timed_out(&source) {
            let state = alive::state(&self.path);
            return ClientError::Silent { method, state };
        }
        ClientError::Broken { method, source }
    }

    /// Calls many times at once, and gives the answers in the order of the calls.
    pub fn call_all(
        &mut self,
        calls: &[(&str, Vec<Value>)],
    ) -> Result<Vec<Result<Value, ClientError>>, ClientError> {
        let first = self.calls;
        let mut answers: Vec<Option<Result<Value, ClientError>>> =
            calls.iter().map(|_| None).collect();
        // A window: with everything sent first, both sides could wait for the other to read.
        let window = 32.min(calls.len());
        let mut sent = 0;
        for _ in 0..calls.len() {
            while sent < calls.len()
                && sent - answers.iter().filter(|answer| answer.is_some()).count() < window
            {
                self.send(calls[sent].0, &calls[sent].1)?;
                sent += 1;
            }
            let (id, results) = self.receive_any::<Vec<Value>>("call")?;
            let at = id
                .and_then(|id| usize::try_from(id.checked_sub(first)?).ok())
                .filter(|at| answers.get(*at).is_some_and(Option::is_none));
            let Some(at) = at else {
                return Err(ClientError::Answer {
                    method: "call".to_owned(),
                    reason: "it answers a call that was not made, or one twice".to_owned(),
                });
            };
            answers[at] = Some(results.map(|mut results| {
                if results.is_empty() {
                    Value::Null
                } else {
                    results.swap_remove(0)
                }
            }));
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Closed by the daemon, as after `killMe`.
    pub fn wait_for_end(&mut self, limit: Duration) -> bool {
        // An error means that the socket is gone already.
        let _ = self.stream.set_read_timeout(Some(limit));
        let mut byte = [0_u8; 1];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    fn receive<T: DeserializeOwned>(
        &mut self,
        method: &str,
    ) -> Result<Result<T, ClientError>, ClientError> {
        Ok(self.receive_any(method)?.1)
    }

    /// An answer, and the number of the call it is for.
    fn receive_any<T: DeserializeOwned>(
        &mut self,
        method: &str,
    ) -> Result<(Option<u64>, Result<T, ClientError>), ClientError> {
        let answer = self.answer(method)?;
        Ok((answer.call, answer.read(method)?))
    }

    fn answer(&mut self, method: &str) -> Result<Reception, ClientError> {
        // As long as the daemon lives it is waited for: a call takes as long as what it asks for.
        let message = loop {
            match next_message(&mut self.stream, &mut self.buffer) {
                Ok(message) => break message,
                Err(error)
                    if !self.strict && alive::timed_out(&error) && alive::answers(&self.path) => {}
                Err(error) => return Err(self.broken(method, error)),
            }
        };
        let [body, id] = message.as_slice() else {
            return Err(ClientError::Answer {
                method: method.to_owned(),
                reason: format!("{} parts instead of 2", message.len()),
            });
        };
        let call = std::str::from_utf8(id)
            .ok()
            .and_then(|id| id.rsplit(':').next()?.parse().ok());
        Ok(Reception {
            call,
            body: body.clone(),
        })
    }
}

/// An answer as it came.
struct Reception {
    /// The number of the call it is for.
    call: Option<u64>,
    body: Bytes,
}

impl Reception {
    /// Its results, or the daemon's refusal.
    fn read<T: DeserializeOwned>(
        &self,
        method: &str,
    ) -> Result<Result<T, ClientError>, ClientError> {
        let bad = |reason: String| ClientError::Answer {
            method: method.to_owned(),
            reason,
        };
        let body =
            amp::as_json(&self.body).ok_or_else(|| bad("its first part is not JSON".to_owned()))?;
        #[derive(serde::Deserialize)]
        struct Reply<T> {
            args: Option<T>,
            error: Option<Value>,
        }
        // An error comes without args; null stands for a result that is not there.
        match serde_json::from_slice::<Reply<T>>(body) {
            Ok(Reply {
                error: Some(error), ..
            }) => {
                let words = error
                    .as_str()
                    .map_or_else(|| error.to_string(), str::to_owned);
                if method.starts_with("fornax")
                    && words == format!("method \"{method}\" does not exist")
                {
                    let method = method.to_owned();
                    return Ok(Err(ClientError::Foreign { method }));
                }
                Ok(Err(ClientError::Refused(words)))
            }
            Ok(Reply {
                args: Some(args), ..
            }) => Ok(Ok(args)),
            Ok(Reply { args: None, .. }) => {
                Err(bad("it holds neither a result nor an error".to_owned()))
            }
            Err(error) => Err(bad(error.to_string())),
        }
    }
}

/// A connection to `pub.sock`: everything that happens, from now on.
#[derive(Debug)]
pub struct BusClient {
    stream: UnixStream,
    buffer: BytesMut,
}

impl BusClient {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| ClientError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// How long `next_event` waits; `None` for ever.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)
    }

    /// The next event: topic and payload as JSON text. `WouldBlock` when the time limit has passed.
    pub fn next_event(&mut self) -> io::Result<(String, String)> {
        loop {
            let message = next_message(&mut self.stream, &mut self.buffer)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if let [topic, payload] = message.as_slice()
                && let (Some(topic), Some(payload)) =
                    (topic.strip_prefix(b"s:"), amp::as_json(payload))
            {
                return Ok((text(topic), text(payload)));
            }
        }
    }
}

fn next_message(stream: &mut UnixStream, buffer: &mut BytesMut) -> io::Result<Vec<bytes::Bytes>> {
    let mut chunk = vec![0_u8; CHUNK];
    loop {
        match amp::decode(buffer, amp::ANSWER_LIMIT) {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => buffer.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
