//! Puts the stamp or the JSON around lines; the text of a moment is made once and kept.

use super::config::LogFormat;
use crate::core::dateformat::DateFormat;
use crate::core::ids::{PmId, Stream};
use crate::core::logline::{count_lines, json_lines, json_tail, stamp_lines};
use crate::sys::localtime::LocalClock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Monotonic, for waiting.
    pub at: Instant,
    /// Milliseconds since the Unix epoch, for people.
    pub wall_ms: u64,
}

impl Moment {
    pub fn now() -> Self {
        // A clock before 1970 reads as 1970.
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            at: Instant::now(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// How lines look; the numbers stand in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Raw = 0,
    Stamped = 1,
    Json = 2,
}

impl Style {
    /// By its number; an unknown one is raw.
    pub fn of(number: u64) -> Self {
        let styles = [Style::Stamped, Style::Json];
        let found = styles.into_iter().find(|style| *style as u64 == number);
        found.unwrap_or(Style::Raw)
    }

    /// Appends `lines` (whole ones) with `decor` around each; returns how many there were.
    pub fn write(self, lines: &[u8], decor: &[u8], out: &mut Vec<u8>) -> u64 {
        match self {
            Style::Raw => {
                out.extend_from_slice(lines);
                count_lines(lines)
            }
            Style::Stamped => stamp_lines(lines, decor, out),
            Style::Json => json_lines(lines, decor, out),
        }
    }

    /// The text around a line of a stream of which nothing else is known any more.
    pub fn plain_decor(
        self,
        wall_ms: u64,
        clock: &LocalClock,
        id: PmId,
        stream: Stream,
    ) -> Vec<u8> {
        match self {
            Style::Raw => Vec::new(),
            Style::Stamped => {
                let date = DateFormat::parse("YYYY-MM-DDTHH:mm:ss");
                (date.text(&clock.broken(wall_ms)) + ": ").into_bytes()
            }
            Style::Json => json_tail(&iso_utc(wall_ms), stream, id.0, ""),
        }
    }
}

#[derive(Debug)]
enum Shape {
    Raw,
    Stamped(DateFormat),
    Json {
        date: Option<DateFormat>,
        stream: Stream,
        id: PmId,
        name: Box<str>,
    },
}

/// One stream's way of writing lines.
#[derive(Debug)]
pub(super) struct Formatter {
    shape: Shape,
    /// The moment `text` is for: whole seconds where the pattern has no milliseconds.
    made_for: Option<u64>,
    text: Vec<u8>,
}

impl Formatter {
    pub fn new(format: &LogFormat, stream: Stream, id: PmId, name: &str) -> Self {
        let shape = match format {
            LogFormat::Raw => Shape::Raw,
            LogFormat::Stamped(pattern) => Shape::Stamped(DateFormat::parse(pattern)),
            LogFormat::Json(pattern) => Shape::Json {
                date: pattern.as_deref().map(DateFormat::parse),
                stream,
                id,
                name: name.into(),
            },
        };
        Self {
            shape,
            made_for: None,
            text: Vec::new(),
        }
    }

    /// Whether lines are written as they came.
    pub fn is_raw(&self) -> bool {
        matches!(self.shape, Shape::Raw)
    }

    /// Appends `lines` (whole ones) as they are to be written; returns how many there were.
    pub fn decorate(
        &mut self,
        lines: &[u8],
        wall_ms: u64,
        clock: &LocalClock,
        out: &mut Vec<u8>,
    ) -> u64 {
        let (style, text) = self.decor(wall_ms, clock);
        style.write(lines, text, out)
    }

    /// How lines of that moment look, and the text around each.
    pub fn decor(&mut self, wall_ms: u64, clock: &LocalClock) -> (Style, &[u8]) {
        self.refresh(wall_ms, clock);
        (self.style(), &self.text)
    }

    /// How its lines look.
    pub fn style(&self) -> Style {
        match self.shape {
            Shape::Raw => Style::Raw,
            Shape::Stamped(_) => Style::Stamped,
            Shape::Json { .. } => Style::Json,
        }
    }

    fn refresh(&mut self, wall_ms: u64, clock: &LocalClock) {
        let fine = match &self.shape {
            Shape::Raw => return,
            Shape::Stamped(date) => date.shows_millis(),
            Shape::Json { date, .. } => date.as_ref().is_none_or(DateFormat::shows_millis),
        };
        let moment = if fine { wall_ms } else { wall_ms / 1000 };
        if self.made_for.replace(moment) == Some(moment) {
            return;
        }
        let local = |date: &DateFormat| date.text(&clock.broken(wall_ms));
        self.text = match &self.shape {
            Shape::Raw => return,
            Shape::Stamped(date) => (local(date) + ": ").into_bytes(),
            Shape::Json {
                date,
                stream,
                id,
                name,
            } => {
                let stamp = date.as_ref().map_or_else(|| iso_utc(wall_ms), local);
                json_tail(&stamp, *stream, id.0, name)
            }
        };
    }
}

/// As JavaScript's `toISOString`.
fn iso_utc(wall_ms: u64) -> String {
    DateFormat::parse("YYYY-MM-DDTHH:mm:ss.SSS[Z]").text(&LocalClock::utc().broken(wall_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_follows_the_clock() {
        let clock = LocalClock::utc();
        let mut formatter = Formatter::new(
            &LogFormat::Stamped("HH:mm:ss".to_owned()),
            Stream::Out,
            PmId(0),
            "a",
        );
        let mut out = Vec::new();
        formatter.decorate(b"x\n", 1_000, &clock, &mut out);
        formatter.decorate(b"y\n", 1_999, &clock, &mut out);
        formatter.decorate(b"z\n", 2_000, &clock, &mut out);
        assert_eq!(out, b"00:00:01: x\n00:00:01: y\n00:00:02: z\n");
    }

    #[test]
    fn json_without_a_pattern_is_stamped_in_utc_with_millis() {
        let mut formatter = Formatter::new(&LogFormat::Json(None), Stream::Err, PmId(3), "a");
        let mut out = Vec::new();
        formatter.decorate(b"x\n", 1_795_419_925_379, &LocalClock::system(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"message\":\"x\",\"timestamp\":\"2026-11-23T07:45:25.379Z\",\"type\":\"err\",\"process_id\":3,\"app_name\":\"a\"}\n"
        );
    }
}
