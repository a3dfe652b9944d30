//! `logs`, `flush` (pm2 7.0.4, spec 6.10, 6.11).

use crate::cli::options;
use crate::cli::render::ProcRow;
use crate::cli::render::logs::{self as lines, Chunk, Mode, Source, Stream};
use crate::cli::session::{Session, Told, print, wall_ms};
use crate::pm2::client::BusClient;
use crate::sys::localtime;
use anyhow::bail;
use clap::ArgMatches;
use regex::Regex;
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

/// The most that is read of a file's end, in bytes.
const TAIL_BYTES: u64 = 8 << 20;

/// Which lines are wanted.
#[derive(Default)]
struct Wanted {
    /// These instances only.
    ids: Option<Vec<u32>>,
    word: Option<String>,
    pattern: Option<Regex>,
    out: bool,
    err: bool,
}

impl Wanted {
    fn takes(&self, id: &str, name: &str, namespace: &str) -> bool {
        if let Some(ids) = &self.ids {
            return id.parse().is_ok_and(|id| ids.contains(&id));
        }
        match (&self.pattern, self.word.as_deref()) {
            (Some(pattern), _) => pattern.is_match(name),
            (None, None | Some("all")) => true,
            (None, Some(word)) => word == id || word == name || word == namespace,
        }
    }

    fn everything(&self) -> bool {
        let all = matches!(self.word.as_deref(), None | Some("all"));
        self.pattern.is_none() && self.ids.is_none() && all
    }
}

/// `pm2 logs`.
pub fn run(session: &mut Session, matches: &ArgMatches) -> anyhow::Result<()> {
    let word = matches.get_one::<String>("target").cloned();
    let inner = word
        .as_deref()
        .and_then(|word| word.strip_prefix('/')?.strip_suffix('/'))
        .filter(|inner| !inner.is_empty());
    let pattern = match inner.map(Regex::new).transpose() {
        Ok(pattern) => pattern,
        Err(error) => {
            session.output.error(&error.to_string());
            bail!(Told);
        }
    };
    let wanted = Wanted {
        pattern,
        out: options::flag(matches, "out"),
        err: options::flag(matches, "err"),
        word,
        ids: None,
    };
    let mode = match (
        options::flag(matches, "json"),
        options::flag(matches, "format"),
        options::flag(matches, "raw"),
    ) {
        (true, _, _) => Mode::Json,
        (_, true, _) => Mode::Format,
        (_, _, true) => Mode::Raw,
        _ => Mode::Prefixed,
    };
    let asked = options::value(matches, "lines").unwrap_or("15");
    let Ok(count) = asked.parse::<usize>() else {
        session
            .output
            .error(&format!("`{asked}` is not a number of lines"));
        bail!(Told);
    };
    // Before the files are read, so that no line falls between them and the stream.
    let nostream = options::flag(matches, "nostream");
    session.daemon(false)?;
    let bus = if nostream {
        None
    } else {
        Some(BusClient::connect(&session.home.pub_socket())?)
    };
    // Lines of a file have lost what those forms tell of them: they are shown only where nothing else is (pm2 7.0.4).
    if count > 0 && (nostream || !matches!(mode, Mode::Json | Mode::Format)) {
        let rows = session.rows()?;
        tail(session, &rows, &wanted, count, mode);
    }
    let Some(bus) = bus else { return Ok(()) };
    let mut stream = Stream::new(mode, session.output.colour, localtime::text);
    stream.timestamp = options::value(matches, "timestamp").map(str::to_owned);
    stream.highlight = options::value(matches, "highlight")
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    follow(session, bus, &wanted, &mut stream)
}

/// Everything, from now on: what `restart --attach` shows, and programs that stay in the foreground.
pub fn follow_all(session: &mut Session, mode: Mode) -> anyhow::Result<()> {
    follow_wanted(session, &Wanted::default(), mode)
}

