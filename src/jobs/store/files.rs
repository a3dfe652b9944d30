//! Where things lie, and names that cannot lead out of there.

use super::error::StoreError;
use crate::sys::private;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest name of an output, in bytes.
const NAME: usize = 200;

/// Files that nobody needs stay for so long: they may be on their way.
const UNTOUCHED: Duration = Duration::from_secs(3600);

/// The store's folders, below one root that is the owner's only.
#[derive(Debug, Clone)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Below this root.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// SQLite's file.
    pub fn database(&self) -> PathBuf {
        self.root.join("jobs.sqlite")
    }

    /// SQLite's log.
    pub fn log(&self) -> PathBuf {
        self.root.join("jobs.sqlite-wal")
    }

    /// Outputs of a job. `id` is one of ours: a UUID.
    pub fn outputs(&self, id: &str) -> PathBuf {
        self.root.join("outputs").join(safe(id))
    }

    /// Outputs of a job on their way.
    pub fn arriving(&self, id: &str) -> PathBuf {
        self.root.join("outputs").join(format!("{}.part", safe(id)))
    }

    /// Inputs of a job.
    pub fn inputs(&self, id: &str) -> PathBuf {
        self.root.join("inputs").join(safe(id))
    }

    /// Makes them. Blocking.
    pub fn make(&self) -> Result<(), StoreError> {
        let failed = |error: std::io::Error| StoreError::io("use", &self.root, &error);
        private::folder(&self.root).map_err(failed)?;
        for name in ["outputs", "inputs"] {
            std::fs::create_dir_all(self.root.join(name)).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes what no job that is not settled (`ids`) needs and has not been touched for an hour: inputs of jobs that never came
    /// to be, outputs that never arrived. Blocking.
    pub fn sweep(&self, ids: &HashSet<String>) {
        for (folder, ending) in [("inputs", ""), ("outputs", ".part")] {
            let entries = std::fs::read_dir(self.root.join(folder))
                .into_iter()
                .flatten();
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some(id) = name.strip_suffix(ending) else {
                    continue;
                };
                let touched = entry.metadata().and_then(|data| data.modified());
                let age = touched.ok().and_then(|at| at.elapsed().ok());
                if !ids.contains(id) && age.is_some_and(|age| age > UNTOUCHED) {
                    // What cannot be removed now is met again at the next start.
                    let _ = std::fs::remove_dir_all(entry.path());
                }
            }
        }
    }

    /// Removes what there is of a job. Blocking.
    pub fn remove(&self, id: &str) {
        for folder in [self.outputs(id), self.arriving(id), self.inputs(id)] {
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(?folder, %error, "cannot remove a job's files");
                }
                _ => {}
            }
        }
    }
}

/// A name that is one part of a path, on any file system: no separator, no leading dot, no control character, not too long.
pub fn safe(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        let letter = match letter {
            '/' | '\\' | '\0' | ':' => '_',
            letter if letter.is_control() => '_',
            letter => letter,
        };
        if out.len() + letter.len_utf8() > NAME {
            break;
        }
        out.push(letter);
    }
    if out.is_empty() || out.starts_with('.') {
        out.insert(0, '_');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_lead_out_do_not() {
        for (name, want) in [
            ("pic_00001_.png", "pic_00001_.png"),
            ("../../etc/passwd", "_.._.._etc_passwd"),
            ("/etc/passwd", "_etc_passwd"),
            ("..", "_.."),
            ("", "_"),
            ("a\nb", "a_b"),
            (".hidden", "_.hidden"),
            ("bär 1.png", "bär 1.png"),
        ] {
            assert_eq!(safe(name), want);
        }
    }

    proptest! {
        #[test]
        fn any_name_stays_within_its_folder(name in "\\PC{0,300}|[./\\\\a]{0,40}") {
            let safe = safe(&name);
            let path = Path::new("/root").join(&safe);
            prop_assert_eq!(path.parent(), Some(Path::new("/root")));
            prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(safe.as_str()));
            prop_assert!(safe.len() <= NAME + 1);
        }
    }
}
