//! The file of a program, found again through /proc whatever has become of its name.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Our own program, as it was when we were started.
pub const OWN: &str = "/proc/self/exe";

/// A path for executing what `open` leads to: the file's own name where that still is the same file, so that `ps` and /proc
/// show it; else `open` itself, which goes on working when the name has gone or means another file.
pub fn named(open: &Path) -> PathBuf {
    let identity = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    fs::read_link(open)
        .ok()
        .filter(|name| identity(name).is_some() && identity(name) == identity(open))
        .unwrap_or_else(|| open.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_program_is_called_by_its_name_while_that_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        fs::write(&path, "one").unwrap();
        let file = fs::File::open(&path).unwrap();
        let open = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(named(&open), path);
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::write(&path, "two").unwrap();
        assert_eq!(named(&open), folder.path().join("old"));
        fs::remove_file(folder.path().join("old")).unwrap();
        assert_eq!(named(&open), open);
    }
}
