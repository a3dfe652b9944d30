//! Custom nodes: cloned several at a time, then one after the other what each asks for. A node's failure costs that node.

use super::child::Run;
use super::error::{InstallError, io_in};
use super::git::{self, Git, GitError, Wanted};
use super::packages::{self, Packages};
use super::project;
use super::record::{NodeRecord, NodeState, TreeRecord};
use crate::core::comfyui::manifest::{Node, redacted};
use crate::core::comfyui::template;
use crate::sys::files::{self, Readers};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// How long an `install.py` or a script may take, in seconds.
const SCRIPT_LIMIT: u64 = 1_800;
/// Requirements that are tried one by one after they could not be installed together.
const LINES: usize = 200;

/// A node to be worked on.
#[derive(Debug, Clone)]
pub struct Task {
    /// What is wanted.
    pub node: Node,
    /// The commit to take; `None` for the newest.
    pub commit: Option<String>,
}

/// Gets the repositories, at most `at_once` at a time, and gives each to `take` in the order of the list as soon as its turn
/// has come.
///
/// # Errors
/// What `take` says; clones that have begun are brought to their end.
pub fn obtain(
    git: Git<'_>,
    dir: &Path,
    tasks: &[Task],
    at_once: usize,
    mut take: impl FnMut(usize, Result<TreeRecord, GitError>) -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = sync_channel(tasks.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..at_once.clamp(1, tasks.len().max(1)) {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(task) = tasks.get(at) else { break };
                    let wanted = Wanted {
                        url: &task.node.url,
                        branch: task.node.branch.as_deref(),
                        commit: task.commit.as_deref(),
                        recursive: task.node.recursive,
                    };
                    let got = git.obtain(&dir.join(&task.node.name), wanted);
                    if sender.send((at, got)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut turn = 0;
        for (at, got) in &receiver {
            early.insert(at, got);
            while let Some(got) = early.remove(&turn) {
                if let Err(error) = take(turn, got) {
                    // Nobody is to begin another.
                    next.store(tasks.len(), Ordering::Relaxed);
                    return Err(error);
                }
                turn += 1;
            }
        }
        Ok(())
    })
}

/// The record of a node whose repository could not be had.
pub fn failed(node: &Node, error: &GitError) -> NodeRecord {
    NodeRecord {
        state: NodeState::Failed,
        url: redacted(&node.url),
        commit: None,
        problems: vec![format!("{}; {}", error.what, error.mend)],
        unset: Vec::new(),
        project: None,
        wanted: node.clone(),
    }
}

/// What a node asks for, after its code is there.
pub struct Setup<'a> {
    /// Installs packages.
    pub packages: &'a Packages<'a>,
    /// The version of the tree, to be compared with what a node requires.
    pub comfyui: Option<&'a str>,
    /// Looks up a variable for templates.
    pub env: &'a dyn Fn(&str) -> Option<String>,
}

