//! `/logs` and `/services/{name}/logs`: the last lines, from disk.

use super::app::{App, Caller};
use super::health::service_name;
use super::problem::Problem;
use super::query::LogQuery;
use super::sources::{Scope, ToldLine};
use super::{answer, follow, services};
use crate::adapters::logs::{LogError, LogPlane};
use axum::Extension;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The most text of one answer, in bytes; older lines are left out, and the answer says that it is incomplete.
const ANSWER_BYTES: usize = 8 << 20;
/// How long a request waits for its turn to read.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// `GET /services/{name}/logs`.
pub(super) async fn of_service(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = services::find(&app.handle.snapshot(), &service_name(name)?)?;
    let query = LogQuery::read(&uri, &headers, answer::now_ms())?;
    let scope = Scope::of(found, query.stream);
    answer(&app, caller, scope, query, &method, &headers).await
}

/// `GET /logs`.
pub(super) async fn of_all(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = LogQuery::read(&uri, &headers, answer::now_ms())?;
    let all = services::list(&app.handle.snapshot());
    let scope = Scope::all(&all, query.stream);
    answer(&app, caller, scope, query, &method, &headers).await
}

pub(super) async fn answer(
    app: &App,
    caller: Caller,
    scope: Scope,
    query: LogQuery,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    if query.follow {
        return follow::answer(app, caller, scope, query, method, headers).await;
    }
    let told = blocking(app, move |plane| lines(plane, &scope, &query)).await??;
    let mut response = answer::with_type(StatusCode::OK, told.media_type, told.body);
    if !told.complete {
        response
            .headers_mut()
            .insert("x-fornax-complete", HeaderValue::from_static("false"));
    }
    Ok(response)
}

/// Does what reads disks on a thread of its own, at its turn.
pub(super) async fn blocking<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&LogPlane) -> T + Send + 'static,
) -> Result<T, Problem> {
    let turn = Arc::clone(&app.readers).acquire_owned();
    let Ok(Ok(turn)) = tokio::time::timeout(TURN_WITHIN, turn).await else {
        return Err(Problem::Busy);
    };
    let plane = app.handle.plane.clone();
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&plane)
    });
    // It fails only when the runtime ends.
    done.await.map_err(|_| Problem::Logs(LogError::Ended))
}

struct Told {
    media_type: &'static str,
    body: String,
    complete: bool,
}

/// Reads and writes the answer. Blocking.
fn lines(plane: &LogPlane, scope: &Scope, query: &LogQuery) -> Result<Told, LogError> {
    let (tail, sources) = scope.tail_query(query.limit, query.since_ms, query.grep.clone());
    let found = plane.tail(&tail)?;
    let mut bytes = 0;
    let kept = found.lines.iter().rev().take_while(|line| {
        bytes += line.text.len() + 1;
        bytes <= ANSWER_BYTES
    });
    let from = found.lines.len() - kept.count();
    let lines = &found.lines[from..];
    let complete = found.complete && from == 0;
    if query.text {
        let mut body = String::with_capacity(lines.iter().map(|line| line.text.len() + 1).sum());
        for line in lines {
            body.push_str(&line.text);
            body.push('\n');
        }
        return Ok(Told {
            media_type: "text/plain; charset=utf-8",
            body,
            complete,
        });
    }
    let told: Vec<ToldLine<'_>> = lines
        .iter()
        .filter_map(|line| ToldLine::of(line, &sources))
        .collect();
    let head = json!({
        "service": scope.name,
        "count": told.len(),
        "limit": query.limit,
        "complete": complete,
        "timestamp": answer::timestamp(),
    });
    // Lines of text serialise without fail.
    let logs = serde_json::to_string(&told).unwrap_or_else(|_| "[]".to_owned());
    let head = head.to_string();
    let inside = head.trim_end_matches('}');
    Ok(Told {
        media_type: "application/json",
        body: format!("{inside},\"logs\":{logs}}}\n"),
        complete,
    })
}
