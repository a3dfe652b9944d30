//! `deploy`: a git repository on other machines, by ssh, or on this one (pm2 7.0.4, spec 6.14).

mod script;
mod target;

use super::session::{Output, Session, Told};
use crate::config;
use crate::core::spec::context::Host;
use anyhow::{Context, bail};
use script::Job;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use target::Target;

/// Files that are looked for when none is named, in PM2's order.
const FILES: [&str; 8] = [
    "ecosystem.json",
    "ecosystem.yml",
    "ecosystem.yaml",
    "ecosystem.config.js",
    "ecosystem.config.cjs",
    "ecosystem.config.mjs",
    "ecosystem.json5",
    "package.json",
];

/// What reads the script on another machine, as the shell that logs in there is told it. Hooks are mostly written for bash
/// (`source ~/.nvm/nvm.sh`).
const SHELL_THERE: &str = "exec $(command -v bash || command -v sh) -s";

/// How it is used, said when it is used otherwise.
const USAGE: &str = "Usage: pm2 deploy [FILE] ENVIRONMENT [COMMAND]

Commands (without one the newest commit of `ref` is deployed):
  setup          clone the repository on each host
  update         deploy the newest commit of `ref`
  revert [N]     deploy what was deployed N times ago (1)
  current        what is deployed
  previous       what was deployed before
  list           what was deployed, the newest first
  exec COMMAND   run a command in the folder of what is deployed (run is the same)
  ref REF        deploy this commit, branch or tag";

/// `pm2 deploy [FILE] ENVIRONMENT [COMMAND]`.
pub fn run(session: &mut Session, words: &[String], force: bool) -> anyhow::Result<()> {
    let output = session.output;
    let Some(first) = words.first() else {
        output.line(USAGE);
        bail!(Told);
    };
    let is_file = Path::new(first).is_file();
    let (file, rest) = match is_file {
        true => (PathBuf::from(first), &words[1..]),
        false => (found_file()?, words),
    };
    let Some((name, command)) = rest.split_first() else {
        output.line(USAGE);
        bail!(Told);
    };
    let loaded = config::load(&file)?;
    let block = loaded.deploy.as_ref().and_then(|deploy| deploy.get(name));
    let Some(block) = block else {
        output.error(&format!(
            "{name} environment is not defined in {} file",
            file.display()
        ));
        bail!(Told);
    };
    let target =
        Target::read(block).with_context(|| format!("`deploy.{name}` in {}", file.display()))?;
    let job = Job::of(command).with_context(|| USAGE.to_owned())?;
    let told = matches!(job, Job::Deploy(_) | Job::Setup | Job::Revert(_));
    if told {
        output.line(&format!("--> Deploying to {name} environment"));
    }
    if matches!(job, Job::Deploy(_)) && !force {
        demand_pushed(&output)?;
    }
    if matches!(job, Job::Deploy(_) | Job::Revert(_)) {
        before(&output, &target)?;
    }
    for host in &target.hosts {
        if told {
            output.line(&format!("--> on host {host}"));
        }
        let script = script::of(&job, &target, &file, name);
        if let Err(error) = on_host(&target, host, &script) {
            output.error("Deploy failed");
            output.error(&format!("{host}: {error:#}"));
            bail!(Told);
        }
    }
    if told {
        output.line("--> Success");
    }
    Ok(())
}

fn found_file() -> anyhow::Result<PathBuf> {
    let found = FILES.iter().map(PathBuf::from).find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no file with a `deploy` block here: {} are looked for",
            FILES.join(", ")
        )
    })
}

/// What is deployed comes from the repository: changes that are only here would be missed.
fn demand_pushed(output: &Output) -> anyhow::Result<()> {
    let git = |arguments: &[&str]| {
        Command::new("git")
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
    };
    let succeeds = |arguments: &[&str]| git(arguments).is_ok_and(|ran| ran.status.success());
    if !succeeds(&["rev-parse", "--is-inside-work-tree"]) {
        return Ok(());
    }
    if !succeeds(&["diff", "--quiet", "HEAD", "--"]) {
        output
            .error("commit or stash your changes before deploying (--force deploys all the same)");
        bail!(Told);
    }
    // Without an upstream there is nothing to compare with.
    let unpushed = git(&["rev-list", "--count", "@{upstream}..HEAD"])
        .ok()
        .filter(|ran| ran.status.success())
        .map(|ran| String::from_utf8_lossy(&ran.stdout).trim().to_owned());
    if unpushed.is_some_and(|count| count != "0") {
        output.error("push your changes before deploying (--force deploys all the same)");
        bail!(Told);
    }
    Ok(())
}

/// What reads scripts here.
fn shell() -> &'static str {
    let path = std::env::var("PATH").unwrap_or_default();
    match config::SystemHost.which("bash", &path) {
        Some(_) => "bash",
        None => "sh",
    }
}

/// `pre-deploy-local`, here.
fn before(output: &Output, target: &Target) -> anyhow::Result<()> {
    let Some(command) = &target.pre_deploy_local else {
        return Ok(());
    };
    output.line(&format!("  ○ executing pre-deploy-local `{command}`"));
    let shell = shell();
    let status = Command::new(shell)
        .args(["-c", command])
        .envs(target.env.iter().map(|(name, value)| (name, value)))
        .status()
        .with_context(|| format!("cannot execute {shell}"))?;
    if !status.success() {
        output.error("Deploy failed");
        output.error(&format!("pre-deploy-local: {status}"));
        bail!(Told);
    }
    Ok(())
}

/// Runs the script there. It goes through standard input, so that no list of processes shows what `env` holds.
fn on_host(target: &Target, host: &str, script: &str) -> anyhow::Result<()> {
    let mut words = match host {
        "localhost" => Vec::new(),
        host => target.ssh(host),
    };
    words.extend(match host {
        "localhost" => [shell(), "-s"].map(str::to_owned).to_vec(),
        _ => vec![SHELL_THERE.to_owned()],
    });
    let (program, arguments) = words.split_first().context("there is a program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot execute `{program}`"))?;
    let written = match child.stdin.take() {
        Some(mut pipe) => pipe.write_all(script.as_bytes()),
        None => Ok(()),
    };
    let status = child.wait().context("cannot wait for it")?;
    if !status.success() {
        bail!("{status}");
    }
    written.context("it did not take the script")
}
