//! The parameters of log routes. A name or a value that is not known is an error, so that a slip is not taken for "no lines".

use super::answer::shown;
use super::nearest::nearest;
use super::problem::Problem;
use crate::core::ids::Stream;
use crate::core::units::Millis;
use axum::extract::Query;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use regex::bytes::{Regex, RegexBuilder};

/// The parameters, as an answer lists them.
const NAMES: [&str; 6] = ["limit", "stream", "since", "grep", "format", "follow"];
/// Lines where no number is given.
const DEFAULT_LINES: usize = 100;
/// The most lines of one answer.
const MOST_LINES: usize = 10_000;
/// The longest pattern, in bytes.
const PATTERN_BYTES: usize = 512;
/// The largest compiled pattern, in bytes.
const COMPILED_BYTES: usize = 1 << 20;

/// Which lines are wanted, and how.
#[derive(Debug, Clone)]
pub(super) struct LogQuery {
    /// How many: 1 to 10,000; 0 too when they are followed.
    pub limit: usize,
    /// One stream only.
    pub stream: Option<Stream>,
    /// Not those known to be older, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Only those in which this is found.
    pub grep: Option<Regex>,
    /// Plain lines instead of JSON.
    pub text: bool,
    /// What comes later too, as server-sent events.
    pub follow: bool,
}

impl LogQuery {
    /// Of a request. `now_ms` is what `10m` is counted back from.
    pub fn read(uri: &Uri, headers: &HeaderMap, now_ms: u64) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|rejection| Problem::parameter("?", rejection.body_text()))?;
        let mut query = Self {
            limit: DEFAULT_LINES,
            stream: None,
            since_ms: None,
            grep: None,
            text: wants_text(headers),
            follow: false,
        };
        let mut limit = None;
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in pairs.0 {
            if seen.contains(&name) {
                return Err(Problem::parameter(&name, "it is given twice; give it once"));
            }
            match name.as_str() {
                "limit" => limit = Some(value.parse::<usize>().ok()),
                "stream" => query.stream = Some(stream(&value)?),
                "since" => query.since_ms = Some(since(&value, now_ms)?),
                "grep" => query.grep = pattern(&value)?,
                "format" => {
                    query.text = one_of("format", &value, [("json", false), ("text", true)])?
                }
                "follow" => {
                    query.follow = one_of(
                        "follow",
                        &value,
                        [("true", true), ("false", false), ("1", true), ("0", false)],
                    )?;
                }
                _ => return Err(unknown(&name)),
            }
            seen.push(name);
        }
        let least = usize::from(!query.follow);
        match limit {
            None => {}
            Some(Some(lines)) if (least..=MOST_LINES).contains(&lines) => query.limit = lines,
            Some(_) => {
                let range = format!("it must be a whole number from {least} to {MOST_LINES}");
                return Err(Problem::parameter("limit", range));
            }
        }
        Ok(query)
    }
}

fn unknown(name: &str) -> Problem {
    let meant = nearest(name, NAMES)
        .map_or_else(String::new, |nearest| format!("did you mean `{nearest}`? "));
    Problem::parameter(
        name,
        format!("it is not known; {meant}there are {}", NAMES.join(", ")),
    )
}

fn one_of<T: Copy, const N: usize>(
    name: &str,
    value: &str,
    words: [(&str, T); N],
) -> Result<T, Problem> {
    words
        .iter()
        .find(|(word, _)| *word == value)
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| {
            let known = words.map(|(word, _)| word).join(", ");
            Problem::parameter(name, format!("`{}` is none of {known}", shown(value)))
        })
}

fn stream(value: &str) -> Result<Stream, Problem> {
    one_of(
        "stream",
        value,
        [("out", Stream::Out), ("err", Stream::Err)],
    )
}

