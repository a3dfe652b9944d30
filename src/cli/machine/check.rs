//! `fornax check FILE`: what the apps come out as, or what is wrong, by file, line and key.

use crate::cli::program;
use crate::cli::session::{Session, print};
use crate::cli::start_context;
use crate::config::{self, CheckOptions};
use crate::core::spec::context::Origin;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The ecosystem file.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Use env_<NAME> blocks.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// Show whole environments, not only what the file sets.
    #[arg(long)]
    whole_env: bool,
}

/// Prints the report. Exit code 0 if there is no problem, else 1.
pub fn run(session: &Session, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut context = start_context::gather(session, &program::no_options(), Origin::Config, &[])?;
    context.env_name.clone_from(&args.env);
    let report = config::check(
        &args.file,
        &CheckOptions {
            context,
            whole_env: args.whole_env,
        },
    );
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    } else if report.ok {
        print(&format!("{report}\n"));
    } else {
        eprintln!("{report}");
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
