//! `fornax down`: everything stopped, nothing left behind.

use crate::cli::cmd::daemon;
use crate::cli::session::Session;
use clap::Args;
use std::process::ExitCode;

/// Options of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {}

/// Stops every app by its own ladder, then the daemon.
pub fn run(session: &mut Session, _: &DownArgs) -> anyhow::Result<ExitCode> {
    if session.running_daemon()?.is_none() {
        session.output.done("nothing runs");
        return Ok(ExitCode::SUCCESS);
    }
    daemon::kill(session)?;
    Ok(ExitCode::SUCCESS)
}
