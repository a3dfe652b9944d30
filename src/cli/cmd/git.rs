//! `pull`, `forward`, `backward`: the working tree of an app to another commit, then a reload (pm2 7.0.4, spec 6.17).

use super::act::Action;
use super::{carry, list};
use crate::cli::render::ProcRow;
use crate::cli::session::{Session, Told};
use crate::core::ids::PmId;
use crate::sys::pidfd;
use anyhow::{Context, bail};
use clap::ArgMatches;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// Where to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// What the remote has, or this commit.
    Pull(Option<&'a str>),
    /// The next commit of the remote's branch.
    Forward,
    /// The commit before.
    Backward,
}

/// How long each command of `post_update` may take, unless `exec_timeout` says otherwise.
const POST_UPDATE: Duration = Duration::from_secs(60);

/// Runs one of the three on the app of this name or id.
pub fn run(
    session: &mut Session,
    matches: &ArgMatches,
    word: &str,
    step: Step<'_>,
) -> anyhow::Result<()> {
    let output = session.output;
    output.done(&match step {
        Step::Pull(_) => format!("Updating repository for process name {word}"),
        Step::Forward => format!("Updating to next commit repository for process name {word}"),
        Step::Backward => {
            format!("Downgrading to previous commit repository for process name {word}")
        }
    });
    let items = session.items(false)?;
    let id = word.parse::<u64>().ok();
    let meant =
        |item: &&Value| item["name"] == word || (id.is_some() && item["pm_id"].as_u64() == id);
    let Some(item) = items.iter().find(meant) else {
        let colon = if step == Step::Forward { ":" } else { " :" };
        output.plain_error(&format!("No processes with this name or id{colon} {word}"));
        bail!(Told);
    };
    let env = &item["pm2_env"];
    let tree = Tree(env["pm_cwd"].as_str().unwrap_or("/").to_owned());
    let before = tree.line(&["rev-parse", "HEAD"]).ok();
    let Some(before) = before else {
        output.done(&format!("No versioning system found for process {word}"));
        if step == Step::Backward {
            bail!(Told);
        }
        return Ok(());
    };
    match tree.go(step) {
        Ok(true) => {}
        Ok(false) => {
            output.done(&match step {
                Step::Pull(_) => format!("Already up-to-date or an error occured for app: {word}"),
                Step::Forward => format!("Already up-to-date or an error occured: {word}"),
                Step::Backward => format!("No versioning system found for process {word}"),
            });
            if step == Step::Backward {
                bail!(Told);
            }
            return Ok(());
        }
        Err(error) => {
            output.error(&error.to_string());
            bail!(Told);
        }
    }
    let after = tree.line(&["rev-parse", "HEAD"])?;
    if let Err(error) = post_update(session, env, &tree) {
        output.error(&format!(
            "{error:#}; the working tree is at {after}, was at {before}, and the app has not been reloaded"
        ));
        bail!(Told);
    }
    output.done(&format!("Process successfully updated {word}"));
    output.done(&format!("Current commit {after}"));
    let rows = session.rows()?;
    let ids = ids(&rows, item["name"].as_str().unwrap_or_default());
    if !matches!(step, Step::Pull(Some(_))) {
        output.line("Use --update-env to update environment variables");
    }
    carry::apply(session, Action::Reload, word, &ids, &rows, &json!({}))?;
    list::after_action(session, matches)
}

fn ids(rows: &[ProcRow], name: &str) -> Vec<PmId> {
    rows.iter()
        .filter(|row| row.name == name)
        .map(|row| PmId(row.pm_id))
        .collect()
}

/// A folder of a working tree.
struct Tree(String);

impl Tree {
    fn git(&self, words: &[&str]) -> anyhow::Result<Output> {
        Command::new("git")
            .args(["-C", &self.0])
            .args(words)
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .output()
            .context("cannot start git; install it")
    }

    /// What git prints, or what it complains of.
    fn line(&self, words: &[&str]) -> anyhow::Result<String> {
        let ended = self.git(words)?;
        if !ended.status.success() {
            let why = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
            bail!("git {} in {}: {why}", words.join(" "), self.0);
        }
        Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    }

    /// Moves the tree. `false`: there is nowhere to go.
    fn go(&self, step: Step<'_>) -> anyhow::Result<bool> {
        let before = self.line(&["rev-parse", "HEAD"])?;
        let changes = self.line(&["status", "--porcelain", "--untracked-files=no"])?;
        if !changes.is_empty() && step != Step::Pull(None) {
            bail!(
                "{} has changes that are not committed, which this would undo; commit or stash them",
                self.0
            );
        }
        match step {
            Step::Pull(None) => {
                self.line(&["pull", "--ff-only", "--quiet"])?;
            }
            Step::Pull(Some(commit)) => {
                if commit.starts_with('-') {
                    bail!("`{commit}` is no commit");
                }
                self.line(&["fetch", "--quiet"])?;
                self.line(&["reset", "--hard", "--quiet", commit])?;
                return Ok(true);
            }
            Step::Forward => {
                let upstream = self.line(&["rev-parse", "--abbrev-ref", "@{upstream}"])?;
                let range = format!("HEAD..{upstream}");
                let newer = self.line(&["rev-list", "--reverse", "--ancestry-path", &range])?;
                let Some(next) = newer.lines().next() else {
                    return Ok(false);
                };
                self.line(&["reset", "--hard", "--quiet", next])?;
            }
            Step::Backward => {
                let Ok(previous) = self.line(&["rev-parse", "--verify", "--quiet", "HEAD~1"])
                else {
                    return Ok(false);
                };
                self.line(&["reset", "--hard", "--quiet", &previous])?;
            }
        }
        Ok(self.line(&["rev-parse", "HEAD"])? != before)
    }
}

/// The commands that the app wants run after an update, in its folder and with its variables.
fn post_update(session: &Session, env: &Value, tree: &Tree) -> anyhow::Result<()> {
    let limit = env["exec_timeout"]
        .as_u64()
        .map_or(POST_UPDATE, Duration::from_millis);
    let variables = env["env"].as_object().into_iter().flatten();
    let variables: Vec<(&String, &str)> = variables
        .filter_map(|(name, value)| Some((name, value.as_str()?)))
        .collect();
    for words in env["post_update"].as_array().into_iter().flatten() {
        let Some(words) = words.as_str() else {
            continue;
        };
        session
            .output
            .done(&format!("Executing post_update: {words}"));
        // A shell, since its author wrote them for one.
        let mut child = Command::new("/bin/sh")
            .process_group(0)
            .args(["-c", words])
            .current_dir(&tree.0)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a shell")?;
        let process = pidfd::open(child.id()).context("cannot watch the shell")?;
        if !pidfd::wait_readable(&process, limit)? {
            let group = i32::try_from(child.id()).unwrap_or(i32::MAX);
            // It may have ended in this very moment.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = child.wait();
            bail!(
                "post_update `{words}` has not ended within {} s",
                limit.as_secs()
            );
        }
        let ended = child.wait()?;
        if !ended.success() {
            bail!("post_update `{words}` has ended with {ended}");
        }
    }
    Ok(())
}
