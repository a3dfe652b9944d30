//! What is installed, against what is wanted; and proving it again.

use super::error::{InstallError, io_in};
use super::git::{Git, Look};
use super::layout::Layout;
use super::progress::{self, State, Teller};
use super::record::{BuildState, NodeState, Plan, Record};
use super::run::{STEPS, is_current};
use super::validate::{self, Imported, Proof};
use crate::comfyui::tree;
use crate::sys::lockfile::is_held;
use serde::Serialize;

/// How an installation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// There is none.
    NotInstalled,
    /// An installer is at work.
    Installing,
    /// It is what is wanted.
    Installed,
    /// It works, and is not what is wanted any more.
    Outdated,
    /// The tree was made by hand and is run as it is.
    ByHand,
}

/// A custom node, wanted and as it is.
#[derive(Debug, Clone, Serialize)]
pub struct NodeReport {
    /// Its folder.
    pub name: String,
    /// `installed`, `incomplete`, `failed`, `import_failed`; `None` when it is wanted and was not tried yet.
    pub state: Option<NodeState>,
    /// Its repository, without passwords.
    pub url: String,
    /// The commit that is checked out.
    pub commit: Option<String>,
    /// Name and version by its own word.
    pub project: Option<String>,
    /// What went wrong.
    pub problems: Vec<String>,
    /// Variables that its `.env` lacks.
    pub unset: Vec<String>,
    /// It is in the list.
    pub wanted: bool,
}

/// An installation.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How it stands.
    pub standing: Standing,
    /// In one sentence.
    pub message: String,
    /// The workspace.
    pub workspace: String,
    /// The build that runs.
    pub build: Option<String>,
    /// The one that `rollback` goes to.
    pub previous: Option<String>,
    /// ComfyUI's version.
    pub version: Option<String>,
    /// The commit that is installed.
    pub commit: Option<String>,
    /// The repository that is wanted.
    pub repository: String,
    /// The Python's version.
    pub python: Option<String>,
    /// The index that torch came from.
    pub torch_index: Option<String>,
    /// How many packages.
    pub packages: usize,
    /// The nodes.
    pub nodes: Vec<NodeReport>,
    /// Warnings.
    pub notes: Vec<String>,
    /// What the last installer did, or the present one does.
    pub installer: Option<State>,
}

/// Looks at files only.
pub fn report(layout: &Layout, plan: &Plan) -> Report {
    let current = layout.current();
    let record = current.as_ref().and_then(Record::of);
    let installer = progress::last(layout);
    let busy = is_held(&layout.installer_lock());
    let by_hand = !layout.is_ours();
    let (standing, message) = match (&record, busy) {
        _ if by_hand => (
            Standing::ByHand,
            "the tree was made by hand, and is run as it is".to_owned(),
        ),
        (_, true) => {
            let told = installer.as_ref().map(|state| {
                format!("{} ({}/{}): {}", state.phase, state.step, state.of, state.message)
            });
            (Standing::Installing, told.unwrap_or_else(|| "an installer is at work".to_owned()))
        }
        (None, false) => {
            let failed = installer.as_ref().and_then(|state| state.error.as_ref());
            let why = failed.map_or_else(String::new, |error| format!("; the last try failed: {error}"));
            (Standing::NotInstalled, format!("not installed{why}"))
        }
        (Some(_), false) if is_current(layout, plan).is_some() => {
            (Standing::Installed, "what is wanted is installed".to_owned())
        }
        (Some(_), false) => (
            Standing::Outdated,
            "what is installed is not what is wanted any more; `fornax comfyui install` makes it so".to_owned(),
        ),
    };
    let tree_dir = layout.workspace().tree();
    Report {
        standing,
        message,
        workspace: layout.workspace().root().display().to_string(),
        build: current.map(|build| build.id),
        previous: layout.previous().map(|build| build.id),
        version: tree::version(&tree_dir),
        commit: record
            .as_ref()
            .and_then(|record| record.tree.as_ref().map(|tree| tree.commit.clone())),
        repository: crate::core::comfyui::manifest::redacted(&plan.repository),
        python: record
            .as_ref()
            .and_then(|record| record.python_version.clone()),
        torch_index: record
            .as_ref()
            .and_then(|record| record.torch_index.clone()),
        packages: record.as_ref().map_or(0, |record| record.packages.len()),
        nodes: nodes(plan, record.as_ref()),
        notes: record.map(|record| record.notes).unwrap_or_default(),
        installer,
    }
}