impl Setup<'_> {
    /// Its `.env`, its requirements, its `install.py`, its script: in this order.
    ///
    /// # Errors
    /// Only what concerns the whole install, such as a full disk.
    pub fn run(&self, node: &Node, tree: &TreeRecord) -> Result<NodeRecord, InstallError> {
        let dir = self.packages.build.nodes().join(&node.name);
        let mut record = NodeRecord {
            state: NodeState::Installed,
            url: redacted(&node.url),
            commit: Some(tree.commit.clone()),
            problems: Vec::new(),
            unset: Vec::new(),
            project: None,
            wanted: node.clone(),
        };
        record.unset = write_env(&dir, node, self.env, &|secret| {
            self.packages.teller.hide(secret);
        })?;
        let project = project::read(&dir);
        if let Some(project) = &project {
            record.project = project.identity();
            record.problems.extend(project.unfit(self.comfyui));
        }
        if node.requirements {
            self.requirements(&dir, project.as_ref(), &mut record)?;
        }
        if dir.join("install.py").is_file() {
            let run = Run::new(
                self.packages.teller,
                self.packages.workspace,
                self.packages.build.python(),
            )
            .args(["install.py"]);
            self.script(run, &dir, "install.py", &mut record)?;
        }
        if let Some(script) = &node.custom_script {
            // The list is the operator's own, and the format says a shell.
            let run = Run::new(self.packages.teller, self.packages.workspace, "/bin/sh")
                .args(["-c", script.as_str()]);
            self.script(run, &dir, "custom_script", &mut record)?;
        }
        if !record.problems.is_empty() {
            record.state = NodeState::Incomplete;
        }
        Ok(record)
    }

    fn requirements(
        &self,
        dir: &Path,
        project: Option<&project::Project>,
        record: &mut NodeRecord,
    ) -> Result<(), InstallError> {
        let file = dir.join("requirements.txt");
        let text = match crate::comfyui::files::read_limited(&file, 1 << 20) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Some packs name what they need in their project file only.
                project.map_or_else(String::new, |project| project.dependencies.join("\n"))
            }
            Err(error) => {
                record
                    .problems
                    .push(format!("its requirements.txt cannot be read: {error}"));
                return Ok(());
            }
        };
        let (requirements, options) = packages::lines(&text);
        if requirements.is_empty() {
            return Ok(());
        }
        let io = |source| InstallError::Io {
            step: "nodes",
            action: "run the installer of packages in",
            path: dir.to_owned(),
            source,
        };
        let whole: Vec<&str> = match file.is_file() {
            true => vec!["-r", "requirements.txt"],
            false => requirements.iter().map(String::as_str).collect(),
        };
        let ran = self.packages.install(&whole, dir, None).map_err(io)?;
        if ran.ok {
            return Ok(());
        }
        fatal(&ran)?;
        if requirements.len() == 1 {
            let (what, mend) = ran.cause();
            record
                .problems
                .push(format!("{}: {what}; {mend}", requirements[0]));
            return Ok(());
        }
        // One by one, so that a bad line does not cost the others, and is named.
        for requirement in requirements.iter().take(LINES) {
            let mut args: Vec<&str> = options.iter().map(String::as_str).collect();
            // `-r other.txt` and `-e .` are two words; a requirement may hold blanks.
            match requirement.starts_with('-') {
                true => args.extend(requirement.split_whitespace()),
                false => args.push(requirement),
            }
            let ran = self.packages.install(&args, dir, None).map_err(io)?;
            if !ran.ok {
                fatal(&ran)?;
                let (what, mend) = ran.cause();
                record
                    .problems
                    .push(format!("{requirement}: {what}; {mend}"));
            }
        }
        Ok(())
    }

    fn script(
        &self,
        run: Run<'_>,
        dir: &Path,
        name: &str,
        record: &mut NodeRecord,
    ) -> Result<(), InstallError> {
        let build = self.packages.build;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let first = std::iter::once(build.venv().join("bin"));
        let path = std::env::join_paths(first.chain(std::env::split_paths(&path)));
        let ran = run
            .cwd(dir)
            // Its pip is to install here, and not to move what is held.
            .env("PATH", path.unwrap_or_default())
            .env("VIRTUAL_ENV", build.venv())
            .env("PIP_CONSTRAINT", self.packages.constraints_file())
            .env("UV_CONSTRAINT", self.packages.constraints_file())
            .env("COMFYUI_PATH", build.tree())
            .env("COMFYUI_FOLDERS_BASE_PATH", build.tree())
            .limit(SCRIPT_LIMIT)
            .run();
        match ran {
            Ok(ran) if ran.ok => {}
            Ok(ran) => {
                fatal(&ran)?;
                let (what, mend) = ran.cause();
                record
                    .problems
                    .push(format!("{name} failed: {what}; {mend}"));
            }
            Err(error) => record
                .problems
                .push(format!("{name} cannot be run: {error}")),
        }
        Ok(())
    }
}

/// What ends the whole install, since everything after it would fail too.
fn fatal(ran: &super::child::Ran) -> Result<(), InstallError> {
    let (what, mend) = ran.cause();
    match what.as_str() {
        "the disk is full" | "the file system is read-only" => Err(InstallError::Step {
            step: "nodes",
            what,
            mend,
            lines: ran.tail(),
        }),
        _ => Ok(()),
    }
}

/// Writes a node's `.env`, readable by its owner only, unless it says so already. The names of variables that are not set.
///
/// # Errors
/// The file cannot be written.
pub fn write_env(
    dir: &Path,
    node: &Node,
    env: &dyn Fn(&str) -> Option<String>,
    hide: &dyn Fn(&str),
) -> Result<Vec<String>, InstallError> {
    let mut unset = Vec::new();
    if node.env.is_empty() {
        return Ok(unset);
    }
    let mut text = String::new();
    for (name, template) in &node.env {
        let value = template::expand(template, env, &mut unset);
        if value != *template {
            hide(&value);
        }
        // A line of its own for each; what a line cannot hold is quoted as dotenv reads it.
        match value.contains(['\n', '\r', '"', '#', '\'']) || value.trim() != value {
            true => text.push_str(&format!("{name}={}\n", serde_json::Value::from(value))),
            false => text.push_str(&format!("{name}={value}\n")),
        }
    }
    let file = dir.join(".env");
    if fs::read_to_string(&file).is_ok_and(|known| known == text) {
        return Ok(unset);
    }
    files::replace(&file, text.as_bytes(), Readers::Owner)
        .map_err(io_in("nodes", "write", &file))?;
    Ok(unset)
}

/// Removes a node's folder.
///
/// # Errors
/// It cannot be removed.
pub fn remove(dir: &Path, name: &str) -> Result<(), InstallError> {
    let node = dir.join(name);
    git::remove(&node).map_err(io_in("nodes", "remove", &node))
}
