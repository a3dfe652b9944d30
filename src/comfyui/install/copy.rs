//! Beginning a build as a copy of another: hard links to its files, and its path written anew where scripts hold it.

use super::git::remove;
use super::layout::Build;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

/// The largest script that is looked into, in bytes.
const SCRIPT: u64 = 4 << 20;

/// Copies the tree and the environment of `from` to where `to` will be. A copy that was cut off is begun anew.
///
/// # Errors
/// Something cannot be read or made.
pub fn build(from: &Build, to: &Build) -> io::Result<()> {
    let part = to.dir.with_extension("part");
    remove(&part)?;
    fs::create_dir_all(&part)?;
    for name in ["ComfyUI", "venv"] {
        let source = from.dir.join(name);
        if source.is_dir() {
            tree(&source, &part.join(name))?;
        }
    }
    relocate(&part.join("venv"), &from.dir, &to.dir)?;
    fs::rename(&part, &to.dir)
}

/// A folder with everything in it; files are linked, or copied where the file system has no links.
fn tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() && fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
        }
        // Sockets and pipes belong to whoever runs.
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

/// Writes the new path into what holds the old one: programs of `bin`, `pyvenv.cfg`, and paths of editable packages.
fn relocate(venv: &Path, old: &Path, new: &Path) -> io::Result<()> {
    let (old, new) = (old.display().to_string(), new.display().to_string());
    let mut files = vec![venv.join("pyvenv.cfg")];
    files.extend(entries(&venv.join("bin")));
    for version in entries(&venv.join("lib")) {
        let site = version.join("site-packages");
        files.extend(entries(&site).into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.ends_with(".pth") || name.starts_with("__editable__")
        }));
    }
    for file in files {
        let is_small =
            fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= SCRIPT);
        if is_small {
            rewrite(&file, &old, &new)?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// In a file of its own: the old build's is another name of the same file.
fn rewrite(file: &Path, old: &str, new: &str) -> io::Result<()> {
    let mut text = Vec::new();
    let source = File::open(file)?;
    let mode = source.metadata()?.permissions().mode();
    source.take(SCRIPT).read_to_end(&mut text)?;
    let Ok(text) = String::from_utf8(text) else {
        return Ok(());
    };
    if !text.contains(old) {
        return Ok(());
    }
    fs::remove_file(file)?;
    let mut made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o777)
        .open(file)?;
    made.write_all(text.replace(old, new).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_shares_its_files_and_has_its_own_path_in_its_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let of = |id: &str| Build {
            id: id.to_owned(),
            dir: dir.path().join(id),
        };
        let (one, two) = (of("0001"), of("0002"));
        fs::create_dir_all(one.nodes().join("pack")).unwrap();
        fs::write(one.nodes().join("pack/x.py"), "x").unwrap();
        fs::create_dir_all(one.venv().join("bin")).unwrap();
        let script = format!("#!{}/venv/bin/python\n", one.dir.display());
        fs::write(one.venv().join("bin/pip"), &script).unwrap();
        fs::set_permissions(
            one.venv().join("bin/pip"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        symlink("/usr/bin/python3", one.python()).unwrap();
        // What a copy that was cut off has left.
        fs::create_dir_all(dir.path().join("0002.part/ComfyUI/half")).unwrap();
        build(&one, &two).unwrap();
        let inode = |build: &Build| fs::metadata(build.nodes().join("pack/x.py")).unwrap().ino();
        assert_eq!(inode(&one), inode(&two));
        assert!(!two.tree().join("half").exists());
        let pip = two.venv().join("bin/pip");
        let moved = fs::read_to_string(&pip).unwrap();
        assert_eq!(moved, format!("#!{}/venv/bin/python\n", two.dir.display()));
        assert_eq!(
            fs::metadata(&pip).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_to_string(one.venv().join("bin/pip")).unwrap(),
            script
        );
        assert_eq!(
            fs::read_link(two.python()).unwrap(),
            Path::new("/usr/bin/python3")
        );
    }
}
