//! Files of a job that is being read: into the store's folder, piece by piece; they go again if the job does not come to be.

use super::super::problem::Problem;
use crate::jobs::{Folders, Input, safe};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};

/// The most files of one job.
const FILES: usize = 64;
/// Written at once, in bytes.
const PIECE: usize = 1 << 20;

/// Files on their way. Dropped before they are kept, they are removed.
pub(super) struct Spool {
    folders: Folders,
    id: String,
    inputs: Vec<Input>,
    current: Option<Current>,
    kept: bool,
}

struct Current {
    input: Input,
    digest: Sha256,
    held: Vec<u8>,
    file: Option<File>,
}

impl Spool {
    /// For a job of this id.
    pub fn new(folders: Folders, id: String) -> Self {
        Self {
            folders,
            id,
            inputs: Vec::new(),
            current: None,
            kept: false,
        }
    }

    /// A file of this name follows.
    pub async fn begin(&mut self, name: &str) -> Result<(), Problem> {
        if name.is_empty() || name.len() > 200 {
            return Err(Problem::parameter("inputs", "a name has 1 to 200 bytes"));
        }
        if self.inputs.len() >= FILES {
            return Err(Problem::parameter(
                "inputs",
                format!("there are more than {FILES} files"),
            ));
        }
        if self.inputs.iter().any(|input| input.name == name) {
            return Err(Problem::parameter(
                "inputs",
                format!("`{name}` is given twice"),
            ));
        }
        let file = safe(name);
        let (folders, id, path) = (
            self.folders.clone(),
            self.id.clone(),
            self.folders.inputs(&self.id).join(&file),
        );
        let opened = blocking(move || {
            folders.make().map_err(io::Error::other)?;
            std::fs::create_dir_all(folders.inputs(&id))?;
            File::create(path)
        })
        .await?;
        self.current = Some(Current {
            input: Input {
                name: name.to_owned(),
                file,
                bytes: 0,
                digest: String::new(),
            },
            digest: Sha256::new(),
            held: Vec::new(),
            file: Some(opened),
        });
        Ok(())
    }

    /// A piece of it.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), Problem> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        current.digest.update(piece);
        current.input.bytes += piece.len() as u64;
        current.held.extend_from_slice(piece);
        if current.held.len() >= PIECE {
            current.flush(false).await?;
        }
        Ok(())
    }

    /// It is whole.
    pub async fn end(&mut self) -> Result<(), Problem> {
        if let Some(mut current) = self.current.take() {
            current.flush(true).await?;
            current.input.digest = hex(&current.digest.finalize());
            self.inputs.push(current.input);
        }
        Ok(())
    }

    /// SHA-256 of the graph and all files.
    pub fn digest(&self, workflow: &str) -> String {
        let mut digest = Sha256::new();
        digest.update(workflow.as_bytes());
        for input in &self.inputs {
            digest.update([0]);
            digest.update(input.name.as_bytes());
            digest.update([0]);
            digest.update(input.digest.as_bytes());
        }
        hex(&digest.finalize())
    }

    /// The files stay.
    pub fn keep(mut self) -> (String, Vec<Input>) {
        self.kept = true;
        (
            std::mem::take(&mut self.id),
            std::mem::take(&mut self.inputs),
        )
    }
}

impl Current {
    /// Hands over what is held; the last time, onto the disk.
    async fn flush(&mut self, last: bool) -> Result<(), Problem> {
        let (held, file) = (std::mem::take(&mut self.held), self.file.take());
        self.file = blocking(move || {
            let mut file = file.ok_or_else(|| io::Error::other("its file is closed"))?;
            file.write_all(&held)?;
            if last {
                file.sync_data()?;
            }
            Ok(file)
        })
        .await
        .map(Some)?;
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !self.kept && (self.current.is_some() || !self.inputs.is_empty()) {
            // A handful of small files at most; a failure leaves them to the next start's eye.
            let _ = std::fs::remove_dir_all(self.folders.inputs(&self.id));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other);
    done.and_then(|done| done)
        .map_err(|error| Problem::Disk(error.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
