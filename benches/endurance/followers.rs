//! Three followers that read far more slowly than lines come: one on `pub.sock`, two on HTTP.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes read at once, and how long is slept in between: about 80 kB a second each, of 2 MB.
const CHUNK: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(200);

/// How often a busy log plane is asked before the run fails.
const ATTEMPTS: usize = 50;

static READ: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Starts them; they end with the daemon.
pub fn start(bus: &Path, http: &str) {
    follow(UnixStream::connect(bus).expect("the bus listens"));
    for _ in 0..2 {
        let mut stream = TcpStream::connect(http).expect("HTTP listens");
        let request = "GET /logs?follow=true&limit=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        follow(stream);
    }
}

fn follow(mut stream: impl Read + Send + 'static) {
    std::thread::spawn(move || {
        let mut bytes = vec![0; CHUNK];
        while let Ok(count) = stream.read(&mut bytes) {
            if count == 0 {
                break;
            }
            READ.fetch_add(count as u64, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        ENDED.fetch_add(1, Ordering::Relaxed);
    });
}

/// What they have read.
pub fn summary() -> String {
    format!(
        "3 slow followers have read {:.1} MB, {} of them cut off",
        READ.load(Ordering::Relaxed) as f64 / 1e6,
        ENDED.load(Ordering::Relaxed)
    )
}

/// What the log plane has counted, in lines.
pub struct LogCounts {
    /// In files.
    pub written: u64,
    /// Given up because they could not be written.
    pub dropped: u64,
    /// Not seen by followers.
    pub missed: u64,
}

/// Asks `/status`, again while the log plane is too busy to be counted within its deadline.
pub fn log_counts(http: &str) -> LogCounts {
    for _ in 0..ATTEMPTS {
        if let Some(counts) = ask(http) {
            return counts;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("the log plane has not been counted in {ATTEMPTS} attempts");
}

fn ask(http: &str) -> Option<LogCounts> {
    let mut stream = TcpStream::connect(http).expect("HTTP listens");
    let request = "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .expect("it answers in UTF-8");
    let body = text.split_once("\r\n\r\n").expect("a head and a body").1;
    let status: Value = serde_json::from_str(body).expect("it answers in JSON");
    let count = |name: &str| status["logs"][name].as_u64();
    Some(LogCounts {
        written: count("written_lines")?,
        dropped: count("dropped_lines")?,
        missed: count("missed_lines")?,
    })
}
