//! `?follow=true`: lines as server-sent events, without a gap or a repeat, over reconnections and rotations.

use super::answer;
use super::app::{App, Caller};
use super::event_id::{EventId, Known};
use super::logs::blocking;
use super::problem::Problem;
use super::query::LogQuery;
use super::sources::{Scope, Source, ToldLine};
use crate::adapters::logs::{Batch, FollowItem, Follower, LogError, LogLine, LogPlane};
use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use regex::bytes::Regex;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A comment is sent when nothing else was for so long, so that both ends see a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client is told to wait before it connects again, in milliseconds.
const RETRY_MS: u32 = 2_000;
/// About so much is handed to the connection at once, in bytes.
const CHUNK: usize = 32 << 10;
/// A longer line is cut, and says so. In bytes.
const LINE_BYTES: usize = 64 << 10;

/// Lines alone.
const PLAIN: &str = "text/plain; charset=utf-8";

/// The header by which a client tells how far it has come.
const LAST_EVENT_ID: &str = "last-event-id";

/// Answers a request to follow.
pub(super) async fn answer(
    app: &App,
    caller: Caller,
    scope: Scope,
    query: LogQuery,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let last = last_event_id(headers)?;
    if method == Method::HEAD {
        return Ok(answer::with_type(
            StatusCode::OK,
            "text/event-stream",
            Body::empty(),
        ));
    }
    follow(app, caller, scope, query, last, "text/event-stream").await
}

/// The lines alone, as text, for a client that knows no events: the last ones, then each new one until it leaves.
pub(super) async fn plain(
    app: &App,
    caller: Caller,
    scope: Scope,
    query: LogQuery,
    method: &Method,
) -> Result<Response, Problem> {
    if method == Method::HEAD {
        return Ok(answer::with_type(StatusCode::OK, PLAIN, Body::empty()));
    }
    follow(app, caller, scope, query, None, PLAIN).await
}

async fn follow(
    app: &App,
    caller: Caller,
    scope: Scope,
    query: LogQuery,
    last: Option<EventId>,
    media_type: &'static str,
) -> Result<Response, Problem> {
    let seat = Arc::clone(&app.followers)
        .try_acquire_owned()
        .map_err(|_| Problem::Busy)?;
    let life = app.handle.info.life;
    let plain = media_type == PLAIN;
    let (grep, text, all) = (query.grep.clone(), query.text, scope.sources.clone());
    let begun = blocking(app, move |plane| begin(plane, scope, &query, last, life)).await??;
    let feed = Feed {
        follower: begun.follower,
        id: begun.id,
        after_history: begun.after_history,
        history: begun.history,
        sources: begun.sources,
        all,
        opening: Some(begun.opening).filter(|_| !plain),
        plain,
        pending: None,
        grep,
        text,
        sent_at: Instant::now(),
        closing: caller.closing,
        _seat: seat,
    };
    let chunks = futures_util::stream::unfold(feed, |mut feed| async move {
        // A flood has a next chunk at once, for as long as the socket takes it: others' requests go in between.
        tokio::task::yield_now().await;
        let chunk = feed.next().await?;
        Some((Ok::<String, Infallible>(chunk), feed))
    });
    Ok(answer::with_type(
        StatusCode::OK,
        media_type,
        Body::from_stream(chunks),
    ))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<EventId>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let id = value.to_str().ok().and_then(EventId::parse);
    id.map(Some).ok_or_else(|| Problem::Header {
        name: LAST_EVENT_ID,
        why: "it is not the id of an event of this port; leave it out to begin anew".to_owned(),
    })
}

/// A feed that has begun.
struct Begun {
    follower: Follower,
    opening: String,
    history: VecDeque<LogLine>,
    /// The sources of the history's targets.
    sources: Vec<Source>,
    id: EventId,
    after_history: Known,
}

/// Finds out where to begin, reads what comes before that, and subscribes. Blocking.
fn begin(
    plane: &LogPlane,
    scope: Scope,
    query: &LogQuery,
    last: Option<EventId>,
    life: u64,
) -> Result<Begun, LogError> {
    let mut opening = format!("retry: {RETRY_MS}\n\n");
    let known = match &last {
        Some(last) if last.life == life => last.known.clone(),
        Some(last) => {
            let message = "the daemon has restarted: lines are numbered anew, and what follows begins with its first line";
            let notice = json!({
                "message": message,
                "was_started_at": answer::iso(last.life),
                "started_at": answer::iso(life),
            });
            let _ = write!(opening, "event: restarted\ndata: {notice}\n\n");
            Known::new()
        }
        None => written(plane, &scope)?,
    };
    let positions = scope.positions(|id, stream| known.get(&(id, stream)).copied());
    let mut id = EventId {
        life,
        known: positions
            .iter()
            .map(|position| ((position.instance, position.stream), position.after_seq))
            .collect(),
    };
    let after_history = id.known.clone();
    let (mut history, mut sources) = (VecDeque::new(), Vec::new());
    // A client that connects again with its old address must not be told the past twice.
    if last.is_none() && query.limit > 0 {
        let (tail, of) = scope.tail_query(query.limit, query.since_ms, query.grep.clone());
        history = plane.tail(&tail)?.lines.into();
        sources = of;
        // Lines written since the positions were taken come with the live ones.
        history.retain(|line| {
            let source = sources.get(line.target);
            let until = source.and_then(|of| after_history.get(&(of.id, of.stream)));
            line.seq.is_none() || line.seq <= until.copied()
        });
        for line in history.iter().rev() {
            if let (Some(of), Some(seq)) = (sources.get(line.target), line.seq) {
                id.known.insert((of.id, of.stream), seq.saturating_sub(1));
            }
        }
    }
    Ok(Begun {
        follower: plane.follow(scope.filter, positions)?,
        opening,
        history,
        sources,
        id,
        after_history,
    })
}

