//! Signals of a program that stays in the foreground, and, as process 1, the orphans that it inherits.

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// SIGINT, SIGTERM and SIGQUIT, caught by a thread.
pub struct Signals {
    /// The first one's number; 0: none has come.
    came: Arc<AtomicU8>,
    reaps: Arc<AtomicBool>,
    receiver: Receiver<()>,
}

impl Signals {
    /// From now on a signal does not end this process.
    pub fn watch() -> anyhow::Result<Self> {
        let (came, reaps) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let (sender, receiver) = sync_channel(1);
        let (ready_sender, ready) = sync_channel(1);
        let (flag, may_reap) = (Arc::clone(&came), Arc::clone(&reaps));
        std::thread::Builder::new()
            .name("fornax-signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build();
                let wait = async {
                    let kinds = [
                        SignalKind::interrupt(),
                        SignalKind::terminate(),
                        SignalKind::quit(),
                        SignalKind::child(),
                    ];
                    let signals: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
                    // The starter waits for this word, or for our end.
                    let _ = ready_sender.send(signals.is_ok());
                    let Ok(mut signals) = signals else { return };
                    let [interrupt, terminate, quit, child] = signals.as_mut_slice() else {
                        return;
                    };
                    let number = loop {
                        tokio::select! {
                            _ = interrupt.recv() => break Signal::SIGINT as u8,
                            _ = terminate.recv() => break Signal::SIGTERM as u8,
                            _ = quit.recv() => break Signal::SIGQUIT as u8,
                            _ = child.recv() => if may_reap.load(Ordering::Acquire) { reap() },
                        }
                    };
                    flag.store(number, Ordering::Relaxed);
                    // Nobody waits when everything is being taken down already.
                    let _ = sender.send(());
                    // What is taken down now leaves orphans too.
                    while child.recv().await.is_some() {
                        if may_reap.load(Ordering::Acquire) {
                            reap();
                        }
                    }
                };
                if let Ok(runtime) = runtime {
                    runtime.block_on(wait);
                }
            })
            .context("cannot start the signal thread")?;
        match ready.recv() {
            Ok(true) => Ok(Self {
                came,
                reaps,
                receiver,
            }),
            Ok(false) | Err(_) => anyhow::bail!("cannot handle signals"),
        }
    }

    /// As process 1, from now on: every child that ends is reaped, since orphans of others become ours. To be called when
    /// no child of our own is waited for any more.
    pub fn reap_orphans(&self) {
        if std::process::id() == 1 {
            self.reaps.store(true, Ordering::Release);
            // Those that ended before.
            reap();
        }
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.number() != 0
    }

    /// The number of the first one; 0: none has come.
    pub fn number(&self) -> u8 {
        self.came.load(Ordering::Relaxed)
    }

    /// Waits for one, at most so long. `true` if it came.
    pub fn wait(&self, limit: Duration) -> bool {
        self.came() || self.receiver.recv_timeout(limit).is_ok()
    }
}

/// Takes every zombie away.
fn reap() {
    // ECHILD, as any other failure, means that there is none.
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
