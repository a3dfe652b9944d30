//! What can go wrong with an ecosystem file, always with the file, and with line, column and key where they are known.

pub use crate::core::problem::Problem;
use std::path::PathBuf;

/// Why a file could not be read as an ecosystem.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("{}: file not found; check the path, or name an ecosystem file", .0.display())]
    NotFound(PathBuf),
    /// It could not be read.
    #[error("{}: cannot be read; check its permissions", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than [`MAX_BYTES`](super::MAX_BYTES).
    #[error("{}: holds {bytes} bytes, more than the {max} an ecosystem file may have; name the right file, or split it", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Node could not be run, or did not end.
    #[error("{}: could not be evaluated by node; see that it ends by itself and exports its apps", path.display())]
    Node {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its text or its shape is wrong.
    #[error("{0}")]
    Malformed(Box<Problem>),
}

impl ConfigError {
    /// The same as a [`Problem`], for reports that list several.
    pub fn into_problem(self) -> Problem {
        let (path, what, mend) = match &self {
            ConfigError::Malformed(problem) => return Problem::clone(problem),
            ConfigError::NotFound(path) => (
                path,
                "file not found".to_string(),
                "check the path, or name an ecosystem file",
            ),
            ConfigError::Unreadable { path, source } => (
                path,
                format!("cannot be read: {source}"),
                "check its permissions",
            ),
            ConfigError::TooLarge { path, bytes, max } => (
                path,
                format!("holds {bytes} bytes, more than {max}"),
                "name the right file, or split it",
            ),
            ConfigError::Node { path, source } => (
                path,
                format!("could not be evaluated by node: {source}"),
                "see that it ends by itself and exports its apps",
            ),
        };
        Problem {
            file: path.display().to_string(),
            line: None,
            column: None,
            key: String::new(),
            what,
            mend: mend.to_string(),
            pm2: None,
        }
    }
}
