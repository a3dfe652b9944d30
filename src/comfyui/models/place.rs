//! Names that stay below their root.

use std::io;
use std::path::{Component, Path, PathBuf};

/// The longest path below a root, in bytes.
const LONGEST: usize = 1024;

/// The longest part of a path: the kernel's 255 bytes, less what stands for an unfinished file and its notes.
const LONGEST_PART: usize = 230;

/// Why a name cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// By its spelling.
    #[error("the path {path:?} {what}; give a plain path below the folder")]
    Spelling {
        /// The path.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// By a symbolic link on its way.
    #[error("{} leads out of {}, by a symbolic link; link that folder as a whole, or remove the link", path.display(), root.display())]
    Escapes {
        /// The path.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// It could not be looked at.
    #[error("cannot look at {}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with the spelling of a path below a root; `None` if nothing is.
pub fn fault(path: &str) -> Option<&'static str> {
    let parts = || Path::new(path).components();
    if path.is_empty() || path.len() > LONGEST {
        return Some("is empty or longer than 1024 bytes");
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return Some("holds a control character or a backslash");
    }
    if !parts().all(|part| matches!(part, Component::Normal(_))) {
        return Some("is absolute, or has a `.` or `..` in it");
    }
    // `a//b` and `a/` read as parts without the slash, but would not compare equal to their plain spelling.
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return Some("has an empty part");
    }
    if path.split('/').any(|part| part.len() > LONGEST_PART) {
        return Some("has a part of more than 230 bytes");
    }
    if path.split('/').any(|part| part.starts_with('.')) {
        return Some("has a part that begins with a dot");
    }
    if path.ends_with(".part") || path.ends_with(".part.json") {
        return Some("ends as an unfinished download does");
    }
    None
}

/// `root` joined with `path`. The folders on the way need not exist; those that do may be links, as long as they stay below `root`.
///
/// # Errors
/// A path that is spelled badly, or leads out of `root`.
pub fn below(root: &Path, path: &str) -> Result<PathBuf, PlaceError> {
    if let Some(what) = fault(path) {
        return Err(PlaceError::Spelling {
            path: path.to_owned(),
            what,
        });
    }
    let io_error = |path: &Path| {
        let path = path.to_owned();
        move |source| PlaceError::Io { path, source }
    };
    let joined = root.join(path);
    let real_root = root.canonicalize().map_err(io_error(root))?;
    let mut there = joined.parent().unwrap_or(root);
    let real = loop {
        match there.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A dangling link would be followed by whoever makes what is behind it.
                if there.is_symlink() {
                    return Err(PlaceError::Escapes {
                        path: joined,
                        root: root.to_owned(),
                    });
                }
                there = there.parent().unwrap_or(root);
            }
            Err(error) => return Err(io_error(there)(error)),
        }
    };
    match real.starts_with(&real_root) {
        true => Ok(joined),
        false => Err(PlaceError::Escapes {
            path: joined,
            root: root.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_stays_below_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("models");
        std::fs::create_dir_all(root.join("a")).unwrap();
        symlink(dir.path(), root.join("out")).unwrap();
        symlink("a", root.join("in")).unwrap();
        symlink("/nowhere/at/all", root.join("dangling")).unwrap();
        for good in [
            "x.bin",
            "a/x",
            "new/folder/x y.bin",
            "in/x",
            "..a".trim_start_matches('.'),
        ] {
            assert_eq!(below(&root, good).unwrap(), root.join(good));
        }
        let long = "x".repeat(231);
        for bad in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "./x",
            "a//x",
            "a/",
            "a\nb",
            "a\\b",
            ".hidden",
            "x.part",
            "x.part.json",
            &long,
        ] {
            assert!(
                matches!(below(&root, bad), Err(PlaceError::Spelling { .. })),
                "{bad}"
            );
        }
        for bad in ["out/x", "out/models/../x", "dangling/x", "dangling/y/x"] {
            assert!(below(&root, bad).is_err(), "{bad}");
        }
    }
}
