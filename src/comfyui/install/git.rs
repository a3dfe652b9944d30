//! Git: getting a repository at a commit, whatever is there already; fork and upstream alike.

use super::child::{Ran, Run};
use super::progress::Teller;
use super::record::TreeRecord;
use crate::core::comfyui::manifest::redacted;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How long a clone or a fetch may take, in seconds. A stalled one is ended sooner, see [`Git::run`].
const TRANSFER: u64 = 3_600;
/// How long anything else may take.
const LOCAL: u64 = 300;

/// What a working tree is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The repository.
    pub url: &'a str,
    /// The branch or tag.
    pub branch: Option<&'a str>,
    /// The commit; `None` for the newest.
    pub commit: Option<&'a str>,
    /// Submodules too.
    pub recursive: bool,
}

/// Why a working tree is not what is wanted.
#[derive(Debug)]
pub struct GitError {
    /// What failed.
    pub what: String,
    /// How to mend it.
    pub mend: String,
    /// The last lines that git said.
    pub lines: Vec<String>,
}

impl GitError {
    fn of(what: &str, ran: &Ran) -> Self {
        let (cause, mend) = ran.cause();
        Self {
            what: format!("{what}: {cause}"),
            mend,
            lines: ran.tail(),
        }
    }

    fn io(what: &str, source: &io::Error) -> Self {
        Self {
            what: format!("{what}: {source}"),
            mend: match source.kind() {
                io::ErrorKind::NotFound => "install git",
                _ => "check that the workspace may be written to, and has room",
            }
            .to_owned(),
            lines: Vec::new(),
        }
    }
}

/// Runs git for one workspace.
#[derive(Clone, Copy)]
pub struct Git<'a> {
    /// Hears of it.
    pub teller: &'a Teller<'a>,
    /// The workspace.
    pub workspace: &'a Path,
}

