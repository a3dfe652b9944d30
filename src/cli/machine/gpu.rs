//! `fornax gpu list`.

use crate::cli::session::print;
use crate::comfyui::workspace::Workspace;
use crate::gpu::{lease, render};
use clap::{Args, Subcommand};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// What is asked about GPUs.
#[derive(Debug, Args)]
pub struct GpuArgs {
    #[command(subcommand)]
    command: GpuCommand,
}

#[derive(Debug, Subcommand)]
enum GpuCommand {
    /// The GPUs, what they do, and who owns them.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// N simulated GPUs instead of the machine's.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        simulate: Option<u32>,
        /// The workspace that simulated GPUs belong to.
        #[arg(long, value_name = "DIR")]
        workspace: Option<PathBuf>,
    },
}

/// Prints them. No GPU is no failure: it is said plainly.
pub fn run(args: &GpuArgs) -> anyhow::Result<ExitCode> {
    let GpuCommand::List {
        json,
        simulate,
        workspace,
    } = &args.command;
    let env = |name: &str| std::env::var_os(name);
    let inventory = match simulate {
        Some(_) => {
            super::targets::inventory(*simulate, &Workspace::resolve(workspace.as_deref(), &env)?)
        }
        None => crate::gpu::inventory::detect(),
    };
    let inventory = match lease::directory(&env) {
        Ok(folder) => inventory.with_leases(&folder),
        Err(_) => inventory,
    };
    if *json {
        print(&format!("{}\n", serde_json::to_string_pretty(&inventory)?));
    } else {
        print(&render::table(&inventory, std::io::stdout().is_terminal()));
    }
    Ok(ExitCode::SUCCESS)
}
