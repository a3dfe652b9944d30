//! The tables, and their version.

use super::error::StoreError;
use rusqlite::Connection;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The version written by this program, in SQLite's `user_version`.
pub(super) const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  key TEXT UNIQUE,
  state TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  ended_ms INTEGER,
  bytes INTEGER NOT NULL,
  record TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, created_ms);
CREATE INDEX jobs_by_end ON jobs (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE TABLE workflows (job TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT;
CREATE TABLE hooks (
  job TEXT PRIMARY KEY,
  due_ms INTEGER NOT NULL,
  tries INTEGER NOT NULL,
  url TEXT NOT NULL,
  secret TEXT,
  body TEXT NOT NULL
) STRICT;
CREATE INDEX hooks_by_due ON hooks (due_ms);
";

/// Opens the database at `path`, and makes it if it is not there. Commits reach the system's hands at once and outlive this
/// process; they reach the disk when [`super::Store`] syncs, or SQLite moves them out of the log.
pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let failed =
        |what: &'static str| move |error: rusqlite::Error| StoreError::sqlite(what, &error);
    // Nobody else's from its first moment; SQLite gives its other files the same mode.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::io("open", path, &error))?;
    let connection = Connection::open(path).map_err(failed("open the database"))?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -2048;",
        )
        .map_err(failed("set up the database"))?;
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("read its version"))?;
    match found {
        VERSION => {}
        0 => connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
            ))
            .map_err(failed("make its tables"))?,
        found => {
            return Err(StoreError::Later {
                found,
                known: VERSION,
            });
        }
    }
    Ok(connection)
}
