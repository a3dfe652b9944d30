//! Writing the ecosystem file, without ever losing what the operator changed in it.
//!
//! Beside the file, in `.fornax/ecosystem.generated`, lies a copy of what was last generated. A file that equals its copy
//! is ours to regenerate; any other is the operator's and is kept. A copy and not a hash, so that `diff` shows what was
//! changed; beside the file and not inside it, so that the file holds nothing but what PM2 and Fornax read.

use crate::comfyui::files::read_limited;
use crate::comfyui::workspace::Workspace;
use crate::sys::files::{self, Readers};
use serde_json::Value;
use std::io;
use std::path::PathBuf;

/// The largest file that is compared, in bytes; a generated one has some 2 KB an app.
const LIMIT: u64 = 4 << 20;

/// What became of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    Written,
    /// It already said the same.
    Unchanged,
    /// It was left alone.
    Kept {
        /// Why, and how to have it rewritten.
        reason: String,
    },
}

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}; check that the workspace may be written to", path.display())]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Writes `value` as the workspace's ecosystem file, whole or not at all. A file that the operator has edited, or made, is
/// kept unless `force`.
///
/// # Errors
/// The file, its copy or their folders cannot be written.
pub fn write(workspace: &Workspace, value: &Value, force: bool) -> Result<Written, WriteError> {
    let path = workspace.ecosystem_file();
    let copy = workspace.state_dir().join("ecosystem.generated");
    let text = format!("{value:#}\n");
    let present = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(WriteError { path, source }),
        Ok(_) => Some(read_limited(&path, LIMIT)),
    };
    let unchanged = matches!(&present, Some(Ok(present)) if *present == text);
    if let (Some(present), false, false) = (present, unchanged, force) {
        let generated = read_limited(&copy, LIMIT).ok();
        let kept = match present {
            Err(error) => Some(format!("it cannot be read ({error})")),
            Ok(_) if path.is_symlink() => Some("it is a link to a file elsewhere".to_owned()),
            Ok(_) if generated.is_none() => Some("it was not written by fornax".to_owned()),
            Ok(present) if generated.as_ref() != Some(&present) => Some(format!(
                "it has been edited (see: diff {} {})",
                copy.display(),
                path.display()
            )),
            Ok(_) => None,
        };
        if let Some(why) = kept {
            return Ok(Written::Kept {
                reason: format!("{} is kept: {why}; --force rewrites it", path.display()),
            });
        }
    }
    // The file first: after a crash in between, the next run finds it unchanged and mends the copy.
    for (file, skip) in [(path, unchanged), (copy, false)] {
        let dir = file.parent().expect("both lie in a folder");
        let done = match skip {
            true => Ok(()),
            false => std::fs::create_dir_all(dir)
                .and_then(|()| files::replace(&file, text.as_bytes(), Readers::Anybody)),
        };
        done.map_err(|source| WriteError { path: file, source })?;
    }
    Ok(match unchanged {
        true => Written::Unchanged,
        false => Written::Written,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workspace(dir: &tempfile::TempDir) -> Workspace {
        Workspace::resolve(Some(&dir.path().join("ws")), &|_| None).expect("a plain path")
    }

    fn kept(written: Written) -> String {
        match written {
            Written::Kept { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unedited_file_follows_the_options_and_an_edited_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = workspace(&dir);
        let path = workspace.ecosystem_file();
        let (one, two) = (json!({"apps": [1]}), json!({"apps": [2]}));
        assert_eq!(write(&workspace, &one, false).unwrap(), Written::Written);
        assert_eq!(write(&workspace, &one, false).unwrap(), Written::Unchanged);
        assert_eq!(write(&workspace, &two, false).unwrap(), Written::Written);

        std::fs::write(&path, "{\"apps\": [2, \"mine\"]}").unwrap();
        let reason = kept(write(&workspace, &one, false).unwrap());
        assert!(
            reason.contains("edited") && reason.contains("--force"),
            "{reason}"
        );
        assert!(std::fs::read_to_string(&path).unwrap().contains("mine"));
        assert_eq!(write(&workspace, &one, true).unwrap(), Written::Written);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{one:#}\n")
        );
        let left: Vec<_> = std::fs::read_dir(workspace.root()).unwrap().collect();
        assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");
    }

    #[test]
    fn a_file_of_the_operators_own_is_kept_whatever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = workspace(&dir);
        let path = workspace.ecosystem_file();
        let value = json!({"apps": []});
        std::fs::create_dir(workspace.root()).unwrap();
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(kept(write(&workspace, &value, false).unwrap()).contains("cannot be read"));
        std::fs::write(&path, "{}").unwrap();
        assert!(kept(write(&workspace, &value, false).unwrap()).contains("not written by fornax"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        kept(write(&workspace, &value, false).unwrap());
    }

    #[test]
    fn a_crash_between_the_file_and_its_copy_is_mended_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = workspace(&dir);
        let (one, two) = (json!({"apps": [1]}), json!({"apps": [2]}));
        write(&workspace, &one, false).unwrap();
        std::fs::write(workspace.ecosystem_file(), format!("{two:#}\n")).unwrap();
        assert_eq!(write(&workspace, &two, false).unwrap(), Written::Unchanged);
        assert_eq!(write(&workspace, &one, false).unwrap(), Written::Written);
    }
}
