//! Room on the disk, and removing what nobody needs any more.

use super::git;
use super::layout::{Build, Layout};
use super::record::{BuildState, Record};
use nix::sys::statvfs::statvfs;
use std::fs;
use std::io;
use std::path::Path;

/// Bytes that may still be written where `path` will be.
///
/// # Errors
/// The system does not tell.
pub fn free(path: &Path) -> io::Result<u64> {
    let there = path.ancestors().find(|path| path.exists());
    let told = statvfs(there.unwrap_or(path))?;
    Ok(told.blocks_available().saturating_mul(told.fragment_size()))
}

/// Copies that were cut off.
pub(super) fn remove_parts(layout: &Layout) -> io::Result<()> {
    for entry in fs::read_dir(layout.builds_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "part")
        {
            git::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes ready builds that are neither current nor the last good one, and that no process runs in. Their ids.
pub fn prune(layout: &Layout) -> Vec<String> {
    remove_where(layout, &|record| {
        record.is_some_and(|record| record.state == BuildState::Ready)
    })
}

/// The same, and what was never finished. The installer's lock is to be held.
pub fn clean(layout: &Layout) -> io::Result<Vec<String>> {
    remove_parts(layout)?;
    let mut removed = remove_where(layout, &|_| true);
    if let (Some(previous), Some(current)) = (layout.previous(), layout.current())
        && previous != current
        && !is_used(&previous)
    {
        git::remove(&previous.dir)?;
        removed.push(previous.id);
    }
    git::remove(&layout.workspace().state_dir().join("edits"))?;
    Ok(removed)
}

fn remove_where(layout: &Layout, is: &dyn Fn(Option<&Record>) -> bool) -> Vec<String> {
    let mut kept = layout.tried();
    kept.extend(layout.current().into_iter().chain(layout.previous()));
    layout
        .builds()
        .into_iter()
        .filter(|build| {
            let kept = kept.contains(build);
            !kept && is(Record::of(build).as_ref()) && !is_used(build)
        })
        .filter(|build| git::remove(&build.dir).is_ok())
        .map(|build| build.id)
        .collect()
}

/// Whether a process runs in it: its folder is the working folder of one.
fn is_used(build: &Build) -> bool {
    let dir = fs::canonicalize(&build.dir).unwrap_or_else(|_| build.dir.clone());
    crate::sys::procfs::all().iter().any(|process| {
        fs::read_link(format!("/proc/{}/cwd", process.pid)).is_ok_and(|cwd| cwd.starts_with(&dir))
    })
}
