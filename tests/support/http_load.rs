//! Clients that keep asking over HTTP and count every request that fails, with no second try.

#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests answered.
    pub answered: usize,
    /// Requests that failed, and how.
    pub failed: Vec<String>,
    /// The bodies: here, who answered.
    pub bodies: BTreeSet<String>,
}

/// Clients at work.
pub struct Load {
    ending: Arc<AtomicBool>,
    /// Clients that have had their first answer, and with it a connection that is a worker's.
    begun: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    /// So many clients that keep their connection, and so many that make a new one for each request.
    pub fn start(port: u16, keep: usize, fresh: usize) -> Self {
        let (ending, begun) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicUsize>::default(),
        );
        let client = |keeps: bool| {
            let (ending, begun) = (Arc::clone(&ending), Arc::clone(&begun));
            std::thread::spawn(move || work(port, keeps, &ending, &begun))
        };
        let clients = (0..keep + fresh).map(|at| client(at < keep)).collect();
        Self {
            ending,
            begun,
            clients,
        }
    }

    /// How many clients have had an answer.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Ends them.
    pub fn finish(self) -> Seen {
        self.ending.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap();
            all.answered += seen.answered;
            all.failed.extend(seen.failed);
            all.bodies.extend(seen.bodies);
        }
        all
    }
}

fn work(port: u16, keeps: bool, ending: &AtomicBool, begun: &AtomicUsize) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    while !ending.load(Ordering::Relaxed) {
        match ask(port, &mut connection, keeps) {
            Ok(body) => {
                if seen.answered == 0 {
                    begun.fetch_add(1, Ordering::Relaxed);
                }
                seen.answered += 1;
                seen.bodies.insert(body);
            }
            Err(error) => {
                seen.failed.push(error.to_string());
                connection = None;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    seen
}

/// One request on a connection of its own; the answer's body.
pub fn get(port: u16) -> io::Result<String> {
    ask(port, &mut None, false)
}

fn ask(port: u16, held: &mut Option<BufReader<TcpStream>>, keeps: bool) -> io::Result<String> {
    let mut connection = match held.take() {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            BufReader::new(stream)
        }
    };
    let how = if keeps { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {how}\r\n\r\n");
    connection.get_mut().write_all(request.as_bytes())?;
    let (mut length, mut last, mut line) = (0, !keeps, String::new());
    if connection.read_line(&mut line)? == 0 {
        return Err(io::Error::other("closed before an answer"));
    }
    if !line.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(line));
    }
    loop {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = line.trim_end().to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("connection", value)) => last |= value == "close",
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    if !last {
        *held = Some(connection);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}
