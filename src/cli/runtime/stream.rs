//! What the apps write, printed by a thread as the bus tells it.

use crate::cli::render::logs::{Chunk, Mode, Source, Stream};
use crate::cli::session::{Session, wall_ms};
use crate::pm2::client::BusClient;
use crate::sys::localtime;
use serde_json::Value;
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// How long the last lines may take to be printed once the daemon has ended.
const LAST_LINES: Duration = Duration::from_secs(3);
/// The date before a line of the daemon's (pm2 7.0.4).
const DAEMON_DATE: &str = "YYYY-MM-DDTHH:mm:ss";

/// How lines are shown.
pub struct Look {
    /// How an app's lines are written.
    pub mode: Mode,
    /// A day.js format that is put before each of them.
    pub timestamp: Option<String>,
    /// `<name>-<id>` stands before a line, as `pm2-dev` writes it.
    pub dev: bool,
    /// The daemon's own lines are shown.
    pub daemon: bool,
    /// Colour codes are wanted.
    pub colour: bool,
}

/// Called with the name of an event of an app's life and the app's `process`.
pub type OnEvent = Box<dyn FnMut(&str, &Value) + Send>;

/// The thread that prints. It ends with the daemon.
pub struct Follower {
    ended: Receiver<()>,
}

impl Follower {
    /// Follows from now on: nothing that is started afterwards is missed.
    pub fn start(session: &Session, look: Look, on_event: OnEvent) -> anyhow::Result<Self> {
        let socket = session.home.pub_socket();
        let bus = BusClient::connect(&socket)?;
        let (sender, ended) = sync_channel(1);
        std::thread::Builder::new()
            .name("fornax-follow".to_owned())
            .spawn(move || {
                let mut stream = Stream::new(look.mode, look.colour, localtime::text);
                stream.timestamp = look.timestamp.clone();
                let mut printer = Printer {
                    stream,
                    look,
                    on_event,
                };
                printer.follow(bus, &socket);
                // Whoever waited has stopped waiting.
                let _ = sender.send(());
            })?;
        Ok(Self { ended })
    }

    /// Waits until everything is printed, after the daemon's end.
    pub fn finish(self) {
        // What a reader who is too slow has not taken by then is lost with us.
        let _ = self.ended.recv_timeout(LAST_LINES);
    }
}

struct Printer {
    stream: Stream,
    look: Look,
    on_event: OnEvent,
}

impl Printer {
    fn follow(&mut self, mut bus: BusClient, socket: &Path) {
        let mut another = false;
        loop {
            match bus.next_event() {
                Ok((topic, payload)) => {
                    // Told by its first event only: one that is ending may still take a connection.
                    if std::mem::take(&mut another) {
                        eprintln!(
                            "[fornax] another daemon has taken over; lines written meanwhile are missing here"
                        );
                    }
                    let payload = serde_json::from_str(&payload).unwrap_or_default();
                    // Whoever read it has gone; the apps go on.
                    let _ = self.event(&topic, &payload);
                }
                Err(_) => match BusClient::connect(socket) {
                    Ok(again) => (bus, another) = (again, true),
                    Err(_) => return,
                },
            }
        }
    }

    fn event(&mut self, topic: &str, payload: &Value) -> io::Result<()> {
        match topic {
            "log:out" => self.lines(payload, Source::Out),
            "log:err" => self.lines(payload, Source::Err),
            "log:PM2" if self.look.daemon => self.daemon_lines(payload),
            "process:event" => {
                let name = payload["process"]["name"].as_str().unwrap_or_default();
                let event = payload["event"].as_str().unwrap_or_default();
                let at = payload["at"].as_u64().unwrap_or_default();
                out(&self.stream.event(event, name, at))?;
                (self.on_event)(event, &payload["process"]);
                Ok(())
            }
            "fornax:missed" => match payload["lines"].as_u64() {
                Some(count) => err(&format!(
                    "[fornax] {count} lines missed: this reader was too slow\n"
                )),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn lines(&mut self, payload: &Value, source: Source) -> io::Result<()> {
        let process = &payload["process"];
        if self.look.dev && self.look.mode == Mode::Prefixed {
            let name = process["name"].as_str().unwrap_or_default();
            let prefix = self.dev_prefix(name, &process["pm_id"]);
            let text = payload["data"].as_str().unwrap_or_default();
            let lines = text.split('\n').filter(|line| !line.is_empty());
            return out(&lines
                .map(|line| format!("{prefix}{line}\n"))
                .collect::<String>());
        }
        let chunk = Chunk {
            id: &process["pm_id"],
            name: process["name"].as_str(),
            source,
            at_ms: payload["at"].as_u64().unwrap_or_default(),
            data: &payload["data"],
        };
        let text = self.stream.chunk(&chunk, wall_ms());
        match (self.look.mode, source) {
            (Mode::Raw, Source::Err) => err(&text),
            _ => out(&text),
        }
    }

    fn dev_prefix(&self, name: &str, id: &Value) -> String {
        let stamp = self
            .look
            .timestamp
            .as_ref()
            .map_or_else(String::new, |format| {
                format!("{} ", localtime::text(format, wall_ms()))
            });
        format!("{stamp}{name}-{id}  | ")
    }

    /// PM2's form on standard output; where that is JSON, on standard error, so that it stays JSON.
    fn daemon_lines(&self, payload: &Value) -> io::Result<()> {
        let stamp = localtime::text(DAEMON_DATE, wall_ms());
        let text = payload["data"].as_str().unwrap_or_default();
        let lines: String = text
            .lines()
            .map(|line| format!("{stamp}: PM2 log: {line}\n"))
            .collect();
        match self.look.mode {
            Mode::Json => err(&lines),
            _ => out(&lines),
        }
    }
}

fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn err(text: &str) -> io::Result<()> {
    io::stderr().write_all(text.as_bytes())
}
