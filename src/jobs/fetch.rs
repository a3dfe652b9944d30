//! Outputs on their way into the store: each whole and not empty, on disk, and only then all at their place.

use super::link::{self, Link};
use super::store::{Folders, Output, safe};
use super::syncs::Syncs;
use crate::comfyui::client::{ClientError, FileKind, FileRef};
use bytes::BytesMut;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

/// The largest output, in bytes.
const LARGEST: u64 = 16 << 30;
/// Written at once, in bytes.
const PIECE: usize = 1 << 20;
/// The most files of one job.
const FILES: usize = 1000;

/// Why outputs are not in the store.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum FetchError {
    /// The instance says that it made a file, and does not have it, or has it empty.
    #[error("{0}")]
    Missing(String),
    /// The instance cannot be asked.
    #[error("{0}")]
    Instance(String),
    /// Our own disk.
    #[error("cannot keep its outputs: {0}")]
    Disk(String),
}

/// Fetches all files of a prompt. What is there of the job from before is replaced.
pub(super) async fn fetch(
    link: &Link,
    folders: &Folders,
    syncs: &Syncs,
    job: &str,
    files: Vec<(String, FileRef)>,
) -> Result<Vec<Output>, FetchError> {
    let (arriving, place) = (folders.arriving(job), folders.outputs(job));
    let fresh = arriving.clone();
    blocking(move || {
        remove(&fresh)?;
        std::fs::create_dir_all(&fresh)
    })
    .await?;
    let (mut outputs, mut names): (Vec<Output>, HashSet<String>) = (Vec::new(), HashSet::new());
    for (node, file) in files.into_iter().take(FILES) {
        if file.kind == FileKind::Input {
            continue;
        }
        let mut name = safe(&file.filename);
        if !names.insert(name.clone()) {
            name = safe(&format!("{node}-{}-{name}", names.len()));
            names.insert(name.clone());
        }
        let bytes = one(link, &file, arriving.join(&name)).await?;
        if bytes == 0 {
            return Err(FetchError::Missing(format!(
                "the output `{}` is empty",
                file.filename
            )));
        }
        outputs.push(Output {
            name,
            node,
            kind: file.kind,
            bytes,
        });
    }
    let written = outputs
        .iter()
        .map(|output| place.join(&output.name))
        .collect();
    let there = place.clone();
    blocking(move || {
        remove(&place)?;
        std::fs::rename(&arriving, &place)
    })
    .await?;
    let synced = syncs.sync(written, there).await;
    synced.map_err(|error| FetchError::Disk(error.to_string()))?;
    Ok(outputs)
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, FetchError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(io::Error::other).and_then(|done| done);
    done.map_err(|error| FetchError::Disk(error.to_string()))
}

/// One file; from the instance, or from its folder if it does not answer any more. Tells its size.
async fn one(link: &Link, file: &FileRef, to: PathBuf) -> Result<u64, FetchError> {
    match download(link, file, &to).await {
        Err(FetchError::Instance(why)) => match local(link, file) {
            Some(from) => blocking(move || std::fs::copy(&from, &to)).await,
            None => Err(FetchError::Instance(why)),
        },
        done => done,
    }
}

async fn download(link: &Link, file: &FileRef, to: &Path) -> Result<u64, FetchError> {
    let failed = |error: ClientError| FetchError::Instance(error.to_string());
    let found = link.client.view(file, LARGEST).await.map_err(failed)?;
    let mut download = found.ok_or_else(|| {
        FetchError::Missing(format!(
            "the output `{}` is not there any more",
            file.filename
        ))
    })?;
    let to = to.to_owned();
    let mut writing: Option<File> = None;
    let (mut held, mut bytes) = (BytesMut::new(), 0);
    loop {
        let piece = download.next().await.map_err(failed)?;
        let last = piece.is_none();
        if let Some(piece) = piece {
            bytes += piece.len() as u64;
            held.extend_from_slice(&piece);
        }
        if last || held.len() >= PIECE {
            let (text, file, path) = (held.split().freeze(), writing.take(), to.clone());
            writing = Some(
                blocking(move || {
                    let mut file = match file {
                        Some(file) => file,
                        None => File::create(path)?,
                    };
                    file.write_all(&text)?;
                    Ok(file)
                })
                .await?,
            );
        }
        if last {
            break;
        }
    }
    match download.length {
        Some(length) if length != bytes => Err(FetchError::Missing(format!(
            "the output `{}` has {bytes} bytes of {length}",
            file.filename
        ))),
        _ => Ok(bytes),
    }
}

/// The file in the instance's folder of outputs, if that is on this machine.
fn local(link: &Link, file: &FileRef) -> Option<PathBuf> {
    let root = link
        .output
        .as_ref()
        .filter(|_| file.kind == FileKind::Output)?;
    let below = Path::new(&file.subfolder).join(&file.filename);
    let plain = below
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let path = root.join(below);
    (plain && path.is_file()).then_some(path)
}

/// Removes what an attempt has left with its instance: only a folder that we have named.
pub(super) fn sweep(output: Option<PathBuf>, prompt_id: &str) {
    let Some(folder) = output.map(|output| output.join(link::folder(prompt_id))) else {
        return;
    };
    if let Err(error) = remove(&folder) {
        tracing::debug!(?folder, %error, "cannot remove an attempt's outputs");
    }
}
