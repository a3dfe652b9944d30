//! Outputs on their way to the disk: what many jobs have written meanwhile goes there together.
//!
//! A file, its folder and the folder above are brought to the disk by the first sync that comes after them, on the file systems
//! that we know; those behind it find nothing left to do. So all are renamed to their place first, and synced then.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::{mpsc, oneshot};

/// Jobs whose outputs wait for a sync; further ones wait to wait.
const WAITING: usize = 256;

/// One job's files, at their place.
struct Written {
    files: Vec<PathBuf>,
    folder: PathBuf,
    synced: oneshot::Sender<io::Result<()>>,
}

/// To whoever syncs. Cheap to clone; it ends with the last one.
#[derive(Debug, Clone)]
pub(super) struct Syncs(mpsc::Sender<Written>);

impl Syncs {
    /// Starts the task. Within a runtime.
    pub fn start() -> Self {
        let (orders, mut inbox) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while inbox.recv_many(&mut batch, WAITING).await > 0 {
                let all = std::mem::take(&mut batch);
                // An error means that it panicked: whoever waits is told by the end of his channel.
                drop(tokio::task::spawn_blocking(move || sync(all)).await);
            }
        });
        Self(orders)
    }

    /// Brings files, the folder they are in, and its name to the disk.
    pub async fn sync(&self, files: Vec<PathBuf>, folder: PathBuf) -> io::Result<()> {
        let (synced, waiting) = oneshot::channel();
        let ended = || io::Error::other("whoever brings outputs to the disk has ended");
        let written = Written {
            files,
            folder,
            synced,
        };
        self.0.send(written).await.map_err(|_| ended())?;
        waiting.await.map_err(|_| ended())?
    }
}

fn sync(all: Vec<Written>) {
    let one = |path: &Path| File::open(path)?.sync_all();
    let mut done: Vec<(oneshot::Sender<io::Result<()>>, io::Result<()>)> = Vec::new();
    let mut above = BTreeSet::new();
    for written in all {
        let files = written.files.iter().try_for_each(|file| one(file));
        let result = files.and_then(|()| one(&written.folder));
        above.extend(written.folder.parent().map(Path::to_owned));
        done.push((written.synced, result));
    }
    let names = above.iter().try_for_each(|folder| one(folder));
    for (synced, result) in done {
        let names = match &names {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // Whoever asked may have gone.
        drop(synced.send(result.and(names)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_job_is_told_of_its_own_files() {
        let folder = tempfile::tempdir().unwrap();
        let syncs = Syncs::start();
        let good = folder.path().join("good");
        std::fs::create_dir(&good).unwrap();
        std::fs::write(good.join("a.png"), "x").unwrap();
        let lost = folder.path().join("lost");
        let (first, second) = tokio::join!(
            syncs.sync(vec![good.join("a.png")], good.clone()),
            syncs.sync(vec![lost.join("b.png")], lost.clone())
        );
        assert!(first.is_ok());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
