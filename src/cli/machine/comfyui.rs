//! `fornax comfyui ecosystem`, and the way to `fornax comfyui models`.

use super::models::{self, ModelsArgs};
use super::targets::{self, BareNumber, TargetArgs};
use crate::cli::session::print;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// What is asked about ComfyUI.
#[derive(Debug, Args)]
pub struct ComfyuiArgs {
    #[command(subcommand)]
    command: ComfyuiCommand,
}

#[derive(Debug, Subcommand)]
enum ComfyuiCommand {
    /// Print the PM2-style ecosystem file of one ComfyUI per GPU.
    Ecosystem {
        #[command(flatten)]
        target: TargetArgs,
        /// So many GPUs (2), or these (0,1).
        #[arg(long, value_name = "N|LIST")]
        gpus: Option<String>,
    },
    /// The models that all instances share.
    Models(ModelsArgs),
}

/// Runs it.
pub fn run(args: &ComfyuiArgs) -> anyhow::Result<ExitCode> {
    let (target, gpus) = match &args.command {
        ComfyuiCommand::Ecosystem { target, gpus } => (target, gpus),
        ComfyuiCommand::Models(args) => return models::run(args),
    };
    let workspace = targets::workspace(target)?;
    let chosen = targets::targets(target, gpus.as_deref(), BareNumber::Count, &workspace)?;
    let value = targets::ecosystem(target, chosen, &workspace)?;
    print(&format!("{value:#}\n"));
    Ok(ExitCode::SUCCESS)
}
