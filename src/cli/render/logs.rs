//! `pm2 logs`: the titles and lines of the file part, and the lines of the stream that follows.

use super::style::{Style, paint};
use super::units;
use serde_json::{Value, json};

/// Width of the prefix in the file part.
const FILE_PREFIX: usize = 10;
/// Width that the prefix of the stream starts with; it grows with the longest seen.
const STREAM_PREFIX: usize = 4;
/// The timestamp of `--format`, in day.js tokens.
const FORMAT_DATE: &str = "YYYY-MM-DD-HH:mm:ssZZ";

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An app's standard output.
    Out,
    /// An app's standard error; `--raw` sends it to standard error.
    Err,
    /// The daemon itself.
    Pm2,
}

impl Source {
    fn style(self) -> Style {
        match self {
            Source::Out => Style::Green,
            Source::Err => Style::Red,
            Source::Pm2 => Style::Blue,
        }
    }
}

/// `[TAILING] Tailing last 15 lines for [all] processes (…)`, the first line of `pm2 logs`.
pub fn tail_title(target: &str, lines: usize, colour: bool) -> String {
    let noun = if target == "all" {
        "processes"
    } else {
        "process"
    };
    let text = format!(
        "[TAILING] Tailing last {lines} lines for [{target}] {noun} (change the value with --lines option)"
    );
    paint(&text, &[Style::Bold, Style::Gray], colour)
}

/// `<path> last 15 lines:`, before the lines of one file.
pub fn file_title(path: &str, lines: usize, colour: bool) -> String {
    paint(
        &format!("{path} last {lines} lines:"),
        &[Style::Gray],
        colour,
    )
}

/// One line of a log file: `0|web      | text`, the label cut or padded to 10 characters. The daemon's own log has the
/// label `PM2`. With `--raw` the line goes out bare, so this is not called.
pub fn file_line(label: &str, source: Source, line: &str, colour: bool) -> String {
    let label: String = label.chars().take(FILE_PREFIX).collect();
    paint(
        &format!("{label:FILE_PREFIX$} | "),
        &[source.style()],
        colour,
    ) + line
}

/// `0|web`: what stands before an app's lines.
pub fn label(id: &str, name: &str) -> String {
    format!("{id}|{name}")
}

/// How the stream is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// `0|web  | text`.
    #[default]
    Prefixed,
    /// `--raw`: the lines as the app wrote them.
    Raw,
    /// `--json`: one object a chunk.
    Json,
    /// `--format`: `timestamp=… app=… id=… type=… message=…`.
    Format,
}

/// A chunk of output, as the bus carries it.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// The `pm_id`, a number or the text `_old_3` of a worker being replaced.
    pub id: &'a Value,
    /// The app's name, if the bus told it.
    pub name: Option<&'a str>,
    /// Where it comes from.
    pub source: Source,
    /// When it was written, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The text, of one or more lines; an app may also send an object.
    pub data: &'a Value,
}

/// Writes the stream. Owner: the one loop that reads the bus.
#[derive(Debug, Clone)]
pub struct Stream {
    /// How lines are written.
    pub mode: Mode,
    /// `--timestamp`: a day.js format that is put before each prefixed line.
    pub timestamp: Option<String>,
    /// `--highlight`: text that is marked where it first stands in a prefixed line.
    pub highlight: Option<String>,
    /// Colour codes are wanted.
    pub colour: bool,
    /// Writes a moment (milliseconds since the Unix epoch) in a day.js format, in local time.
    pub date: fn(&str, u64) -> String,
    width: usize,
}

impl Stream {
    /// A stream without options.
    pub fn new(mode: Mode, colour: bool, date: fn(&str, u64) -> String) -> Self {
        Self {
            mode,
            timestamp: None,
            highlight: None,
            colour,
            date,
            width: STREAM_PREFIX,
        }
    }

