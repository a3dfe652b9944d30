//! `dump.pm2`: the list that outlives the daemon, readable by PM2 too (spec 6.9). Written atomically, for the owner's eyes only.

use super::snapshot::Snapshot;
use super::wire;
use crate::core::spec::conf;
use crate::sys::files;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};

/// Why a list could not be saved.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; the list saved before it is kept", path.display())]
pub struct DumpError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Saves the list, unless it is empty: then the one saved before is worth more.
pub fn save(snapshot: &Snapshot, path: &Path, backup: &Path) -> Result<(), DumpError> {
    let records: Vec<Value> = snapshot
        .instances
        .iter()
        .filter(|view| !view.spec.module)
        .map(|view| {
            let mut text = String::new();
            wire::pm2_env(view, &mut text);
            conf::dumped(serde_json::from_str(&text).unwrap_or_default())
        })
        .collect();
    if records.is_empty() {
        return Ok(());
    }
    let text = Value::Array(records).to_string();
    files::replace_with_backup(path, backup, text.as_bytes(), files::Readers::Owner).map_err(
        |source| DumpError {
            path: path.to_owned(),
            source,
        },
    )
}