/// `2025-10-10T08:30:00Z`, milliseconds since the Unix epoch, or how long ago: `10m`.
fn since(value: &str, now_ms: u64) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let moment = || {
        // A `+` that was not written as %2B has become a space.
        let mended = value.replace(' ', "+");
        let moment = [value, mended.as_str()]
            .into_iter()
            .find_map(|text| text.parse::<jiff::Timestamp>().ok())?;
        Some(u64::try_from(moment.as_millisecond()).unwrap_or(0))
    };
    let read = if digits {
        value.parse().ok()
    } else {
        Millis::parse(value)
            .map(|ago| now_ms.saturating_sub(ago.0))
            .or_else(moment)
    };
    read.ok_or_else(|| {
        let forms = "a moment (`2025-10-10T08:30:00Z`), milliseconds since 1970, or how long ago (`90s`, `10m`, `2h`, `1d`)";
        Problem::parameter("since", format!("`{}` is not {forms}", shown(value)))
    })
}

/// An empty pattern is none.
fn pattern(value: &str) -> Result<Option<Regex>, Problem> {
    if value.is_empty() {
        return Ok(None);
    }
    if value.len() > PATTERN_BYTES {
        return Err(Problem::parameter(
            "grep",
            format!("it is longer than {PATTERN_BYTES} bytes"),
        ));
    }
    RegexBuilder::new(value)
        .size_limit(COMPILED_BYTES)
        .dfa_size_limit(COMPILED_BYTES)
        .build()
        .map(Some)
        .map_err(|error| {
            let why = error.to_string();
            let last = why.lines().last().unwrap_or_default().trim();
            Problem::parameter(
                "grep",
                format!("it is not a regular expression ({last}); escape special characters with a backslash"),
            )
        })
}

/// The first media type that the client names decides; a browser names HTML first and gets JSON.
fn wants_text(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .and_then(|accept| accept.split([',', ';']).next())
        .is_some_and(|first| first.trim().eq_ignore_ascii_case("text/plain"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_085_000_000;

    fn read(query: &str) -> Result<LogQuery, String> {
        let uri: Uri = format!("/logs?{query}").parse().unwrap();
        LogQuery::read(&uri, &HeaderMap::new(), NOW).map_err(|problem| {
            assert_eq!(problem.status().as_u16(), 400, "{query}");
            problem.to_string()
        })
    }

    #[test]
    fn nothing_said_means_the_last_hundred_lines_of_both_streams() {
        let query = read("").unwrap();
        assert_eq!(
            (query.limit, query.stream, query.since_ms),
            (100, None, None)
        );
        assert!(query.grep.is_none() && !query.text && !query.follow);
    }

    #[test]
    fn times_are_read_in_three_forms() {
        for (text, want) in [
            ("1760084000000", 1_760_084_000_000),
            ("10m", NOW - 600_000),
            ("0s", NOW),
            ("99999d", 0),
            ("2025-10-10T08:30:00Z", NOW),
            ("2025-10-10T10:30:00%2B02:00", NOW),
            ("2025-10-10T10:30:00+02:00", NOW),
            ("1960-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(
                read(&format!("since={text}")).unwrap().since_ms,
                Some(want),
                "{text}"
            );
        }
    }

    #[test]
    fn every_error_says_what_is_right() {
        for (query, word) in [
            ("limit=0", "from 1 to 10000"),
            ("limit=10001", "from 1 to 10000"),
            ("limit=ten", "whole number"),
            ("follow=true&limit=10001", "from 0 to 10000"),
            ("stream=both", "out, err"),
            ("since=yesterday", "2025-10-10T08:30:00Z"),
            ("since=", "how long ago"),
            ("grep=(", "regular expression"),
            ("grep=a{999}{999}{999}", "regular expression"),
            ("format=xml", "json, text"),
            ("follow=maybe", "true, false"),
            ("limt=3", "did you mean `limit`?"),
            ("lines=3", "there are limit"),
            ("limit=3&limit=4", "twice"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(word), "{query}: {error}");
        }
        let long = read(&format!("grep={}", "a".repeat(513))).unwrap_err();
        assert!(long.contains("512"), "{long}");
        assert!(read("follow=1&limit=0").is_ok());
    }

    #[test]
    fn the_first_media_type_decides() {
        for (accept, text) in [
            ("text/plain", true),
            ("TEXT/PLAIN;q=0.9, application/json", true),
            ("text/html, text/plain", false),
            ("*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let query = LogQuery::read(&"/logs".parse().unwrap(), &headers, NOW).unwrap();
            assert_eq!(query.text, text, "{accept}");
        }
    }
}