fn nodes(plan: &Plan, record: Option<&Record>) -> Vec<NodeReport> {
    let known = |name: &str| record.and_then(|record| record.nodes.get(name));
    let one = |name: &str, url: &str, wanted: bool| {
        let known = known(name);
        NodeReport {
            name: name.to_owned(),
            state: known.map(|node| node.state),
            url: crate::core::comfyui::manifest::redacted(url),
            commit: known.and_then(|node| node.commit.clone()),
            project: known.and_then(|node| node.project.clone()),
            problems: known.map(|node| node.problems.clone()).unwrap_or_default(),
            unset: known.map(|node| node.unset.clone()).unwrap_or_default(),
            wanted,
        }
    };
    let mut all: Vec<NodeReport> = plan
        .nodes
        .iter()
        .map(|node| one(&node.name, &node.url, true))
        .collect();
    for (name, node) in record.into_iter().flat_map(|record| &record.nodes) {
        if !plan.nodes.iter().any(|wanted| wanted.name == *name) {
            all.push(one(name, &node.url, false));
        }
    }
    all
}

/// Proves what is installed: the tree against what was installed, and every import. What is wrong, or nothing.
///
/// # Errors
/// There is nothing to prove, or it cannot be run.
pub fn validate(layout: &Layout, plan: &Plan) -> Result<Vec<String>, InstallError> {
    let lock = super::run::lock(layout)?;
    let Some(build) = layout.current() else {
        return Err(InstallError::Cannot {
            what: "there is no build of fornax to validate".to_owned(),
            mend: "run `fornax comfyui install`".to_owned(),
        });
    };
    let teller = Teller::new(layout, STEPS.len() as u32, Box::new(|_| {})).map_err(io_in(
        "validate",
        "write",
        &layout.log_file(),
    ))?;
    teller.phase("validate", 8, "ComfyUI imports everything");
    let mut wrong = Vec::new();
    let record = Record::of(&build);
    if record
        .as_ref()
        .is_none_or(|record| record.state != BuildState::Ready)
    {
        wrong.push(format!(
            "build {} is not whole; run `fornax comfyui install`",
            build.id
        ));
    }
    let git = Git {
        teller: &teller,
        workspace: layout.workspace().root(),
    };
    let look = git.look(&build.tree());
    wrong.extend(drift(&look, plan, record.as_ref()));
    let proof = Proof {
        teller: &teller,
        workspace: layout.workspace().root(),
        build: &build,
        gpu: false,
    };
    match proof.imports()? {
        Imported::Starts(imports) => {
            wrong.extend(validate::core_notes(&imports));
            for import in imports.failed() {
                wrong.push(format!(
                    "the node {} does not import: {}",
                    import.name, import.why
                ));
            }
        }
        Imported::Dies(ran) => {
            let (what, mend) = ran.cause();
            wrong.push(format!("ComfyUI does not start: {what}; {mend}"));
        }
    }
    teller.end(Ok("validated"));
    drop(lock);
    Ok(wrong)
}

/// How a tree differs from what was installed.
fn drift(look: &Look, plan: &Plan, record: Option<&Record>) -> Vec<String> {
    let mut wrong = Vec::new();
    let wanted = crate::core::comfyui::manifest::redacted(&plan.repository);
    if look.remote.as_ref() != Some(&wanted) {
        wrong.push(format!(
            "the tree is a clone of {}, and {wanted} is wanted",
            look.remote.as_deref().unwrap_or("nothing")
        ));
    }
    let installed = record
        .and_then(|record| record.tree.as_ref())
        .map(|tree| &tree.commit);
    if look.commit.as_ref() != installed {
        wrong.push(format!(
            "the tree is at {}, and {} was installed",
            look.commit.as_deref().unwrap_or("no commit"),
            installed.map_or("nothing", |commit| commit)
        ));
    }
    if look.edited {
        wrong.push("files of the tree were edited by hand".to_owned());
    }
    wrong
}
