//! What the ComfyUI tree is, by looking at its files only: nothing is run and nothing is changed.

use super::files::read_limited;
use super::workspace::Workspace;
use crate::core::spec::fornax::InstallCheck;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// The most that is read of any file here, in bytes. The largest, `cli_args.py`, has 20 KB.
const LIMIT: u64 = 1 << 20;

/// Whether ComfyUI is installed, apart from whether it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TreeState {
    /// Something that it needs is not there.
    NotInstalled {
        /// What, and how to get it.
        missing: Vec<InstallCheck>,
    },
    /// Everything that a look at the files can tell is there.
    Installed {
        /// `comfyui_version.py`'s; trees before 0.3 have none.
        version: Option<String>,
        /// The commit that is checked out, if the tree is a git clone.
        commit: Option<String>,
    },
}

/// What must exist before ComfyUI can be started, with absolute paths and hints.
pub fn required(workspace: &Workspace) -> Vec<InstallCheck> {
    let tree = workspace.tree();
    let clone = format!(
        "ComfyUI's tree; install it with `fornax comfyui install`, or: git clone https://github.com/comfyanonymous/ComfyUI {:?}",
        tree.display().to_string()
    );
    let python = format!(
        "the Python that runs ComfyUI; install it with `fornax comfyui install`, or make it with: python3 -m venv {:?}, then install the tree's requirements.txt \
         with it, or give another with --python",
        workspace.root().join("venv").display().to_string()
    );
    let check = |path: &Path, hint: &str| InstallCheck {
        path: path.display().to_string(),
        hint: Some(hint.to_owned()),
    };
    let mut checks: Vec<InstallCheck> = ["main.py", "requirements.txt", "comfy"]
        .iter()
        .map(|name| check(&tree.join(name), &clone))
        .collect();
    checks.push(check(workspace.python(), &python));
    checks
}

/// Looks whether ComfyUI is installed.
pub fn inspect(workspace: &Workspace) -> TreeState {
    let there = |check: &InstallCheck| {
        let path = Path::new(&check.path);
        match path == workspace.python() {
            true => path.is_file() && access(path, AccessFlags::X_OK).is_ok(),
            false => path.exists(),
        }
    };
    let missing: Vec<InstallCheck> = required(workspace)
        .into_iter()
        .filter(|check| !there(check))
        .collect();
    if !missing.is_empty() {
        return TreeState::NotInstalled { missing };
    }
    TreeState::Installed {
        version: version(&workspace.tree()),
        commit: commit(&workspace.tree().join(".git")),
    }
}

/// The flags that this tree's `main.py` knows, read off `comfy/cli_args.py`; `None` if that cannot be read. Flags come and
/// go between versions, and an unknown one ends the start with a usage error (comfyui-facts 4.11).
pub fn flags(workspace: &Workspace) -> Option<BTreeSet<String>> {
    flags_of(&workspace.tree())
}

/// The same of a tree anywhere.
pub(super) fn flags_of(tree: &Path) -> Option<BTreeSet<String>> {
    let text = read_limited(&tree.join("comfy/cli_args.py"), LIMIT).ok()?;
    let flags = flags_in(&text);
    (!flags.is_empty()).then_some(flags)
}

/// Every quoted text that looks like a long flag.
fn flags_in(text: &str) -> BTreeSet<String> {
    let is_flag = |text: &str| {
        text.strip_prefix("--").is_some_and(|name| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        })
    };
    text.split(['"', '\''])
        .filter(|part| is_flag(part))
        .map(str::to_owned)
        .collect()
}

/// The version that a tree says it is.
pub(super) fn version(tree: &Path) -> Option<String> {
    let text = read_limited(&tree.join("comfyui_version.py"), LIMIT).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    let version = line.split(['"', '\'']).nth(1)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-_".contains(c);
    (!version.is_empty() && version.len() <= 64 && version.chars().all(plain))
        .then(|| version.to_owned())
}

