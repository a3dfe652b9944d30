//! A server of files that misbehaves on demand: it breaks connections, lies, stalls, redirects and forgets Range.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// With its query.
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
}

impl Seen {
    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub fn from(&self) -> usize {
        let range = self.header("range").unwrap_or("bytes=0-");
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse()
            .unwrap()
    }
}

/// How a file is served.
#[derive(Clone)]
pub struct Served {
    /// Its bytes.
    pub body: Arc<Vec<u8>>,
    /// Whether Range is understood.
    pub range: bool,
    /// Its ETag.
    pub etag: Option<String>,
    /// What is added to the length that is told.
    pub lie: i64,
    /// Each answer breaks off after at most so many bytes, at random.
    pub breaks: Option<u64>,
    /// So many bytes come, and the rest only when the gate opens.
    pub gate: Option<(usize, Arc<Gate>)>,
    /// Told instead of a file: status, and further headers.
    pub status: Option<(u16, Vec<(&'static str, String)>)>,
    /// Further headers of the file.
    pub headers: Vec<(&'static str, String)>,
}

impl Served {
    /// As a good server does.
    pub fn plain(body: Vec<u8>) -> Self {
        Self {
            body: Arc::new(body),
            range: true,
            etag: Some("\"v1\"".to_owned()),
            lie: 0,
            breaks: None,
            gate: None,
            status: None,
            headers: Vec::new(),
        }
    }

    /// No file, but this.
    pub fn status(code: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        Self {
            status: Some((code, headers.collect())),
            ..Self::plain(Vec::new())
        }
    }
}

/// Held until it is opened.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// From now on everything goes through.
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let mut open = self.open.lock().unwrap();
        while !*open {
            open = self.opened.wait(open).unwrap();
        }
    }
}

type Files = Arc<Mutex<HashMap<String, Served>>>;

/// The server, on a free port of 127.0.0.1.
pub struct ModelServer {
    address: SocketAddr,
    files: Files,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
}

impl ModelServer {
    /// Listens.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (files, seen) = (Files::default(), Arc::<Mutex<Vec<Seen>>>::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, log, stopped) = (Arc::clone(&files), Arc::clone(&seen), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (files, log) = (Arc::clone(&theirs), Arc::clone(&log));
                // A client may hang up at any moment.
                std::thread::spawn(move || answer(stream, &files, &log));
            }
        });
        Self {
            address,
            files,
            seen,
            stop,
        }
    }

    /// Serves a file from now on, by the path without its query.
    pub fn put(&self, path: &str, served: Served) {
        self.files.lock().unwrap().insert(path.to_owned(), served);
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often a path was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.path.starts_with(path))
            .count()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It waits for a connection to see that.
        drop(TcpStream::connect(self.address));
    }
}

/// A number below a limit; always the same row of them.
fn random(limit: u64) -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);
    let mut x = STATE.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    STATE.store(x, Ordering::Relaxed);
    x % limit.max(1)
}

fn answer(stream: TcpStream, files: &Files, log: &Mutex<Vec<Seen>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let seen = Seen { path, headers };
    let served = files
        .lock()
        .unwrap()
        .get(seen.path.split('?').next()?)
        .cloned();
    log.lock().unwrap().push(seen.clone());
    serve(
        stream,
        &seen,
        &served.unwrap_or_else(|| Served::status(404, &[])),
    )
}

fn serve(mut stream: TcpStream, seen: &Seen, served: &Served) -> Option<()> {
    let extra = |headers: &[(&'static str, String)]| -> String {
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect()
    };
    if let Some((code, headers)) = &served.status {
        let head = format!(
            "HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n{}\r\n",
            extra(headers)
        );
        return stream.write_all(head.as_bytes()).ok();
    }
    let unchanged =
        seen.header("if-range").is_none() || seen.header("if-range") == served.etag.as_deref();
    let from = if served.range && unchanged {
        seen.from()
    } else {
        0
    };
    let size = served.body.len();
    if from >= size && from > 0 {
        let head = format!(
            "HTTP/1.1 416 X\r\ncontent-range: bytes */{size}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        return stream.write_all(head.as_bytes()).ok();
    }
    let rest = &served.body[from..];
    let length = i64::try_from(rest.len()).unwrap() + served.lie;
    let mut head = match from {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        from => format!(
            "HTTP/1.1 206 P\r\ncontent-range: bytes {from}-{}/{size}\r\n",
            size - 1
        ),
    };
    head += &format!(
        "content-length: {length}\r\nconnection: close\r\n{}",
        extra(&served.headers)
    );
    if let Some(etag) = &served.etag {
        head += &format!("etag: {etag}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    let limit = served.breaks.map_or(rest.len(), |limit| {
        usize::try_from(random(limit)).unwrap().min(rest.len())
    });
    let first = served
        .gate
        .as_ref()
        .map_or(limit, |(bytes, _)| limit.min(bytes.saturating_sub(from)));
    stream.write_all(&rest[..first]).ok()?;
    if first < limit
        && let Some((_, gate)) = &served.gate
    {
        gate.wait();
        stream.write_all(&rest[first..limit]).ok()?;
    }
    stream.shutdown(Shutdown::Both).ok()
}
