//! Why an install did not come to its end: which step, what failed, how to mend it.

use crate::core::problem::Problem;
use std::path::PathBuf;

/// An install has failed. What worked before still works.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The settings or a list of nodes are wrong.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Settings(Vec<Problem>),
    /// Another installer is at work.
    #[error(
        "another installer is at work on {}{}; wait for it, or end it", workspace.display(),
        pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    Busy {
        /// The workspace.
        workspace: PathBuf,
        /// The other's pid.
        pid: Option<u32>,
    },
    /// The tree was made by hand.
    #[error(
        "{} was not made by fornax and is left as it is; move it away to have fornax install one (`fornax up` runs it as it is)", .0.display()
    )]
    ByHand(PathBuf),
    /// There is nothing to do it with or to.
    #[error("{what}; {mend}")]
    Cannot {
        /// What is missing.
        what: String,
        /// How to mend it.
        mend: String,
    },
    /// A step has failed.
    #[error("{step}: {what}; {mend}")]
    Step {
        /// The step.
        step: &'static str,
        /// What failed.
        what: String,
        /// How to mend it.
        mend: String,
        /// The last lines of what was run.
        lines: Vec<String>,
    },
    /// A file or folder could not be made, read or removed.
    #[error("{step}: cannot {action} {}: {source}; {}", path.display(), mend_of(source))]
    Io {
        /// The step.
        step: &'static str,
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl InstallError {
    /// The last lines of what was run.
    pub fn lines(&self) -> &[String] {
        match self {
            InstallError::Step { lines, .. } => lines,
            _ => &[],
        }
    }
}

fn mend_of(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "free some room (`fornax comfyui clean` removes old builds), and run it again"
        }
        std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied => {
            "check that the workspace may be written to"
        }
        _ => "see docs/comfyui.md",
    }
}

/// A path's failure in a step.
pub(super) fn io_in<'a>(
    step: &'static str,
    action: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(std::io::Error) -> InstallError + 'a {
    move |source| InstallError::Io {
        step,
        action,
        path: path.to_owned(),
        source,
    }
}
