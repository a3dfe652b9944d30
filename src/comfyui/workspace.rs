//! The workspace: one folder with one ComfyUI tree, its Python, the shared models, and a folder per instance.

use super::models::folders;
use nix::unistd::{AccessFlags, access};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Variables that name the workspace, the strongest first. The others are what existing machines set.
pub const VARIABLES: [&str; 3] = ["FORNAX_WORKSPACE", "WORKSPACE_PATH", "WORKSPACE_DIR"];

/// Taken when nothing is said and it may be written to: where GPU containers mount their volume.
const COMMON: &str = "/workspace";

/// Where everything of ComfyUI lies. Its paths are absolute, UTF-8, and safe in a URL and in YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    root: PathBuf,
    python: PathBuf,
}

/// The folders of one instance. Instances share none of them: each would delete or overwrite another's (comfyui-facts 4.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceDirs {
    /// Finished pictures.
    pub output: PathBuf,
    /// Uploads.
    pub input: PathBuf,
    /// Given as `--temp-directory`; ComfyUI empties `temp/temp` at each start.
    pub temp: PathBuf,
    /// Settings and workflows. Must exist before ComfyUI starts.
    pub user: PathBuf,
    /// The SQLite database, a file.
    pub database: PathBuf,
}

/// Why there is no workspace.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// Neither a flag, a variable, `/workspace` nor a home.
    #[error(
        "there is no place for a workspace; give one with `--workspace`, or set FORNAX_WORKSPACE or HOME"
    )]
    NoPlace,
    /// A path that ComfyUI, its database or its model list would read as something else.
    #[error("the workspace {path:?} {problem}; choose another path")]
    BadPath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `--python` names a program that is not in `PATH`.
    #[error("there is no {name} in PATH; give `--python` the path of an interpreter")]
    NoPython {
        /// What was given.
        name: String,
    },
    /// A folder or file could not be made.
    #[error("cannot make {}; check that the workspace may be written to", path.display())]
    Make {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Workspace {
    /// The workspace: `flag` (`--workspace`), else `FORNAX_WORKSPACE`, else `WORKSPACE_PATH`, else `/workspace` if it may be
    /// written to, else `fornax` in the user's data folder (`XDG_DATA_HOME`, or `~/.local/share`). `env` looks up a
    /// variable; an empty one counts as unset. Nothing is made yet.
    ///
    /// # Errors
    /// No place at all, or a path that cannot serve.
    pub fn resolve(
        flag: Option<&Path>,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, WorkspaceError> {
        let set = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let common = || {
            let open = access(COMMON, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
            open.then(|| PathBuf::from(COMMON))
        };
        // The XDG specification says to ignore a relative path.
        let data = || set("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let home = || set("HOME").map(|home| home.join(".local/share"));
        let root = flag
            .map(Path::to_owned)
            .or_else(|| VARIABLES.iter().find_map(|name| set(name)))
            .or_else(common)
            .or_else(|| data().or_else(home).map(|data| data.join("fornax")))
            .ok_or(WorkspaceError::NoPlace)?;
        let root = checked(&root)?;
        Ok(Self {
            python: root.join("venv/bin/python"),
            root,
        })
    }

    /// With another interpreter than `venv/bin/python`: a path, or a name to be found in `PATH`. Links are kept, because a
    /// virtual environment is one.
    ///
    /// # Errors
    /// A name that is not in `PATH`, or a path that cannot be written in a file.
    pub fn with_python(
        mut self,
        python: &Path,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, WorkspaceError> {
        let text = python.as_os_str().to_string_lossy();
        let found = match text.contains('/') {
            true => std::path::absolute(python).ok(),
            false => env("PATH").and_then(|path| {
                std::env::split_paths(&path)
                    .filter(|dir| dir.is_absolute())
                    .map(|dir| dir.join(python))
                    .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
            }),
        };
        let found = found.filter(|path| path.to_str().is_some());
        self.python = found.ok_or_else(|| WorkspaceError::NoPython {
            name: text.into_owned(),
        })?;
        Ok(self)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The one ComfyUI tree.
    pub fn tree(&self) -> PathBuf {
        self.root.join("ComfyUI")
    }

    /// The interpreter that runs it.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// The models that all instances share.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The file that tells ComfyUI of them.
    pub fn extra_model_paths(&self) -> PathBuf {
        self.root.join("extra_model_paths.yaml")
    }

    /// The ecosystem file, for Fornax and for PM2.
    pub fn ecosystem_file(&self) -> PathBuf {
        self.root.join("ecosystem.config.json")
    }

    /// Fornax's own notes about this workspace.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join(".fornax")
    }

    /// The folders of the instance in `slot` (`gpu0`, `cpu1`).
    pub fn instance(&self, slot: &str) -> InstanceDirs {
        let dir = self.root.join("instances").join(slot);
        InstanceDirs {
            output: dir.join("output"),
            input: dir.join("input"),
            temp: dir.join("temp"),
            user: dir.join("user"),
            database: dir.join("comfyui.db"),
        }
    }

    /// Makes what ComfyUI needs to find at its start: the folders of each slot, the model folders, and the list of models
    /// unless there is one. In a tree that is there, `custom_nodes` too, without which it dies; a missing tree is not
    /// begun, because git clones only into an empty folder. What exists is left as it is.
    ///
    /// # Errors
    /// The first path that could not be made.
    pub fn prepare_dirs(&self, slots: &[String]) -> Result<(), WorkspaceError> {
        let mut dirs = vec![self.state_dir()];
        for slot in slots {
            let instance = self.instance(slot);
            dirs.extend([
                instance.output,
                instance.input,
                instance.temp,
                instance.user,
            ]);
        }
        dirs.extend(folders::all().map(|name| self.models().join(name)));
        if self.tree().join("main.py").is_file() {
            dirs.push(self.tree().join("custom_nodes"));
        }
        for path in dirs {
            std::fs::create_dir_all(&path)
                .map_err(|source| WorkspaceError::Make { path, source })?;
        }
        let list = self.extra_model_paths();
        let text = folders::list(&self.models(), &BTreeSet::new());
        // One with folders of a manifest is not taken back to the plain one.
        if list.symlink_metadata().is_err()
            || !folders::unlisted(&list, &folders::all().map(str::to_owned).collect()).is_empty()
        {
            let copy = self.state_dir().join("extra_model_paths.generated");
            folders::write(&list, &copy, &text)
                .map_err(|source| WorkspaceError::Make { path: list, source })?;
        }
        Ok(())
    }
}

/// The path made absolute and plain, or why it cannot serve.
fn checked(path: &Path) -> Result<PathBuf, WorkspaceError> {
    let bad = |problem| WorkspaceError::BadPath {
        path: path.to_owned(),
        problem,
    };
    let absolute = std::path::absolute(path).map_err(|_| bad("cannot be made absolute"))?;
    // Collecting drops doubled slashes: ComfyUI cuts its database's URL at the first three.
    let root: PathBuf = absolute.components().collect();
    let text = root.to_str().ok_or_else(|| bad("is not UTF-8"))?;
    // `$`: expanded in the model list. `%`: expanded by the database's migrations. `?`: ends the path in its URL.
    if text.contains(['$', '%', '?']) {
        return Err(bad(
            "contains $, % or ?, which ComfyUI would not read as part of a path",
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(bad("contains a control character"));
    }
    match root.metadata() {
        Ok(meta) if !meta.is_dir() => Err(bad("is not a folder")),
        _ => Ok(root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks variables up in a list.
    fn env<'a>(list: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
        |name| {
            list.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.into())
        }
    }

    #[test]
    fn the_flag_beats_the_variables_and_an_empty_variable_is_none() {
        let both = [
            ("FORNAX_WORKSPACE", "/a"),
            ("WORKSPACE_PATH", "/b"),
            ("HOME", "/h"),
        ];
        for (flag, list, want) in [
            (Some("/f"), &both[..], "/f"),
            (None, &both[..], "/a"),
            (None, &both[1..], "/b"),
            (
                None,
                &[("FORNAX_WORKSPACE", ""), ("WORKSPACE_PATH", "/b//c/./d")],
                "/b/c/d",
            ),
        ] {
            let workspace = Workspace::resolve(flag.map(Path::new), &env(list)).unwrap();
            assert_eq!(workspace.root(), Path::new(want));
            assert_eq!(workspace.python(), Path::new(want).join("venv/bin/python"));
        }
    }

    #[test]
    fn without_a_word_it_is_the_common_folder_or_the_users_data_folder() {
        if access(COMMON, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() {
            println!(
                "NOT RUN in part: {COMMON} may be written to here, so the data folder is never reached"
            );
            assert_eq!(
                Workspace::resolve(None, &env(&[])).unwrap().root(),
                Path::new(COMMON)
            );
            return;
        }
        let of = |list: &[(&str, &str)]| Workspace::resolve(None, &env(list)).map(|w| w.root);
        assert_eq!(
            of(&[("HOME", "/h")]).unwrap(),
            Path::new("/h/.local/share/fornax")
        );
        assert_eq!(
            of(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]).unwrap(),
            Path::new("/d/fornax")
        );
        let relative = of(&[("HOME", "/h"), ("XDG_DATA_HOME", "d")]).unwrap();
        assert_eq!(relative, Path::new("/h/.local/share/fornax"));
        assert!(matches!(of(&[]), Err(WorkspaceError::NoPlace)));
    }

    #[test]
    fn a_path_that_comfyui_would_misread_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path().to_str().unwrap();
        for path in ["/a/$HOME", "/a?b", "/a%20b", "/a\nb", file] {
            let error = Workspace::resolve(Some(Path::new(path)), &env(&[])).unwrap_err();
            assert!(matches!(error, WorkspaceError::BadPath { .. }), "{path}");
        }
        Workspace::resolve(Some(Path::new("/a b/ü#'")), &env(&[])).unwrap();
    }

    #[test]
    fn python_is_a_path_or_a_name_in_path() {
        let workspace = || Workspace::resolve(Some(Path::new("/w")), &env(&[])).unwrap();
        let path = [("PATH", "relative:/nowhere:/usr/bin:/bin")];
        let found = workspace()
            .with_python(Path::new("sh"), &env(&path))
            .unwrap();
        assert!(found.python().is_absolute() && found.python().ends_with("sh"));
        let given = workspace()
            .with_python(Path::new("/not/yet/python"), &env(&[]))
            .unwrap();
        assert_eq!(given.python(), Path::new("/not/yet/python"));
        let error = workspace().with_python(Path::new("no-such-python"), &env(&path));
        assert!(error.unwrap_err().to_string().contains("--python"));
    }

    #[test]
    fn preparing_makes_every_folder_once_and_leaves_the_operators_model_list() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::resolve(Some(&dir.path().join("ws")), &env(&[])).unwrap();
        let slots = ["gpu0".to_owned(), "gpu1".to_owned()];
        workspace.prepare_dirs(&slots).unwrap();
        for slot in &slots {
            let instance = workspace.instance(slot);
            for path in [
                instance.output,
                instance.input,
                instance.temp,
                instance.user,
            ] {
                assert!(path.is_dir(), "{path:?}");
            }
        }
        assert!(!workspace.tree().exists(), "a clone needs an empty place");
        let text = std::fs::read_to_string(workspace.extra_model_paths()).unwrap();
        assert!(
            text.contains(&format!("base_path: \"{}\"", workspace.models().display())),
            "{text}"
        );
        assert!(
            text.contains("    text_encoders: |\n        text_encoders/\n        clip/\n"),
            "{text}"
        );
        std::fs::write(workspace.extra_model_paths(), "mine: {}\n").unwrap();
        std::fs::create_dir(workspace.tree()).unwrap();
        std::fs::write(workspace.tree().join("main.py"), "").unwrap();
        workspace.prepare_dirs(&slots).unwrap();
        assert_eq!(
            std::fs::read_to_string(workspace.extra_model_paths()).unwrap(),
            "mine: {}\n"
        );
        assert!(workspace.tree().join("custom_nodes").is_dir());
    }
}
