//! Names of rotated files, and the renames of one rotation: `x.log` → `x.log.1` → `x.log.2` …, `.gz` ones alike.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The most rotated files that are looked for or kept.
pub(super) const MOST_FILES: u64 = 1000;

/// `path` with `suffix` behind it.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// The rotated file number `n`, 1 the newest.
pub(super) fn rotated(path: &Path, n: u64) -> PathBuf {
    with_suffix(path, &format!(".{n}"))
}

/// The same, compressed.
pub(super) fn zipped(path: &Path, n: u64) -> PathBuf {
    with_suffix(path, &format!(".{n}.gz"))
}

/// Where a compression is written before it is whole.
pub(super) fn partial(path: &Path) -> PathBuf {
    with_suffix(path, ".gz.partial")
}

/// The first step of a rotation, which can be done again. Step `n` moves the rotated file `n`, step 0 the file itself.
pub(super) const FIRST_STEP: u64 = MOST_FILES + 1;

/// Moves every rotated file one further, removes what is past `retain`, and moves `path` itself to `.1` (or removes it
/// when `retain` is 0). On an error `path` is where it was. `note` is told each step before it is done; `from` is the one to begin
/// with: one that may have been done is done again only if it was not.
pub(super) fn shift(
    path: &Path,
    retain: u64,
    from: u64,
    mut note: impl FnMut(u64),
) -> io::Result<()> {
    let retain = retain.min(MOST_FILES);
    if from >= FIRST_STEP {
        note(FIRST_STEP);
        remove_past(path, retain)?;
    }
    for n in (1..retain).rev().filter(|n| *n <= from) {
        note(n);
        gone_is_fine(fs::rename(rotated(path, n), rotated(path, n + 1)))?;
        gone_is_fine(fs::rename(zipped(path, n), zipped(path, n + 1)))?;
    }
    note(0);
    if retain == 0 {
        fs::remove_file(path)
    } else {
        fs::rename(path, rotated(path, 1))
    }
}

/// Makes room behind the oldest file that is kept.
fn remove_past(path: &Path, retain: u64) -> io::Result<()> {
    let mut n = retain.max(1);
    loop {
        let plain = gone_is_fine(fs::remove_file(rotated(path, n)))?;
        let gz = gone_is_fine(fs::remove_file(zipped(path, n)))?;
        n += 1;
        if n > retain + 1 && !(plain || gz) || n > MOST_FILES + 1 {
            return Ok(());
        }
    }
}

/// Whether there was something; an error other than "not found" stays one.
fn gone_is_fine(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<(String, String)> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|e| {
                (
                    e.file_name().into_string().unwrap(),
                    fs::read_to_string(e.path()).unwrap(),
                )
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_move_up_by_one_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        for (name, text) in [
            ("x.log", "now"),
            ("x.log.1", "one"),
            ("x.log.2.gz", "two"),
            ("x.log.3", "three"),
            ("x.log.4", "four"),
            ("y.log.1", "other"),
        ] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        shift(&path, 3, FIRST_STEP, |_| {}).unwrap();
        let want = [
            ("x.log.1", "now"),
            ("x.log.2", "one"),
            ("x.log.3.gz", "two"),
            ("y.log.1", "other"),
        ];
        assert_eq!(
            names(dir.path()),
            want.map(|(n, t)| (n.to_owned(), t.to_owned()))
        );
        fs::write(&path, "new").unwrap();
        shift(&path, 0, FIRST_STEP, |_| {}).unwrap();
        assert!(!path.exists());
    }
}
