//! The directories of one simulated instance, and names from outside turned into paths inside them.

use super::error::SimulateError;
use super::options::SimulateOptions;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Pictures that the input directory may offer; more are left out of the list.
const MOST_PICTURES: usize = 10_000;

/// Where an instance keeps its files.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Saved pictures.
    pub output: PathBuf,
    /// Uploads.
    pub input: PathBuf,
    /// Previews: deleted at the start and at a clean exit.
    pub temp: PathBuf,
    /// Model files.
    pub models: PathBuf,
    /// The base directory that we made ourselves, removed at a clean exit.
    own_base: Option<PathBuf>,
}

/// Why a name from outside names no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadName {
    /// It is empty, absolute, or climbs: 400.
    Name,
    /// Its subfolder lies outside: 403.
    Outside,
}

impl Places {
    /// Checks and makes the directories; deletes what an earlier run left in the temp directory, as ComfyUI does at each start.
    pub(super) fn prepare(options: &SimulateOptions) -> Result<Self, SimulateError> {
        if let Some(path) = options
            .user_directory
            .as_ref()
            .filter(|path| !path.is_dir())
        {
            return Err(SimulateError::UserDirectory { path: path.clone() });
        }
        if let Some(path) = options
            .extra_model_paths_config
            .iter()
            .find(|path| !path.is_file())
        {
            return Err(SimulateError::ModelPathsMissing { path: path.clone() });
        }
        let own = || {
            std::env::temp_dir().join(format!("fornax-simulate-{}", uuid::Uuid::new_v4().simple()))
        };
        let base = options.base_directory.clone().unwrap_or_else(own);
        let or =
            |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| base.join(name));
        let places = Self {
            output: or(&options.output_directory, "output"),
            input: or(&options.input_directory, "input"),
            temp: options
                .temp_directory
                .as_ref()
                .unwrap_or(&base)
                .join("temp"),
            models: base.join("models"),
            own_base: options.base_directory.is_none().then_some(base),
        };
        places.clear_temp()?;
        for path in [&places.output, &places.input, &places.temp] {
            std::fs::create_dir_all(path).map_err(|source| SimulateError::Directory {
                action: "create",
                path: path.clone(),
                source,
            })?;
        }
        Ok(places)
    }

    /// What a clean exit removes: the temp directory, and the base directory if nobody chose it.
    pub(super) fn clean(&self) -> Result<(), SimulateError> {
        self.clear_temp()?;
        self.own_base.as_deref().map_or(Ok(()), remove)
    }

    /// After a failed start: removes a base directory that nobody chose. That it could not be removed is not worth hiding why
    /// the start failed.
    pub(super) fn forget_own(&self) {
        if let Some(base) = &self.own_base {
            let _ = remove(base);
        }
    }

    /// The directory of a `type` in a query: `output`, `input` or `temp`.
    pub(super) fn of_type(&self, kind: &str) -> Option<&Path> {
        match kind {
            "output" => Some(&self.output),
            "input" => Some(&self.input),
            "temp" => Some(&self.temp),
            _ => None,
        }
    }

    /// The pictures that can be loaded: the files of the input directory, sorted.
    pub(super) fn pictures(&self) -> Vec<String> {
        // A directory that cannot be read offers nothing.
        let entries = std::fs::read_dir(&self.input)
            .into_iter()
            .flatten()
            .flatten();
        let files = entries.filter(|entry| entry.path().is_file());
        let mut names: Vec<String> = files
            .take(MOST_PICTURES)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn clear_temp(&self) -> Result<(), SimulateError> {
        remove(&self.temp)
    }
}

fn remove(path: &Path) -> Result<(), SimulateError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SimulateError::Directory {
            action: "clear",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// A file's path inside `root` from a subfolder and a name, neither trusted.
pub(super) fn inside(root: &Path, subfolder: &str, name: &str) -> Result<PathBuf, BadName> {
    let plain = |text: &str| {
        text.contains('\0')
            || Path::new(text)
                .components()
                .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    };
    if name.is_empty() || plain(name) {
        return Err(BadName::Name);
    }
    if plain(subfolder) {
        return Err(BadName::Outside);
    }
    let name = Path::new(name).file_name().ok_or(BadName::Name)?;
    Ok(root.join(subfolder).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_climb_are_refused_and_only_the_last_part_of_a_name_counts() {
        let root = Path::new("/r");
        for (subfolder, name, want) in [
            ("", "a.png", Ok("/r/a.png")),
            ("s/t", "a.png", Ok("/r/s/t/a.png")),
            ("", "s/a.png", Ok("/r/a.png")),
            ("", "", Err(BadName::Name)),
            ("", "../a.png", Err(BadName::Name)),
            ("", "/a.png", Err(BadName::Name)),
            ("", ".", Err(BadName::Name)),
            ("", "a\0.png", Err(BadName::Name)),
            ("..", "a.png", Err(BadName::Outside)),
            ("s/../../t", "a.png", Err(BadName::Outside)),
            ("/etc", "passwd", Err(BadName::Outside)),
        ] {
            assert_eq!(
                inside(root, subfolder, name),
                want.map(PathBuf::from),
                "{subfolder:?} {name:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_directory(subfolder in "[./a\\\\]{0,12}", name in "[./a\\\\]{0,12}") {
            if let Ok(path) = inside(Path::new("/root"), &subfolder, &name) {
                prop_assert!(path.starts_with("/root"));
                prop_assert!(path.components().all(|part| part != Component::ParentDir));
            }
        }
    }
}