    /// What is printed for a chunk: its lines, each with a line break; empty lines are dropped. `now_ms` dates the
    /// forms in which PM2 tells the time of printing and not that of writing.
    pub fn chunk(&mut self, chunk: &Chunk<'_>, now_ms: u64) -> String {
        if self.mode == Mode::Json {
            return json_chunk(chunk);
        }
        let Some(text) = chunk.data.as_str() else {
            return String::new();
        };
        let lines = text.split('\n').filter(|line| !line.is_empty());
        match self.mode {
            Mode::Raw => lines.map(|line| format!("{line}\n")).collect(),
            Mode::Format => lines
                .map(|line| self.formatted(chunk, line, now_ms))
                .collect(),
            Mode::Prefixed | Mode::Json => {
                let prefix = self.prefix(chunk, now_ms);
                lines
                    .map(|line| format!("{prefix}{}\n", self.marked(line)))
                    .collect()
            }
        }
    }

    /// What is printed for a life-cycle event (`online`, `exit`…): a line in JSON mode, else nothing.
    pub fn event(&self, status: &str, name: &str, at_ms: u64) -> String {
        if self.mode != Mode::Json {
            return String::new();
        }
        let line = json!({ "timestamp": iso(at_ms), "type": "process_event", "status": status, "app_name": name });
        format!("{line}\n")
    }

    fn prefix(&mut self, chunk: &Chunk<'_>, now_ms: u64) -> String {
        let label = match chunk.source {
            Source::Pm2 => "PM2".to_owned(),
            Source::Out | Source::Err => {
                label(&id_text(chunk.id), chunk.name.unwrap_or("undefined"))
            }
        };
        // PM2 measures its own lines as if they were those of an app "PM2" with the id "PM2".
        let length = if chunk.source == Source::Pm2 {
            "PM2|PM2".len()
        } else {
            label.chars().count()
        };
        if length >= self.width {
            self.width = length + 2;
        }
        let width = self.width;
        let label = paint(
            &format!("{label:width$}| "),
            &[chunk.source.style()],
            self.colour,
        );
        match &self.timestamp {
            Some(format) => {
                let stamp = format!("{} ", (self.date)(format, now_ms));
                paint(&stamp, &[Style::Dim, Style::Gray], self.colour) + &label
            }
            None => label,
        }
    }

    fn marked(&self, line: &str) -> String {
        match self.highlight.as_deref() {
            Some(text) if !text.is_empty() => {
                line.replacen(text, &paint(text, &[Style::OnGray], self.colour), 1)
            }
            _ => line.to_owned(),
        }
    }

    fn formatted(&self, chunk: &Chunk<'_>, line: &str, now_ms: u64) -> String {
        let stamp = (self.date)(FORMAT_DATE, now_ms);
        let kind = match chunk.source {
            Source::Pm2 => return format!("timestamp={stamp} app=pm2 message={line}\n"),
            Source::Out => "out",
            Source::Err => "error",
        };
        let (id, name) = (id_text(chunk.id), chunk.name.unwrap_or("undefined"));
        format!("timestamp={stamp} app={name} id={id} type={kind} message={line}\n")
    }
}

fn json_chunk(chunk: &Chunk<'_>) -> String {
    let kind = match chunk.source {
        Source::Pm2 => return String::new(),
        Source::Out => "out",
        Source::Err => "err",
    };
    let message = match chunk.data {
        Value::String(text) => Value::from(text.replace(['\r', '\n'], "")),
        other => other.clone(),
    };
    let mut line = json!({ "message": message, "timestamp": iso(chunk.at_ms), "type": kind, "process_id": chunk.id });
    if let Some(name) = chunk.name {
        line["app_name"] = Value::from(name);
    }
    format!("{line}\n")
}

fn iso(at_ms: u64) -> Option<String> {
    i64::try_from(at_ms).ok().and_then(units::iso) // A date no calendar has is printed as null.
}

fn id_text(id: &Value) -> String {
    super::js::text(id).unwrap_or_default()
}
