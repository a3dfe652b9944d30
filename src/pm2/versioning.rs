//! The state of an app's git working tree: `versioning` of its record, where `PM2_ENABLE_GIT_PARSING` is `true` (pm2 7.0.4).

use crate::daemon::command::Command;
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

/// How long each question to git may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest message of a commit that is kept, in bytes.
const MESSAGE: usize = 4096;

/// Asks git in the background, and tells the loop. Off unless the daemon was started with `PM2_ENABLE_GIT_PARSING=true`.
pub(super) fn find_out(views: &[Arc<InstanceView>], handle: &Handle) {
    if std::env::var_os("PM2_ENABLE_GIT_PARSING").is_none_or(|value| value != "true") {
        return;
    }
    let tracked =
        |view: &&Arc<InstanceView>| view.conf.to_map().get("vizion") != Some(&Value::Bool(false));
    for view in views.iter().filter(tracked) {
        let (id, handle, asker, view) = (view.id, handle.clone(), handle.clone(), Arc::clone(view));
        tokio::spawn(async move {
            let asked =
                tokio::task::spawn_blocking(move || look(Path::new(&view.spec.cwd), &asker));
            if let Ok(Some(value)) = asked.await {
                let key = "versioning";
                // It may have been deleted meanwhile.
                let _ = handle.call(Command::SetFlag { id, key, value }).await;
            }
        });
    }
}

/// The record; `None` outside any repository, and where there is no git.
fn look(folder: &Path, handle: &Handle) -> Option<Value> {
    let git = |words: &[&str]| {
        let mut question = std::process::Command::new("git");
        question
            .arg("-C")
            .arg(folder)
            .args(words)
            // It only looks, and takes no lock that a person's git would wait for.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let output = handle.run_helper(&mut question, LIMIT).ok()??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    };
    let line = |words: &[&str]| git(words).map(|text| text.trim().to_owned());
    let root = line(&["rev-parse", "--show-toplevel"])?;
    let revision = line(&["rev-parse", "HEAD"])?;
    let branch = line(&["rev-parse", "--abbrev-ref", "HEAD"])?;
    let mut comment = git(&["log", "-1", "--format=%B"])?.trim_end().to_owned() + "\n";
    if comment.len() > MESSAGE {
        let ends = |at: &usize| comment.is_char_boundary(*at);
        comment.truncate((0..=MESSAGE).rev().find(ends).unwrap_or(0));
    }
    let remotes: Vec<String> = line(&["remote"])?.lines().map(str::to_owned).collect();
    let remote = remotes
        .iter()
        .find(|name| *name == "origin")
        .or(remotes.first())
        .cloned();
    let upstream = remote.as_ref().map(|remote| format!("{remote}/{branch}"));
    let known = upstream
        .as_ref()
        .filter(|name| line(&["rev-parse", "--verify", "--quiet", name]).is_some());
    let counted = |range: String| {
        line(&["rev-list", "--count", &range]).and_then(|count| count.parse::<u64>().ok())
    };
    let ahead = known
        .and_then(|name| counted(format!("{name}..HEAD")))
        .unwrap_or(0)
        > 0;
    let next = known.and_then(|name| {
        let newer = line(&[
            "rev-list",
            "--reverse",
            "--ancestry-path",
            &format!("HEAD..{name}"),
        ])?;
        newer.lines().next().map(str::to_owned)
    });
    let url = remote
        .as_ref()
        .and_then(|remote| line(&["remote", "get-url", remote]));
    Some(json!({
        "type": "git",
        "url": url,
        "revision": revision,
        "comment": comment,
        "unstaged": line(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty()),
        "branch": branch,
        "remotes": remotes,
        "remote": remote,
        "branch_exists_on_remote": known.is_some(),
        "ahead": ahead,
        "next_rev": next,
        "prev_rev": line(&["rev-parse", "--verify", "--quiet", "HEAD~1"]),
        "update_time": line(&["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"]),
        "repo_path": root,
    }))
}
