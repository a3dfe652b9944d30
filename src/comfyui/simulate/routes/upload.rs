//! `POST /upload/image`: stores a file, under another name where that one is taken by other content.

use super::body::Denied;
use crate::comfyui::simulate::places;
use crate::comfyui::simulate::shared::Shared;
use axum::Json;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names tried for one upload; then it is refused.
const MOST_NAMES: u32 = 10_000;

/// The fields of the form.
#[derive(Default)]
struct Form {
    image: Option<(String, Bytes)>,
    overwrite: bool,
    kind: Option<String>,
    subfolder: String,
}

pub(super) async fn image(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Denied> {
    let form = read_form(request, shared.options.body_limit()).await?;
    let (name, bytes) = form
        .image
        .filter(|(name, _)| !name.is_empty())
        .ok_or(Denied::BadRequest)?;
    let kind = form.kind.unwrap_or_else(|| "input".into());
    let root = shared.places.of_type(&kind).ok_or(Denied::BadRequest)?;
    let path = places::inside(root, &form.subfolder, &name).map_err(|_| Denied::BadRequest)?;
    let overwrite = form.overwrite;
    let stored = tokio::task::spawn_blocking(move || store(&path, &bytes, overwrite)).await;
    match stored {
        Ok(Ok(name)) => Ok(
            Json(json!({"name": name, "subfolder": form.subfolder, "type": kind})).into_response(),
        ),
        Ok(Err(error)) => {
            shared
                .console
                .line(format!("cannot store the upload {name}: {error}"));
            Err(Denied::Broken)
        }
        Err(_) => Err(Denied::Broken),
    }
}

async fn read_form(request: Request, limit: usize) -> Result<Form, Denied> {
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|_| Denied::BadRequest)?;
    let (mut form, mut read) = (Form::default(), 0);
    while let Some(mut field) = parts.next_field().await.map_err(|_| Denied::BadRequest)? {
        let (name, filename) = (
            field.name().unwrap_or_default().to_owned(),
            field.file_name().map(str::to_owned),
        );
        let mut bytes = BytesMut::new();
        while let Some(chunk) = field.chunk().await.map_err(|_| Denied::BadRequest)? {
            read += chunk.len();
            if read > limit {
                return Err(Denied::TooLarge(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        match name.as_str() {
            "image" => form.image = filename.map(|filename| (filename, bytes.freeze())),
            "overwrite" => form.overwrite = matches!(text().as_str(), "true" | "1"),
            "type" => form.kind = Some(text()),
            "subfolder" => form.subfolder = text(),
            _ => {}
        }
    }
    Ok(form)
}

/// Stores the bytes and gives the name they have now: the wanted one if it is free or has the same content.
fn store(wanted: &Path, bytes: &[u8], overwrite: bool) -> io::Result<String> {
    if let Some(directory) = wanted.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let path = if overwrite {
        wanted.to_owned()
    } else {
        free_name(wanted, bytes)?
    };
    std::fs::write(&path, bytes)?;
    Ok(path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default())
}

fn free_name(wanted: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let (stem, extension) = (
        wanted.file_stem().unwrap_or_default().to_string_lossy(),
        wanted.extension(),
    );
    let extension = extension
        .map(|extension| format!(".{}", extension.to_string_lossy()))
        .unwrap_or_default();
    let mut path = wanted.to_owned();
    for number in 1..=MOST_NAMES {
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
            Ok(file) if file.len() == bytes.len() as u64 && std::fs::read(&path)? == bytes => {
                return Ok(path);
            }
            Ok(_) => path = wanted.with_file_name(format!("{stem} ({number}){extension}")),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