/// The commit of a git folder: of its branch, loose or packed (gitrepository-layout), or of a detached head.
fn commit(git: &Path) -> Option<String> {
    let head = read_limited(&git.join("HEAD"), LIMIT).ok()?;
    let Some(branch) = head.trim().strip_prefix("ref: ") else {
        return hash(&head);
    };
    if !branch.starts_with("refs/") || branch.split('/').any(|part| part == "..") {
        return None;
    }
    if let Ok(text) = read_limited(&git.join(branch), LIMIT) {
        return hash(&text);
    }
    let packed = read_limited(&git.join("packed-refs"), LIMIT).ok()?;
    packed.lines().find_map(|line| match line.split_once(' ') {
        Some((commit, name)) if name == branch => hash(commit),
        _ => None,
    })
}

/// A commit's name: 40 hexadecimal digits, or 64 in a SHA-256 repository.
fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    ([40, 64].contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn workspace(dir: &Path) -> Workspace {
        Workspace::resolve(Some(dir), &|_| None).expect("a plain path")
    }

    #[test]
    fn an_empty_workspace_is_not_installed_and_says_how_to_mend_it() {
        let dir = tempfile::tempdir().unwrap();
        let TreeState::NotInstalled { missing } = inspect(&workspace(dir.path())) else {
            panic!();
        };
        assert_eq!(missing.len(), 4);
        assert!(missing.iter().all(|check| check.hint.is_some()));
        assert!(missing[0].hint.as_ref().unwrap().contains("git clone"));
        assert!(missing[3].hint.as_ref().unwrap().contains("--python"));
    }

    #[test]
    fn a_tree_is_installed_once_all_is_there_and_its_python_can_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = workspace(dir.path());
        let tree = workspace.tree();
        write(&tree.join("main.py"), "");
        write(&tree.join("requirements.txt"), "");
        write(&tree.join("comfy/cli_args.py"), "");
        write(workspace.python(), "");
        let TreeState::NotInstalled { missing } = inspect(&workspace) else {
            panic!();
        };
        assert_eq!(missing.len(), 1, "a Python without the execute bit is none");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(workspace.python(), executable).unwrap();
        let installed = |version: Option<&str>, commit: Option<&str>| TreeState::Installed {
            version: version.map(str::to_owned),
            commit: commit.map(str::to_owned),
        };
        assert_eq!(inspect(&workspace), installed(None, None));

        let text = "# made\n__version__ = \"0.3.64\"\n";
        write(&tree.join("comfyui_version.py"), text);
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let git = tree.join(".git");
        write(&git.join("HEAD"), "ref: refs/heads/master\n");
        let packed = format!("# pack-refs with: peeled\n{one} refs/heads/master\n^{two}\n");
        write(&git.join("packed-refs"), &packed);
        assert_eq!(inspect(&workspace), installed(Some("0.3.64"), Some(&one)));
        write(&git.join("refs/heads/master"), &format!("{two}\n"));
        assert_eq!(inspect(&workspace), installed(Some("0.3.64"), Some(&two)));
        write(&git.join("HEAD"), &format!("{one}\n"));
        assert_eq!(inspect(&workspace), installed(Some("0.3.64"), Some(&one)));
        for head in [
            "",
            "ref: refs/../../../etc/passwd",
            "ref: /etc/passwd",
            "nonsense",
        ] {
            write(&git.join("HEAD"), head);
            assert_eq!(
                inspect(&workspace),
                installed(Some("0.3.64"), None),
                "{head}"
            );
        }
    }

    #[test]
    fn flags_are_read_off_the_parser() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = workspace(dir.path());
        assert_eq!(flags(&workspace), None);
        let text =
            "a(\"--port\", type=int, help=\"see --help\")\nb('--database-url')\nc(\"--\", \"-x\")";
        write(&workspace.tree().join("comfy/cli_args.py"), text);
        let want = ["--database-url", "--port"].map(str::to_owned);
        assert_eq!(flags(&workspace), Some(want.into()));
    }
}
