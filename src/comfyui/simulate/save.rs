//! Writes pictures into an output directory under ComfyUI's names: `<prefix>_00001_.png`, one past the highest there.

use super::picture::Picture;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path};

/// What to write, where, under which prefix.
pub(super) struct Save {
    /// The pictures.
    pub picture: Picture,
    /// The directory that the prefix starts from.
    pub root: std::path::PathBuf,
    /// May name a subfolder: `a/b/name`.
    pub prefix: String,
    /// `output` or `temp`, as the result tells it.
    pub kind: &'static str,
    /// Text chunks of each PNG.
    pub texts: Vec<(&'static str, String)>,
}

/// Why pictures were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    /// The prefix leads outside.
    #[error("**** ERROR: Saving image outside the output folder is not allowed.")]
    Outside,
    /// The job was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The system refused.
    #[error("cannot write to {path}: {source}")]
    Write {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Save {
    /// Writes every picture of the batch and gives their places: `[{filename, subfolder, type}]`. Blocks; `stop` is asked
    /// between rows.
    pub(super) fn write(&self, stop: impl Fn() -> bool) -> Result<Vec<Value>, SaveError> {
        let prefix = self.expanded();
        let path = Path::new(&prefix);
        let climbs = path
            .components()
            .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir));
        if climbs || prefix.contains('\0') {
            return Err(SaveError::Outside);
        }
        let (subfolder, name) = match prefix.rsplit_once('/') {
            Some((subfolder, name)) => (subfolder, name),
            None => ("", prefix.as_str()),
        };
        let directory = self.root.join(subfolder);
        let failed = |source| SaveError::Write {
            path: directory.display().to_string(),
            source,
        };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let first = next_counter(&directory, name).map_err(failed)?;
        let mut saved = Vec::new();
        for number in 0..self.picture.batch {
            let name = name.replace("%batch_num%", &number.to_string());
            let filename = format!("{name}_{:05}_.png", first.saturating_add(u64::from(number)));
            let path = directory.join(&filename);
            let failed = |source| SaveError::Write {
                path: path.display().to_string(),
                source,
            };
            let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
            let whole = self
                .picture
                .write_png(number, &self.texts, &mut file, &stop)
                .map_err(failed)?;
            file.flush().map_err(failed)?;
            if !whole {
                // Half a picture must not be served; if it cannot be removed, the interrupt is still the answer.
                let _ = std::fs::remove_file(&path);
                return Err(SaveError::Interrupted);
            }
            saved.push(json!({"filename": filename, "subfolder": subfolder, "type": self.kind}));
        }
        Ok(saved)
    }

    /// The prefix with `%width%`, `%height%` and the local date's parts filled in, as ComfyUI does.
    fn expanded(&self) -> String {
        let now = jiff::ZonedDateTime::now();
        let parts = [
            ("%width%", self.picture.width.to_string()),
            ("%height%", self.picture.height.to_string()),
            ("%year%", now.strftime("%Y").to_string()),
            ("%month%", now.strftime("%m").to_string()),
            ("%day%", now.strftime("%d").to_string()),
            ("%hour%", now.strftime("%H").to_string()),
            ("%minute%", now.strftime("%M").to_string()),
            ("%second%", now.strftime("%S").to_string()),
        ];
        parts
            .iter()
            .fold(self.prefix.clone(), |prefix, (name, value)| {
                prefix.replace(name, value)
            })
    }
}

/// One past the highest number of `<name>_<number>_…` in the directory, as ComfyUI counts.
fn next_counter(directory: &Path, name: &str) -> io::Result<u64> {
    let mut highest = 0;
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        let number = file.to_str().and_then(|file| {
            file.strip_prefix(name)?
                .strip_prefix('_')?
                .split('_')
                .next()?
                .parse::<u64>()
                .ok()
        });
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest.saturating_add(1))
}

/// JSON in ASCII only, as Python writes it: PNG text chunks are Latin-1.
pub(super) fn ascii_json(value: &Value) -> String {
    let mut ascii = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfyui::simulate::picture::Fill;

    fn save(root: &Path, prefix: &str, batch: u32) -> Result<Vec<Value>, SaveError> {
        let picture = Picture {
            width: 4,
            height: 4,
            batch,
            fill: Fill::Flat(255),
        };
        Save {
            picture,
            root: root.into(),
            prefix: prefix.into(),
            kind: "output",
            texts: Vec::new(),
        }
        .write(|| false)
    }

    #[test]
    fn numbers_go_on_after_the_highest_there() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a_00041_.png"), "").unwrap();
        std::fs::write(root.path().join("a_text.png"), "").unwrap();
        std::fs::write(root.path().join("ab_00099_.png"), "").unwrap();
        let saved = save(root.path(), "a", 2).unwrap();
        assert_eq!(saved[0]["filename"], "a_00042_.png");
        assert_eq!(saved[1]["filename"], "a_00043_.png");
        let saved = save(root.path(), "sub/folder/%width%x%height%", 1).unwrap();
        assert_eq!(
            saved[0],
            json!({"filename": "4x4_00001_.png", "subfolder": "sub/folder", "type": "output"})
        );
        assert!(root.path().join("sub/folder/4x4_00001_.png").is_file());
    }

    #[test]
    fn a_prefix_that_leads_outside_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        for prefix in ["../x", "/x", "a/../../x", "x\0"] {
            assert!(
                matches!(
                    save(&root.path().join("out"), prefix, 1),
                    Err(SaveError::Outside)
                ),
                "{prefix:?}"
            );
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_interrupted_picture_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let picture = Picture {
            width: 4,
            height: 4,
            batch: 1,
            fill: Fill::Flat(255),
        };
        let save = Save {
            picture,
            root: root.path().into(),
            prefix: "a".into(),
            kind: "output",
            texts: Vec::new(),
        };
        assert!(matches!(save.write(|| true), Err(SaveError::Interrupted)));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn json_becomes_ascii_without_losing_a_character() {
        let value = json!({"text": "käfer 🐞 \"quoted\""});
        let ascii = ascii_json(&value);
        assert!(ascii.is_ascii());
        assert_eq!(serde_json::from_str::<Value>(&ascii).unwrap(), value);
    }
}
