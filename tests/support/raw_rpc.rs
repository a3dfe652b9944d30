//! Both sockets by hand: frames are written and read here, so that a fault of our own client cannot hide one of the server's.

// A helper of tests: what it cannot do ends the test, and no test uses all of it.
#![allow(clippy::unwrap_used, dead_code)]

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// A connection to `rpc.sock`.
pub struct Raw(pub UnixStream);

impl Raw {
    /// To the daemon of this PM2_HOME.
    pub fn connect(home: &Path) -> Self {
        let stream = UnixStream::connect(home.join("rpc.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// One frame.
    pub fn send(&mut self, parts: &[&[u8]]) {
        let mut bytes = vec![0x10 | u8::try_from(parts.len()).unwrap()];
        for part in parts {
            bytes.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        self.0.write_all(&bytes).unwrap();
    }

    /// An answer, and the id of the call it is for.
    pub fn receive(&mut self) -> (Value, Vec<u8>) {
        let mut parts = frame(&mut self.0);
        assert_eq!(parts.len(), 2);
        let body = parts[0].strip_prefix(b"j:").expect("JSON");
        (serde_json::from_slice(body).unwrap(), parts.remove(1))
    }

    /// Whatever JSON this is, and the answer.
    pub fn ask(&mut self, call: &Value) -> Value {
        self.send(&[format!("j:{call}").as_bytes(), b"s:1:0"]);
        let (body, id) = self.receive();
        assert_eq!(id, b"s:1:0");
        body
    }

    /// A call, and the answer as it came.
    pub fn call(&mut self, method: &str, args: Value) -> Value {
        self.ask(&json!({"type": "call", "method": method, "args": args}))
    }

    /// A call that must succeed: its first result.
    pub fn result(&mut self, method: &str, args: Value) -> Value {
        let reply = self.call(method, args);
        assert!(reply.get("error").is_none(), "{method}: {reply}");
        reply["args"][0].clone()
    }

    /// A call that must fail: the words.
    pub fn error(&mut self, method: &str, args: Value) -> String {
        let reply = self.call(method, args);
        let words = reply["error"].as_str();
        words
            .unwrap_or_else(|| panic!("{method}: {reply}"))
            .to_owned()
    }
}

/// A connection to `pub.sock`.
pub struct Bus(UnixStream);

impl Bus {
    /// To the daemon of this PM2_HOME.
    pub fn connect(home: &Path) -> Self {
        let stream = UnixStream::connect(home.join("pub.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// The next event: topic and payload.
    pub fn next(&mut self) -> (String, Value) {
        let parts = frame(&mut self.0);
        let [topic, payload] = parts.as_slice() else {
            panic!("an event of {} parts", parts.len());
        };
        let topic = topic.strip_prefix(b"s:").expect("text");
        let payload = payload.strip_prefix(b"j:").expect("JSON");
        (
            String::from_utf8(topic.to_vec()).unwrap(),
            serde_json::from_slice(payload).unwrap(),
        )
    }
}

fn frame(stream: &mut UnixStream) -> Vec<Vec<u8>> {
    let mut meta = [0];
    stream.read_exact(&mut meta).unwrap();
    assert_eq!(meta[0] >> 4, 1, "version 1");
    (0..meta[0] & 15)
        .map(|_| {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut bytes).unwrap();
            bytes
        })
        .collect()
}
