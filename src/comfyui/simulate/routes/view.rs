//! `GET /view`: the bytes of one picture, and nothing outside the three directories.

use crate::comfyui::simulate::places::{self, BadName};
use crate::comfyui::simulate::shared::Shared;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The largest file served, in bytes; it is read as a whole.
const LARGEST: u64 = 256 * 1024 * 1024;

/// `preview` and `channel` are accepted; the file's own bytes are the answer.
pub(super) async fn view(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let get = |name: &str| query.get(name).map(String::as_str);
    let Some(filename) = get("filename") else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Some(root) = shared.places.of_type(get("type").unwrap_or("output")) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let path = match places::inside(root, get("subfolder").unwrap_or_default(), filename) {
        Ok(path) => path,
        Err(BadName::Name) => return StatusCode::BAD_REQUEST.into_response(),
        Err(BadName::Outside) => return StatusCode::FORBIDDEN.into_response(),
    };
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().replace(['"', '\\', '\r', '\n'], "_"))
        .unwrap_or_default();
    let kind = content_type(&path);
    match tokio::task::spawn_blocking(move || read(&path)).await {
        Ok(Ok(bytes)) => {
            let disposition = format!("filename=\"{name}\"");
            let headers = [
                (header::CONTENT_TYPE, kind.to_owned()),
                (header::CONTENT_DISPOSITION, disposition),
            ];
            (headers, bytes).into_response()
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
            StatusCode::PAYLOAD_TOO_LARGE.into_response()
        }
        Ok(Err(_)) | Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if metadata.len() > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read(path)
}

fn content_type(path: &Path) -> &'static str {
    match path
        .extension()
        .and_then(|extension| extension.to_str())
        .map(str::to_ascii_lowercase)
        .as_deref()
    {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        Some("mp4") => "video/mp4",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