/// The numbers of the lines written last. A file's lines are numbered whether they could be written or not.
fn written(plane: &LogPlane, scope: &Scope) -> Result<Known, LogError> {
    let stats = plane.stats().blocking_recv().map_err(|_| LogError::Ended)?;
    let number = |source: &Source| {
        let sink = stats
            .sinks
            .iter()
            .find(|sink| sink.path.is_some() && sink.path == source.path)?;
        Some(((source.id, source.stream), sink.lines + sink.dropped_lines))
    };
    Ok(scope.sources.iter().filter_map(number).collect())
}

/// A follower's lines on their way to its connection.
struct Feed {
    follower: Follower,
    /// How far the client has come with what was made for it.
    id: EventId,
    /// What is known once the history is told.
    after_history: Known,
    history: VecDeque<LogLine>,
    /// Of the history's targets.
    sources: Vec<Source>,
    /// The streams there were when it began.
    all: Vec<Source>,
    opening: Option<String>,
    /// A batch that is not told to its end: from which byte on, and which line that is.
    pending: Option<(Arc<Batch>, usize, u64)>,
    grep: Option<Regex>,
    text: bool,
    /// Lines alone, without events around them.
    plain: bool,
    sent_at: Instant,
    closing: CancellationToken,
    _seat: OwnedSemaphorePermit,
}

impl Feed {
    /// The next piece of the stream; `None` when the daemon, or the listener, ends.
    async fn next(&mut self) -> Option<String> {
        loop {
            let chunk = match self.opening.take() {
                Some(opening) => opening,
                None => self.tell_history(),
            };
            let chunk = if chunk.is_empty() {
                self.tell_pending()
            } else {
                chunk
            };
            if !chunk.is_empty() {
                self.sent_at = Instant::now();
                return Some(chunk);
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return None,
                () = tokio::time::sleep_until(self.sent_at + HEARTBEAT) => {
                    self.sent_at = Instant::now();
                    if self.plain {
                        continue;
                    }
                    return Some(": heartbeat\n\n".to_owned());
                }
                item = self.follower.recv() => match item? {
                    FollowItem::Lines(batch) => {
                        let first = batch.first_seq;
                        self.pending = Some((batch, 0, first));
                    }
                    FollowItem::Missed(lines) => {
                        self.sent_at = Instant::now();
                        if self.plain {
                            return Some(format!("[fornax: {lines} lines were missed here]\n"));
                        }
                        return Some(format!("event: missed\ndata: {}\n\n", json!({"lines": lines})));
                    }
                },
            }
        }
    }

    /// Some of the history; nothing once it is told.
    fn tell_history(&mut self) -> String {
        let mut out = String::new();
        while out.len() < CHUNK {
            let Some(line) = self.history.pop_front() else {
                break;
            };
            let Some(source) = self.sources.get(line.target) else {
                continue;
            };
            if let Some(seq) = line.seq {
                self.id.known.insert((source.id, source.stream), seq);
            }
            if self.history.is_empty() {
                self.id.known = std::mem::take(&mut self.after_history);
            }
            if let Some(told) = ToldLine::of(&line, &self.sources) {
                self.write(&mut out, &told);
            }
        }
        out
    }

    fn write(&self, out: &mut String, told: &ToldLine<'_>) {
        if self.plain {
            out.push_str(&told.line);
            out.push('\n');
        } else {
            event(out, &self.id, told, self.text);
        }
    }

    /// Some of the batch; nothing if it has no line that is wanted.
    fn tell_pending(&mut self) -> String {
        let mut out = String::new();
        let Some((batch, mut from, mut seq)) = self.pending.take() else {
            return out;
        };
        let (id, stream) = (batch.instance, batch.stream);
        let source = self
            .all
            .iter()
            .find(|of| of.id == id && of.stream == stream);
        let service = source.map_or(&*batch.name, |of| &*of.service);
        while from < batch.text.len() && out.len() < CHUNK {
            let rest = &batch.text[from..];
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let line = rest[..end].strip_suffix(b"\n").unwrap_or(&rest[..end]);
            self.id.known.insert((id, stream), seq);
            from += end;
            let kept = &line[..line.len().min(LINE_BYTES)];
            if self.grep.as_ref().is_none_or(|grep| grep.is_match(kept)) {
                let told = ToldLine {
                    service: Some(service),
                    pm_id: Some(id),
                    stream: Some(stream),
                    line: cut(line),
                    at: Some(answer::iso(batch.at_ms)),
                    seq: Some(seq),
                };
                self.write(&mut out, &told);
            }
            seq += 1;
        }
        if from < batch.text.len() {
            self.pending = Some((batch, from, seq));
        }
        out
    }
}

/// A line as text, cut where a tail would cut it.
fn cut(line: &[u8]) -> std::borrow::Cow<'_, str> {
    if line.len() <= LINE_BYTES {
        return String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    }
    let more = line.len() - LINE_BYTES;
    format!(
        "{} [fornax: {more} bytes more]",
        String::from_utf8_lossy(&line[..LINE_BYTES])
    )
    .into()
}

/// One event. Writing to a String cannot fail.
fn event(out: &mut String, id: &EventId, line: &ToldLine<'_>, text: bool) {
    let _ = writeln!(out, "id: {id}");
    if text {
        // A line end inside would end the field; there is none but a carriage return.
        for part in line.line.split('\r') {
            let _ = writeln!(out, "data: {part}");
        }
    } else {
        let told = serde_json::to_string(line).unwrap_or_default();
        let _ = writeln!(out, "data: {told}");
    }
    out.push('\n');
}
