//! `dump.pm2`: the list that outlives the daemon, readable by PM2 too (spec 6.9). Written atomically, for the owner's eyes only.

use super::snapshot::Snapshot;
use super::wire;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Keys that belong to one life of an instance, which PM2 leaves out of its dump.
const NOT_DUMPED: [&str; 4] = ["instances", "pm_id", "prev_restart_delay", "fornax_state"];

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
            dumped(serde_json::from_str(&text).unwrap_or_default())
        })
        .collect();
    if records.is_empty() {
        return Ok(());
    }
    write(path, backup, &Value::Array(records).to_string())
}

/// A `pm2_env` as it is dumped.
pub fn dumped(mut record: Value) -> Value {
    if let Some(map) = record.as_object_mut() {
        map.retain(|key, _| !NOT_DUMPED.contains(&key.as_str()));
    }
    record
}

/// Puts the text in place of the file, which becomes the backup. At no moment is there neither.
pub fn write(path: &Path, backup: &Path, text: &str) -> Result<(), DumpError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| DumpError { path, source }
    };
    if path.exists() {
        let old = fs::read(path).map_err(at(path))?;
        replace(backup, &old).map_err(at(backup))?;
    }
    replace(path, text.as_bytes()).map_err(at(path))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself must survive a power cut.
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    })();
    if written.is_err() {
        // What is left of the attempt is of no use to anybody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_list_before_becomes_the_backup_and_others_cannot_read_either() {
        let folder = tempfile::tempdir().unwrap();
        let (path, backup) = (
            folder.path().join("dump.pm2"),
            folder.path().join("dump.pm2.bak"),
        );
        write(&path, &backup, "[1]").unwrap();
        write(&path, &backup, "[2]").unwrap();
        assert_eq!(
            (
                fs::read_to_string(&path).unwrap(),
                fs::read_to_string(&backup).unwrap()
            ),
            ("[2]".into(), "[1]".into())
        );
        for file in [&path, &backup] {
            assert_eq!(
                fs::metadata(file).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_full_disk_keeps_the_old_list() {
        let missing = Path::new("/no/such/folder/dump.pm2");
        assert!(
            write(missing, missing, "[]")
                .unwrap_err()
                .to_string()
                .contains("is kept")
        );
    }
}