impl Git<'_> {
    fn run(&self, dir: Option<&Path>, limit: u64, args: &[&str]) -> Result<Ran, GitError> {
        let mut run = Run::new(self.teller, self.workspace, "git")
            // A transfer of less than 1 KB a second for a minute has stalled. Housekeeping would outlive the command.
            .args([
                "-c",
                "http.lowSpeedLimit=1000",
                "-c",
                "http.lowSpeedTime=60",
                "-c",
                "gc.auto=0",
                "-c",
                "maintenance.auto=false",
                "-c",
                "advice.detachedHead=false",
            ])
            .args(args)
            // Without a terminal a question would wait for ever.
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("LC_ALL", "C")
            .limit(limit);
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            run = run.without(name);
        }
        if std::env::var_os("GIT_SSH_COMMAND").is_none() {
            run = run.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20");
        }
        if let Some(dir) = dir {
            run = run.cwd(dir);
        }
        run.run()
            .map_err(|error| GitError::io("git cannot be run", &error))
    }

    /// One word of git's, such as a commit; `None` where it has none.
    fn word(&self, dir: &Path, args: &[&str]) -> Option<String> {
        let ran = self.run(Some(dir), LOCAL, args).ok()?;
        let word = ran.lines.first()?.trim().to_owned();
        (ran.ok && !word.is_empty()).then_some(word)
    }

    /// Whether the repository answers and has the branch.
    pub fn reachable(&self, url: &str, branch: Option<&str>) -> Result<(), GitError> {
        let args = [
            "ls-remote",
            "--exit-code",
            "--",
            url,
            branch.unwrap_or("HEAD"),
        ];
        let ran = self.run(None, 120, &args)?;
        if ran.ok {
            return Ok(());
        }
        // Code 2: the repository is there, and nothing in it matches (git-ls-remote(1)).
        if ran.how.ends_with(" 2") && ran.lines.is_empty() {
            let (what, mend) = match branch {
                Some(branch) => (format!("has no branch or tag {branch}"), "check `branch`"),
                None => ("is empty".to_owned(), "check the URL"),
            };
            return Err(GitError {
                what: format!("{} {what}", redacted(url)),
                mend: mend.to_owned(),
                lines: Vec::new(),
            });
        }
        Err(GitError::of(&redacted(url), &ran))
    }

    /// The working tree at `dir` made what is wanted: cloned if it is not there, else fetched where that is needed.
    pub fn obtain(&self, dir: &Path, wanted: Wanted<'_>) -> Result<TreeRecord, GitError> {
        let has_tree = dir.join(".git").exists();
        if !has_tree && dir.exists() {
            return Err(GitError {
                what: format!("{} is there and is no git repository", dir.display()),
                mend: "move it away".to_owned(),
                lines: Vec::new(),
            });
        }
        match has_tree {
            true => self.bring_along(dir, wanted)?,
            false => self.clone(dir, wanted)?,
        }
        if wanted.recursive {
            let args = ["submodule", "update", "--init", "--recursive", "--force"];
            let ran = self.run(Some(dir), TRANSFER, &args)?;
            if !ran.ok {
                return Err(GitError::of("its submodules", &ran));
            }
        }
        let commit = self
            .word(dir, &["rev-parse", "HEAD"])
            .ok_or_else(|| GitError {
                what: "it has no commit".to_owned(),
                mend: "check the URL".to_owned(),
                lines: Vec::new(),
            })?;
        Ok(TreeRecord {
            url: redacted(wanted.url),
            branch: wanted.branch.map(str::to_owned),
            commit,
        })
    }

    /// Beside its place, so that a folder of that name is always whole.
    fn clone(&self, dir: &Path, wanted: Wanted<'_>) -> Result<(), GitError> {
        let part = part_of(dir);
        let failed = |error: io::Error| GitError::io("cannot clone", &error);
        remove(&part).map_err(failed)?;
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let target = part.display().to_string();
        let mut args = vec!["clone", "--quiet"];
        if let (Some(branch), None) = (wanted.branch, wanted.commit) {
            args.extend(["--branch", branch]);
        }
        if wanted.commit.is_some() {
            args.push("--no-checkout");
        }
        args.extend(["--", wanted.url, &target]);
        let ran = self.run(None, TRANSFER, &args)?;
        if !ran.ok {
            // What is left of it is of no use; the failure is what is told.
            let _ = remove(&part);
            return Err(GitError::of(&redacted(wanted.url), &ran));
        }
        if let Some(commit) = wanted.commit
            && let Err(error) = self.check_out(&part, wanted, commit)
        {
            let _ = remove(&part);
            return Err(error);
        }
        fs::rename(&part, dir).map_err(failed)
    }

    fn bring_along(&self, dir: &Path, wanted: Wanted<'_>) -> Result<(), GitError> {
        if self.word(dir, &["config", "remote.origin.url"]).as_deref() != Some(wanted.url) {
            let ran = self.run(
                Some(dir),
                LOCAL,
                &["config", "remote.origin.url", wanted.url],
            )?;
            if !ran.ok {
                return Err(GitError::of("its remote", &ran));
            }
        }
        self.put_aside_edits(dir)?;
        if let Some(commit) = wanted.commit {
            return self.check_out(dir, wanted, commit);
        }
        self.fetch(dir)?;
        let target = match wanted.branch {
            Some(branch) => {
                let remote = format!("refs/remotes/origin/{branch}");
                let tag = format!("refs/tags/{branch}");
                [remote, tag]
                    .into_iter()
                    .find(|name| {
                        self.word(dir, &["rev-parse", "--verify", "--quiet", name])
                            .is_some()
                    })
                    .ok_or_else(|| GitError {
                        what: format!("{} has no branch or tag {branch}", redacted(wanted.url)),
                        mend: "check `branch`".to_owned(),
                        lines: Vec::new(),
                    })?
            }
            None => {
                // The remote's own branch may have become another one.
                self.run(
                    Some(dir),
                    LOCAL,
                    &["remote", "set-head", "origin", "--auto"],
                )?;
                "refs/remotes/origin/HEAD".to_owned()
            }
        };
        let ran = self.run(Some(dir), LOCAL, &["reset", "--quiet", "--hard", &target])?;
        match ran.ok {
            true => Ok(()),
            false => Err(GitError::of(&redacted(wanted.url), &ran)),
        }
    }

    fn fetch(&self, dir: &Path) -> Result<(), GitError> {
        let ran = self.run(
            Some(dir),
            TRANSFER,
            &["fetch", "--quiet", "--tags", "--force", "--prune", "origin"],
        )?;
        match ran.ok {
            true => Ok(()),
            false => Err(GitError::of("fetching", &ran)),
        }
    }

    fn check_out(&self, dir: &Path, wanted: Wanted<'_>, commit: &str) -> Result<(), GitError> {
        let object = format!("{commit}^{{commit}}");
        let find = || self.word(dir, &["rev-parse", "--verify", "--quiet", &object]);
        let mut found = find();
        if found.is_none() && dir.extension().is_none_or(|ending| ending != "part") {
            self.fetch(dir)?;
            found = find();
        }
        if found.is_none() && commit.len() >= 40 {
            // Of no branch, such as that of a pull request: servers give it by its full name.
            self.run(Some(dir), TRANSFER, &["fetch", "--quiet", "origin", commit])?;
            found = find();
        }
        let Some(found) = found else {
            return Err(GitError {
                what: format!("{} has no such commit: {commit}", redacted(wanted.url)),
                mend: "check `commit`".to_owned(),
                lines: Vec::new(),
            });
        };
        let current = self.word(dir, &["rev-parse", "--verify", "--quiet", "HEAD"]);
        // A fresh clone has a HEAD and no files.
        if current.as_deref() == Some(&found) && dir.join(".git/index").exists() {
            return Ok(());
        }
        let ran = self.run(
            Some(dir),
            LOCAL,
            &["checkout", "--quiet", "--force", "--detach", &found],
        )?;
        match ran.ok {
            true => Ok(()),
            false => Err(GitError::of(commit, &ran)),
        }
    }

    /// What was edited by hand in a tree is kept as a patch before git overwrites it.
    fn put_aside_edits(&self, dir: &Path) -> Result<(), GitError> {
        let ran = self.run(
            Some(dir),
            LOCAL,
            &["status", "--porcelain", "--untracked-files=no"],
        )?;
        if !ran.ok || ran.lines.is_empty() {
            return Ok(());
        }
        let edits = self.workspace.join(".fornax/edits");
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let file = edits.join(format!("{name}-{}.patch", super::progress::now_ms()));
        let failed = |error: io::Error| GitError::io("cannot keep what was edited", &error);
        fs::create_dir_all(&edits).map_err(failed)?;
        let output = format!("--output={}", file.display());
        self.run(Some(dir), LOCAL, &["diff", "HEAD", "--binary", &output])?;
        self.teller.line(&format!(
            "{name} was edited by hand; the changes are kept in {}",
            file.display()
        ));
        Ok(())
    }

    /// What a tree is, apart from what it should be.
    pub fn look(&self, dir: &Path) -> Look {
        let word = |args: &[&str]| self.word(dir, args);
        Look {
            remote: word(&["config", "remote.origin.url"]).map(|url| redacted(&url)),
            branch: word(&["symbolic-ref", "--quiet", "--short", "HEAD"]),
            commit: word(&["rev-parse", "HEAD"]),
            edited: self
                .run(
                    Some(dir),
                    LOCAL,
                    &["status", "--porcelain", "--untracked-files=no"],
                )
                .is_ok_and(|ran| ran.ok && !ran.lines.is_empty()),
        }
    }
}

/// A working tree as it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Look {
    /// Its remote, without passwords.
    pub remote: Option<String>,
    /// Its branch; `None` when a commit is checked out.
    pub branch: Option<String>,
    /// Its commit.
    pub commit: Option<String>,
    /// Tracked files were changed.
    pub edited: bool,
}

/// Where a folder is made before it takes its place.
pub fn part_of(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    // Hidden: ComfyUI passes over such folders only if they end in `.disabled`, and none is left when it starts.
    dir.with_file_name(format!(".{name}.part"))
}

/// Removes a folder, if it is there.
pub fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
