//! What can go wrong with the store.

use std::path::Path;

/// The store could not do something. Cheap to clone: everybody in a batch is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room. What was to be written is not.
    #[error(
        "the disk under the job store is full ({what}: {why}); free some space, or set FORNAX_JOBS_DIR to a folder with more and restart the daemon"
    )]
    Full {
        /// What was tried.
        what: String,
        /// What the system said.
        why: String,
    },
    /// Something else.
    #[error("the job store: cannot {what}: {why}")]
    Failed {
        /// What was tried.
        what: String,
        /// What the system said.
        why: String,
    },
    /// Made by a later Fornax.
    #[error(
        "the job store is of version {found}, and this Fornax knows {known}; use the Fornax that wrote it, or move the folder `jobs` away"
    )]
    Later {
        /// The version found.
        found: i64,
        /// The version known.
        known: i64,
    },
    /// Its thread has ended.
    #[error("the job store has ended")]
    Ended,
}

impl StoreError {
    /// From SQLite.
    pub fn sqlite(what: &str, error: &rusqlite::Error) -> Self {
        let full = matches!(
            error.sqlite_error_code(),
            Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
        );
        Self::of(full, what.to_owned(), error.to_string())
    }

    /// From the file system.
    pub fn io(what: &str, path: &Path, error: &std::io::Error) -> Self {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        Self::of(
            full,
            format!("{what} {}", path.display()),
            error.to_string(),
        )
    }

    fn of(full: bool, what: String, why: String) -> Self {
        if full {
            Self::Full { what, why }
        } else {
            Self::Failed { what, why }
        }
    }
}
