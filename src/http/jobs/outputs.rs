//! `/jobs/{id}/outputs/{name}`: a file of a job that is done.

use super::super::answer::{self, shown};
use super::super::app::App;
use super::super::problem::Problem;
use super::routes::{find, known_form};
use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use futures_util::stream;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// Read at once, in bytes.
const PIECE: usize = 256 << 10;

/// `GET /jobs/{id}/outputs/{name}`. Only names that the job's record lists are looked for.
pub(in crate::http) async fn output(
    State(app): State<Arc<App>>,
    method: Method,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Problem> {
    let Path((id, name)) =
        path.map_err(|rejection| Problem::parameter("name", rejection.body_text()))?;
    known_form(&id)?;
    let record = find(&app, &id).await?;
    let none = || Problem::Output {
        id: id.clone(),
        name: shown(&name),
    };
    let known = record
        .outputs
        .iter()
        .find(|output| output.name == name)
        .ok_or_else(none)?;
    let path = app.jobs.folders().outputs(&id).join(&known.name);
    let opened = tokio::task::spawn_blocking(move || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok::<_, io::Error>((file, length))
    });
    let (file, length) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        Ok(Err(error)) => return Err(Problem::Disk(error.to_string())),
        Err(error) => return Err(Problem::Disk(error.to_string())),
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(stream::try_unfold(file, piece))
    };
    let mut response = answer::with_type(StatusCode::OK, media_type(&known.name), body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    // What a node has written is not ours: it is shown or saved, never run.
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    if !is_shown(&known.name) {
        headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    }
    Ok(response)
}

async fn piece(mut file: File) -> io::Result<Option<(Bytes, File)>> {
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece)?;
        piece.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(piece), file)))
    });
    read.await.map_err(io::Error::other)?
}

fn ending(name: &str) -> String {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    ending.to_ascii_lowercase()
}

/// By its ending; what is not known is bytes.
fn media_type(name: &str) -> &'static str {
    match ending(name).as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "flac" => "audio/flac",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Browsers show these without running anything.
fn is_shown(name: &str) -> bool {
    let media = media_type(name);
    ["image/", "video/", "audio/", "text/plain"]
        .iter()
        .any(|kind| media.starts_with(kind))
}
