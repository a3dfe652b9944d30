//! Where builds lie, which one runs, and how it is switched: one rename (docs/adr/0009).

use crate::comfyui::workspace::Workspace;
use crate::sys::files::{self, Readers};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The most builds that are looked at.
const BUILDS: usize = 1_000;

/// The folders and files of an installation.
#[derive(Debug, Clone)]
pub struct Layout {
    workspace: Workspace,
}

/// A build's folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Build {
    /// Its number as four digits or more.
    pub id: String,
    /// Its folder.
    pub dir: PathBuf,
}

impl Build {
    /// The ComfyUI tree.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("ComfyUI")
    }

    /// The environment.
    pub fn venv(&self) -> PathBuf {
        self.dir.join("venv")
    }

    /// Its interpreter.
    pub fn python(&self) -> PathBuf {
        self.venv().join("bin/python")
    }

    /// The folder of custom nodes.
    pub fn nodes(&self) -> PathBuf {
        self.tree().join("custom_nodes")
    }

    /// What it was made from.
    pub fn record(&self) -> PathBuf {
        self.dir.join("build.json")
    }
}

impl Layout {
    /// Of this workspace.
    pub fn new(workspace: &Workspace) -> Self {
        Self {
            workspace: workspace.clone(),
        }
    }

    /// The workspace.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The folder of builds.
    pub fn builds_dir(&self) -> PathBuf {
        self.workspace.root().join("builds")
    }

    /// The settings.
    pub fn settings_file(&self) -> PathBuf {
        self.workspace.root().join("fornax.json")
    }

    /// What is installed, so that it can be installed again.
    pub fn lock_file(&self) -> PathBuf {
        self.workspace.root().join("fornax.lock.json")
    }

    /// Phase and progress of the installer.
    pub fn state_file(&self) -> PathBuf {
        self.workspace.state_dir().join("install.json")
    }

    /// Everything that git, pip and Python have said.
    pub fn log_file(&self) -> PathBuf {
        self.workspace.state_dir().join("install.log")
    }

    /// Held by the one installer.
    pub fn installer_lock(&self) -> PathBuf {
        self.workspace.state_dir().join("install.lock")
    }

    /// The build of this number.
    pub fn build(&self, id: &str) -> Build {
        Build {
            id: id.to_owned(),
            dir: self.builds_dir().join(id),
        }
    }

    /// Every build, the oldest first.
    pub fn builds(&self) -> Vec<Build> {
        let Ok(entries) = fs::read_dir(self.builds_dir()) else {
            return Vec::new();
        };
        let mut builds: Vec<Build> = entries
            .flatten()
            .take(BUILDS)
            .filter_map(|entry| {
                let id = entry.file_name().into_string().ok()?;
                (is_id(&id) && entry.path().is_dir()).then(|| self.build(&id))
            })
            .collect();
        builds.sort_by_key(|build| (build.id.len(), build.id.clone()));
        builds
    }

    /// A number that no build has had here, unless it was removed.
    pub fn next(&self) -> Build {
        let last = self.builds().last().map_or(0, |build| number(&build.id));
        self.build(&format!("{:04}", last + 1))
    }

    /// The build that runs.
    pub fn current(&self) -> Option<Build> {
        self.linked("current")
    }

    /// The last good one before it.
    pub fn previous(&self) -> Option<Build> {
        self.linked("previous")
    }

    fn linked(&self, name: &str) -> Option<Build> {
        let target = fs::read_link(self.builds_dir().join(name)).ok()?;
        let id = target.file_name().and_then(OsStr::to_str)?.to_owned();
        let build = self.build(&id);
        (is_id(&id) && build.dir.is_dir()).then_some(build)
    }

    /// Whether the path that is run is ours to switch: a link, or nothing yet.
    pub fn is_ours(&self) -> bool {
        match fs::symlink_metadata(self.workspace.tree()) {
            Ok(meta) => {
                meta.is_symlink()
                    && fs::read_link(self.workspace.tree())
                        .is_ok_and(|to| to == Path::new(TREE_LINK))
            }
            Err(_) => true,
        }
    }

    /// Makes `build` the one that runs; the one that ran becomes `previous`. From the rename on every start is of the new one.
    ///
    /// # Errors
    /// A link or the launcher cannot be made; then the build that ran still runs.
    pub fn switch(&self, build: &Build) -> io::Result<()> {
        let current = self.current();
        self.entrances()?;
        if let Some(current) = current.filter(|current| current != build) {
            self.link("previous", &current.id)?;
        }
        self.link("current", &build.id)
    }

    /// Goes back to the last good build, which changes places with the one that runs: twice is forth again. `None` when there is none.
    ///
    /// # Errors
    /// A link cannot be made.
    pub fn rollback(&self) -> io::Result<Option<Build>> {
        let Some(previous) = self.previous() else {
            return Ok(None);
        };
        if self.current().as_ref() == Some(&previous) {
            return Ok(None);
        }
        self.switch(&previous)?;
        Ok(Some(previous))
    }

    pub(super) fn link(&self, name: &str, to: &str) -> io::Result<()> {
        place_link(Path::new(to), &self.builds_dir().join(name))
    }