/// These instances, from now on: what `start --attach` shows of the apps that it has started.
pub fn follow_started(session: &mut Session, ids: Vec<u32>) -> anyhow::Result<()> {
    let told: Vec<String> = ids.iter().map(u32::to_string).collect();
    session.output.line(&format!(
        "[PM2][INFO] Log streaming apps id: {}, exit with Ctrl-C",
        told.join(" ")
    ));
    let wanted = Wanted {
        ids: Some(ids),
        ..Wanted::default()
    };
    follow_wanted(session, &wanted, Mode::Prefixed)
}

fn follow_wanted(session: &mut Session, wanted: &Wanted, mode: Mode) -> anyhow::Result<()> {
    session.daemon(true)?;
    let bus = BusClient::connect(&session.home.pub_socket())?;
    let mut stream = Stream::new(mode, session.output.colour, localtime::text);
    follow(session, bus, wanted, &mut stream)
}

/// The last lines of each file, the file that was written last coming last.
fn tail(session: &Session, rows: &[ProcRow], wanted: &Wanted, count: usize, mode: Mode) {
    let colour = session.output.colour;
    let title = match &wanted.word {
        Some(word) if !wanted.everything() => word.as_str(),
        _ => "all",
    };
    session
        .output
        .line(&lines::tail_title(title, count, colour));
    let mut files: Vec<(String, String, Source)> = Vec::new();
    for row in rows.iter().filter(|row| {
        wanted.takes(
            &row.pm_id.to_string(),
            &row.name,
            row.namespace.as_deref().unwrap_or("default"),
        )
    }) {
        let label = lines::label(&row.pm_id.to_string(), &row.name);
        let both = [
            (&row.out_log_path, Source::Out, !wanted.err),
            (&row.err_log_path, Source::Err, !wanted.out),
        ];
        for (path, source, shown) in both {
            if let Some(path) = path.as_ref().filter(|path| {
                shown
                    && Path::new(path).is_file()
                    && !files.iter().any(|(known, _, _)| known == *path)
            }) {
                files.push((path.clone(), label.clone(), source));
            }
        }
    }
    let changed = |path: &str| {
        std::fs::metadata(path)
            .and_then(|data| data.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    files.sort_by_key(|(path, _, _)| changed(path));
    if wanted.everything() && !wanted.err && !wanted.out {
        let own = session.home.log_file().to_string_lossy().into_owned();
        files.insert(0, (own, "PM2".to_owned(), Source::Pm2));
    }
    for (path, label, source) in files {
        let Ok(last) = last_lines(Path::new(&path), count) else {
            continue;
        };
        session
            .output
            .line(&lines::file_title(&path, count, colour));
        for line in last {
            match (mode, source) {
                (Mode::Raw, Source::Err) => eprintln!("{line}"),
                (Mode::Raw, _) => print(&format!("{line}\n")),
                _ => print(&format!(
                    "{}\n",
                    lines::file_line(&label, source, &line, colour)
                )),
            }
        }
        session.output.line("");
    }
}

/// The last lines of a file, however large it is.
pub fn last_lines(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut start = length;
    let mut text: Vec<u8> = Vec::new();
    while start > 0
        && length - start < TAIL_BYTES
        && memchr::memchr_iter(b'\n', &text).count() <= count
    {
        let block = start.min(64 << 10);
        start -= block;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0_u8; block as usize];
        file.read_exact(&mut bytes)?;
        bytes.extend_from_slice(&text);
        text = bytes;
    }
    let whole = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = whole.lines().collect();
    Ok(lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect())
}

/// Prints what happens until the daemon ends or this command is interrupted. A daemon that was killed or replaced has a
/// successor, which listens on the same socket.
fn follow(
    session: &Session,
    mut bus: BusClient,
    wanted: &Wanted,
    stream: &mut Stream,
) -> anyhow::Result<()> {
    loop {
        let (topic, payload) = match bus.next_event() {
            Ok(event) => event,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                let Ok(again) = BusClient::connect(&session.home.pub_socket()) else {
                    return Ok(());
                };
                bus = again;
                eprintln!(
                    "[fornax] another daemon has taken over; what was written meanwhile is in the log files"
                );
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let payload: Value = serde_json::from_str(&payload).unwrap_or_default();
        let text = match topic.as_str() {
            "log:out" if !wanted.err => log_line(stream, wanted, &payload, Source::Out),
            "log:err" if !wanted.out => log_line(stream, wanted, &payload, Source::Err),
            "log:PM2" if !wanted.out && !wanted.err && wanted.everything() => {
                log_line(stream, wanted, &payload, Source::Pm2)
            }
            "process:event" if wanted.everything() => {
                let name = payload["process"]["name"].as_str().unwrap_or_default();
                let event = payload["event"].as_str().unwrap_or_default();
                Some((
                    stream.event(event, name, payload["at"].as_u64().unwrap_or_default()),
                    Source::Out,
                ))
            }
            "fornax:missed" => payload["lines"].as_u64().map(|count| {
                (
                    format!("[fornax] {count} lines missed: this reader was too slow\n"),
                    Source::Err,
                )
            }),
            _ => None,
        };
        if let Some((text, source)) = text.filter(|(text, _)| !text.is_empty()) {
            let written = match (stream.mode, source) {
                (Mode::Raw, Source::Err) => io::stderr().write_all(text.as_bytes()),
                _ => io::stdout()
                    .write_all(text.as_bytes())
                    .and_then(|()| io::stdout().flush()),
            };
            // Whoever read it has gone.
            if written.is_err() {
                return Ok(());
            }
        }
    }
}

fn log_line(
    stream: &mut Stream,
    wanted: &Wanted,
    payload: &Value,
    source: Source,
) -> Option<(String, Source)> {
    let process = &payload["process"];
    let id = process["pm_id"]
        .as_str()
        .map_or_else(|| process["pm_id"].to_string(), str::to_owned);
    let name = process["name"].as_str().unwrap_or_default();
    let namespace = process["namespace"].as_str().unwrap_or_default();
    if source != Source::Pm2 && !wanted.takes(&id, name, namespace) {
        return None;
    }
    let chunk = Chunk {
        id: &process["pm_id"],
        name: process["name"].as_str(),
        source,
        at_ms: payload["at"].as_u64().unwrap_or_default(),
        data: &payload["data"],
    };
    Some((stream.chunk(&chunk, wall_ms()), source))
}

/// `pm2 flush`: empties the files.
pub fn flush(session: &mut Session, word: Option<&str>) -> anyhow::Result<()> {
    let output = session.output;
    let rows = session.rows()?;
    let mut paths: Vec<String> = Vec::new();
    if word.is_none() {
        let own = session.home.log_file();
        output.done(&format!("Flushing {}", own.display()));
        paths.push(own.to_string_lossy().into_owned());
    }
    let meant =
        |row: &&ProcRow| word.is_none_or(|word| row.name == word || row.pm_id.to_string() == word);
    for row in rows.iter().filter(meant) {
        output.done("Flushing:");
        for path in [&row.out_log_path, &row.err_log_path].into_iter().flatten() {
            output.done(path);
            paths.push(path.clone());
        }
    }
    let mut failed = false;
    for path in paths.iter().filter(|path| Path::new(path).is_file()) {
        if let Err(error) = File::options().write(true).truncate(true).open(path) {
            output.error(&format!("cannot empty {path}: {error}"));
            failed = true;
        }
    }
    if failed {
        bail!(Told);
    }
    output.done("Logs flushed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_file_are_read_from_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let text: String = (0..100_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        std::fs::write(&path, text + "unfinished").unwrap();
        assert_eq!(
            last_lines(&path, 3).unwrap(),
            ["line 99998", "line 99999", "unfinished"]
        );
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(last_lines(&path, 15).unwrap(), ["one"]);
    }
}
