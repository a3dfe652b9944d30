//! Staying in the foreground: logs to the terminal, signals to the machine, for containers.

use crate::cli::cmd::{daemon, logs};
use crate::cli::render::logs::Mode;
use crate::cli::session::Session;
use anyhow::Context;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// SIGINT, SIGTERM and SIGQUIT, caught by a thread.
pub struct Signals {
    came: Arc<AtomicBool>,
    receiver: Receiver<()>,
}

impl Signals {
    /// From now on a signal does not end this process.
    pub fn watch() -> anyhow::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(1);
        let (ready_sender, ready) = sync_channel(1);
        let flag = Arc::clone(&came);
        std::thread::Builder::new()
            .name("fornax-signals".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
                let wait = async {
                    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()];
                    let [mut interrupt, mut terminate, mut quit] = kinds.map(signal);
                    let installed = interrupt.is_ok() && terminate.is_ok() && quit.is_ok();
                    // The starter waits for this word, or for our end.
                    let _ = ready_sender.send(installed);
                    if let (Ok(interrupt), Ok(terminate), Ok(quit)) = (&mut interrupt, &mut terminate, &mut quit) {
                        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = quit.recv() => {} }
                        flag.store(true, Ordering::Relaxed);
                        // Nobody waits when the machine is being taken down already.
                        let _ = sender.send(());
                    }
                };
                if let Ok(runtime) = runtime {
                    runtime.block_on(wait);
                }
            })
            .context("cannot start the signal thread")?;
        match ready.recv() {
            Ok(true) => Ok(Self { came, receiver }),
            Ok(false) | Err(_) => anyhow::bail!("cannot handle signals"),
        }
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Waits for one, at most so long. `true` if it came.
    pub fn wait(&self, limit: Duration) -> bool {
        self.came() || self.receiver.recv_timeout(limit).is_ok()
    }
}

/// Shows the logs until a signal comes or the daemon ends; then everything is stopped.
pub fn stay(session: &mut Session, signals: &Signals) -> anyhow::Result<ExitCode> {
    let mut follower = Session::new(session.home.clone(), session.output);
    std::thread::Builder::new()
        .name("fornax-follow".to_owned())
        .spawn(move || {
            // It ends with the daemon or with this process.
            let _ = logs::follow_all(&mut follower, Mode::Prefixed);
        })?;
    while !signals.wait(Duration::from_millis(500)) {
        if session.home.pid_file().exists() {
            continue;
        }
        session
            .output
            .error("the daemon has ended; see pm2.log in PM2_HOME");
        return Ok(ExitCode::FAILURE);
    }
    // The daemon may be another one by now.
    session.disconnect();
    daemon::kill(session)?;
    Ok(ExitCode::SUCCESS)
}
