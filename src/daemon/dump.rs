//! `dump.pm2`: the list that outlives the daemon, readable by PM2 too (spec 6.9). Written atomically, for the owner's eyes only.

use super::snapshot::Snapshot;
use super::wire;
use crate::core::spec::conf;
use crate::sys::files::Readers;
use crate::sys::versions::Versioned;
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a `pm2 save` that is under way is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(3);

/// Why a list could not be saved.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; the list saved before it is kept", path.display())]
pub struct DumpError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Saves the list, unless it is empty: then the one saved before is worth more. The two saved before it are kept as `backup`
/// and `backup` with `.1` behind it.
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
    let file = Versioned::triple(path.to_owned(), backup.to_owned());
    let replaced = file
        .lock(LOCK_LIMIT)
        .and_then(|writing| writing.replace(text.as_bytes(), Readers::Owner, conf::is_dump));
    match replaced {
        Ok(None) => Ok(()),
        Ok(Some(broken)) => {
            tracing::warn!(%broken, "the list saved before cannot be read");
            Ok(())
        }
        Err(source) => Err(DumpError {
            path: path.to_owned(),
            source,
        }),
    }
}
