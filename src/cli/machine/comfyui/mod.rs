//! `fornax comfyui …`.

mod edit;
mod install;
mod nodes;
mod rollout;
mod show;

use super::models::{self, ModelsArgs};
use super::targets::{self, BareNumber, TargetArgs};
use crate::cli::session::{Session, print};
use clap::{Args, Subcommand};
use std::process::ExitCode;

pub use install::{Found, found};

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
    /// Install ComfyUI, its Python environment and its custom nodes, as fornax.json says. Changes nothing if that is done.
    Install(install::InstallArgs),
    /// What is installed, and whether it is what is wanted.
    Status(install::PlaceArgs),
    /// Prove what is installed: the tree against what was installed, and every import.
    Validate(install::PlaceArgs),
    /// Fetch the newest of everything without a commit of its own, beside what runs; one idle instance tries it, then the others take it one by one between jobs.
    Update(install::UpdateArgs),
    /// Go back to the last good build, one instance after the other between jobs; again goes forth.
    Rollback(install::RollbackArgs),
    /// Remove the build to roll back to, and what installs that were cut off have left.
    Clean(install::PlaceArgs),
    /// Custom nodes.
    Nodes(nodes::NodesArgs),
    /// The models that all instances share.
    Models(ModelsArgs),
}

/// Does it.
pub fn run(session: &mut Session, args: &ComfyuiArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ComfyuiCommand::Ecosystem { target, gpus } => {
            let workspace = targets::workspace(target)?;
            let machine = targets::machine(&workspace)?;
            // A setting is a list of indices; on the command line a bare number is a count here.
            let bare = match gpus {
                Some(_) => BareNumber::Count,
                None => BareNumber::Index,
            };
            let (target, gpus) = target.settled(gpus.as_deref(), &machine);
            let chosen = targets::targets(&target, gpus.as_deref(), bare, &workspace)?;
            let value = targets::ecosystem(&target, chosen, &workspace, &machine, false)?;
            print(&format!("{value:#}\n"));
            Ok(ExitCode::SUCCESS)
        }
        ComfyuiCommand::Install(args) => install::install(args),
        ComfyuiCommand::Status(args) => install::status(args),
        ComfyuiCommand::Validate(args) => install::validate(args),
        ComfyuiCommand::Update(args) => install::update(session, args),
        ComfyuiCommand::Rollback(args) => install::rollback(session, args),
        ComfyuiCommand::Clean(args) => install::clean(args),
        ComfyuiCommand::Nodes(args) => nodes::run(args),
        ComfyuiCommand::Models(args) => models::run(args),
    }
}
