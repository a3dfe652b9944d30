//! Staying in the foreground: logs to the terminal, signals to the machine, for containers.

use crate::cli::cmd::{daemon, logs};
use crate::cli::render::logs::Mode;
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use std::process::ExitCode;
use std::time::Duration;

/// Shows the logs until a signal comes or the daemon ends; then everything is stopped.
pub fn stay(session: &mut Session, signals: &Signals) -> anyhow::Result<ExitCode> {
    signals.reap_orphans();
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
