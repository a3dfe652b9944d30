//! Fornax's own commands: the machine as one thing.

pub mod check;
pub mod comfyui;
pub mod down;
mod foreground;
pub mod gpu;
mod http;
mod job_bar;
pub mod jobs;
pub mod models;
pub mod progress;
pub mod run_job;
pub mod status;
pub mod takeover;
mod targets;
pub mod up;
mod worker;

use super::program;
use super::session::Session;
use crate::comfyui::simulate;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// What is shown below PM2's help.
pub const HELP: &str = "
Fornax's own commands:
  up                 run one ComfyUI per GPU (--simulate N without any GPU), and wait until all are healthy
  down               stop everything and the daemon
  status             machine, GPUs and services at a glance
  run WORKFLOW       run a ComfyUI workflow as a job, with --set NODE.INPUT=VALUE, and save its outputs to -o DIR
  jobs               list, show and cancel jobs
  drain NAME         finish its running job and take no more (--undo: take jobs again)
  wait NAME          until it is healthy (--timeout 60s)
  worker --redis URL take jobs for this machine from a queue in Redis, which several machines may share
  check FILE         what an ecosystem file's apps come out as, or what is wrong with it
  takeover           move the apps of a running PM2 to Fornax
  gpu list           the GPUs, and who owns them
  comfyui install    install ComfyUI and its custom nodes as fornax.json says; also status, validate, update, rollback, clean, nodes
  comfyui ecosystem  print the ecosystem file of one ComfyUI per GPU
  comfyui models     list, pull, verify, gc: the models that all instances share
  simulate           a server that speaks ComfyUI's HTTP and websocket

Examples:
  fornax up --simulate 2
  fornax start app.js --name web
  fornax logs comfyui-gpu0
";

/// Fornax's own commands.
#[derive(Debug, Parser)]
#[command(name = "fornax", disable_help_subcommand = true)]
struct Ours {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one ComfyUI per GPU and wait until all are healthy.
    Up(Box<up::UpArgs>),
    /// Stop everything that runs, and the daemon.
    Down(down::DownArgs),
    /// The machine, its GPUs and its services at a glance.
    Status(status::StatusArgs),
    /// Run a ComfyUI workflow as a job, and save its outputs.
    Run(Box<run_job::RunArgs>),
    /// List, show and cancel jobs.
    Jobs(jobs::JobsArgs),
    /// Finish the running job of an instance and take no more.
    Drain(jobs::DrainArgs),
    /// Wait until services are healthy.
    Wait(jobs::WaitArgs),
    /// Take jobs for this machine from a queue in Redis.
    Worker(Box<worker::WorkerArgs>),
    /// What an ecosystem file's apps come out as, or what is wrong with it.
    Check(check::CheckArgs),
    /// Move the apps of a running PM2 to Fornax.
    Takeover(takeover::TakeoverArgs),
    /// GPUs.
    Gpu(gpu::GpuArgs),
    /// ComfyUI.
    Comfyui(comfyui::ComfyuiArgs),
    /// A server that speaks ComfyUI's HTTP and websocket.
    Simulate(Box<SimulateArgs>),
}

#[derive(Debug, Args)]
struct SimulateArgs {
    #[command(flatten)]
    options: simulate::SimulateOptions,
}

/// Whether a word is a command of ours. `status` is PM2's too; called as `fornax` it is ours.
pub fn is_ours(word: &str) -> bool {
    matches!(
        word,
        "up" | "down"
            | "status"
            | "run"
            | "jobs"
            | "drain"
            | "wait"
            | "worker"
            | "check"
            | "takeover"
            | "gpu"
            | "comfyui"
            | "simulate"
    )
}

/// Runs one of our commands.
pub fn run(words: &[String], rest: &[String]) -> anyhow::Result<ExitCode> {
    let all = std::iter::once("fornax".to_owned()).chain(words.iter().cloned());
    let parsed = Ours::command()
        .try_get_matches_from(all)
        .and_then(|matches| Ours::from_arg_matches(&matches));
    let ours = match parsed {
        Ok(ours) => ours,
        // clap's own exit codes: 0 for help, 2 for misuse.
        Err(error) => error.exit(),
    };
    match ours.command {
        Command::Up(args) => up::run(&mut plain_session(), &args, rest),
        Command::Down(args) => down::run(&mut plain_session(), &args),
        Command::Status(args) => status::run(&mut plain_session(), &args),
        Command::Run(args) => run_job::run(&mut plain_session(), &args),
        Command::Jobs(args) => jobs::run(&mut plain_session(), args),
        Command::Drain(args) => jobs::drain(&mut plain_session(), &args),
        Command::Wait(args) => jobs::wait(&mut plain_session(), &args),
        Command::Worker(args) => worker::run(&mut plain_session(), &args),
        Command::Check(args) => check::run(&plain_session(), &args),
        Command::Takeover(args) => takeover::run(&mut plain_session(), &args),
        Command::Gpu(args) => gpu::run(&args),
        Command::Comfyui(args) => comfyui::run(&mut plain_session(), &args),
        Command::Simulate(args) => Ok(simulate::run(args.options)),
    }
}

fn plain_session() -> Session {
    program::session(&program::no_options())
}
