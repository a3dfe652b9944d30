//! Compresses rotated files, one at a time, on a thread that ends with its file.

use super::command::{Command, Mailbox};
use flate2::{Compression, write::GzEncoder};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The thread, while there is one. Owner: the engine.
#[derive(Debug, Default)]
pub(super) struct Zipper {
    running: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Zipper {
    /// Whether a file is being compressed.
    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Begins to compress `source` into `target`; the end is told as [`Command::Zipped`]. `false`: it could not begin.
    pub fn start(
        &mut self,
        mailbox: &Mailbox,
        sink: u64,
        file_no: u64,
        source: &Path,
        target: PathBuf,
    ) -> bool {
        // Opened here, by the thread that renames: the name is right now and need not be later.
        let Ok(source) = File::open(source) else {
            return false;
        };
        let (mailbox, stop) = (mailbox.clone(), Arc::clone(&self.stop));
        let work = move || {
            let done = match compress(source, &target, &stop) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(path = ?target, %error, "a rotated log file stays uncompressed");
                    false
                }
            };
            // The plane may have ended meanwhile.
            let _ = mailbox.send(Command::Zipped {
                sink,
                file_no,
                done,
            });
        };
        self.running = std::thread::Builder::new()
            .name("fornax-gzip".to_owned())
            .spawn(work)
            .ok();
        self.running.is_some()
    }

    /// Takes note that the thread has told its end.
    pub fn ended(&mut self) {
        if let Some(thread) = self.running.take() {
            // It catches no panics of its own: one is told on stderr by the runtime.
            let _ = thread.join();
        }
    }

    /// Ends the thread early; what it was at stays uncompressed.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ended();
    }
}

fn compress(mut source: File, target: &Path, stop: &AtomicBool) -> io::Result<()> {
    let meta = source.metadata()?;
    let mut zip = GzEncoder::new(File::create(target)?, Compression::default());
    let mut block = vec![0; 64 << 10];
    loop {
        let read = source.read(&mut block)?;
        if read == 0 {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            std::fs::remove_file(target)?;
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        io::Write::write_all(&mut zip, &block[..read])?;
    }
    let file = zip.finish()?;
    file.set_permissions(meta.permissions())?;
    file.set_modified(meta.modified()?)?;
    file.sync_all()
}