    /// What leads to the current build: the tree's path, and the Python's.
    pub(super) fn entrances(&self) -> io::Result<()> {
        let tree = self.workspace.tree();
        if fs::read_link(&tree).is_err() {
            place_link(Path::new(TREE_LINK), &tree)?;
        }
        let bin = self.workspace.root().join("venv/bin");
        fs::create_dir_all(&bin)?;
        let python = bin.join("python");
        let text = launcher(self.workspace.root());
        if fs::read_to_string(&python).is_ok_and(|known| known == text) {
            return Ok(());
        }
        // A link into an environment made by hand would be written through.
        let beside = bin.join(".python.new");
        files::replace(&beside, text.as_bytes(), Readers::Anybody)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
        fs::rename(beside, python)
    }
}

/// Where `<workspace>/ComfyUI` leads.
const TREE_LINK: &str = "builds/current/ComfyUI";

/// The program at `venv/bin/python`. It finds the build that its app tries (by `name`, which every app has in its environment),
/// else the one that the working folder lies in, else the current one, once, and goes on as its Python under its real path.
fn launcher(root: &Path) -> String {
    let quoted = root.display().to_string().replace('\'', r"'\''");
    format!(
        r#"#!/bin/sh
# Made by Fornax: runs the Python of the build that this starts in, by real paths, so that a switch of builds
# does not reach into a process that runs.
ws='{quoted}'
here=$(pwd -P)
case $here in
  */builds/*/ComfyUI) build=${{here%/ComfyUI}} ;;
  *) build=$(CDPATH= cd -- "$ws/builds/current" && pwd -P) || exit 127 ;;
esac
case ${{name-}} in
  ''|.*|*/*) ;;
  *)
    if tried=$(CDPATH= cd -- "$ws/builds/trial/$name" 2>/dev/null && pwd -P); then
      build=$tried
      case $here in */builds/*/ComfyUI) CDPATH= cd -- "$build/ComfyUI" || exit 127 ;; esac
    fi ;;
esac
case $1 in
  "$ws"/ComfyUI/*) script=$build/ComfyUI/${{1#"$ws"/ComfyUI/}}; shift; set -- "$script" "$@" ;;
esac
exec "$build/venv/bin/python" "$@"
"#
    )
}

/// A link put in the place of whatever link is there, in one step.
pub(super) fn place_link(to: &Path, at: &Path) -> io::Result<()> {
    if let Some(folder) = at.parent() {
        fs::create_dir_all(folder)?;
    }
    let name = at.file_name().unwrap_or_default().to_string_lossy();
    let beside = at.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(to, &beside)?;
    fs::rename(&beside, at)
}

fn is_id(name: &str) -> bool {
    (4..=9).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_digit())
}

fn number(id: &str) -> u32 {
    id.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn layout(dir: &Path) -> Layout {
        Layout::new(&Workspace::resolve(Some(dir), &|_| None).expect("a plain path"))
    }

    fn build(layout: &Layout) -> Build {
        let build = layout.next();
        fs::create_dir_all(build.tree()).expect("a tree");
        fs::create_dir_all(build.venv().join("bin")).expect("an environment");
        let shell = "#!/bin/sh\necho \"$0 $*\"\n";
        fs::write(build.python(), shell).expect("a python");
        fs::set_permissions(build.python(), fs::Permissions::from_mode(0o755)).expect("a program");
        build
    }

    #[test]
    fn a_switch_keeps_the_last_good_one_and_rolling_back_twice_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(&dir.path().join("a 'b"));
        assert!(layout.is_ours() && layout.current().is_none());
        assert_eq!(layout.rollback().unwrap(), None);
        let one = build(&layout);
        layout.switch(&one).unwrap();
        assert_eq!(
            (layout.current(), layout.previous()),
            (Some(one.clone()), None)
        );
        let two = build(&layout);
        assert_eq!(two.id, "0002");
        layout.switch(&two).unwrap();
        layout.switch(&two).unwrap();
        assert_eq!(
            (layout.current(), layout.previous()),
            (Some(two.clone()), Some(one.clone()))
        );
        assert_eq!(layout.rollback().unwrap(), Some(one.clone()));
        assert_eq!(layout.rollback().unwrap(), Some(two));
        assert!(layout.is_ours());
    }

    #[test]
    fn the_launcher_gives_python_real_paths_of_the_build_it_starts_in() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap().join("a 'b");
        let layout = layout(&root);
        let one = build(&layout);
        let two = build(&layout);
        layout.switch(&one).unwrap();
        let script = root.join("ComfyUI/main.py");
        let run = |cwd: &Path| {
            let done = Command::new(root.join("venv/bin/python"))
                .arg(&script)
                .args(["--x", "y"])
                .current_dir(cwd)
                .output()
                .unwrap();
            String::from_utf8(done.stdout).unwrap()
        };
        let of = |build: &Build| {
            format!(
                "{} {} --x y\n",
                build.python().display(),
                build.tree().join("main.py").display()
            )
        };
        assert_eq!(run(&root), of(&one));
        assert_eq!(run(&root.join("ComfyUI")), of(&one));
        assert_eq!(run(&two.tree()), of(&two), "a canary starts in its build");
    }

    #[test]
    fn a_tree_made_by_hand_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        fs::create_dir(dir.path().join("ComfyUI")).unwrap();
        assert!(!layout.is_ours());
    }
}
