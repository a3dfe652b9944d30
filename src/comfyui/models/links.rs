//! Links from the models folder to files below `sd_models`, as `static-models.json` lists them.

use super::manifest::Link;
use super::place;
use super::store::Store;
use serde::Serialize;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What became of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// Its path below the models folder.
    pub target: String,
    /// Its file below `sd_models`.
    pub source: String,
    /// How it stands.
    #[serde(flatten)]
    pub state: LinkState,
}

/// How a link stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkState {
    /// It was there.
    There,
    /// It was made.
    Made,
    /// It is not there yet, and its file is.
    Missing,
    /// Its file is not there, so none is made: ComfyUI would only warn of it.
    Dangling {
        /// The file that is missed.
        misses: PathBuf,
    },
    /// Something else has its name.
    Occupied {
        /// What.
        what: String,
    },
    /// It cannot be made.
    Failed {
        /// Why.
        why: String,
    },
}

impl LinkState {
    /// Whether a model can be found by it.
    pub fn is_well(&self) -> bool {
        // A real file in its place is found as well.
        matches!(self, Self::There | Self::Made | Self::Occupied { .. })
    }
}

/// Looks at the links; with `make` those that are missing are made.
pub fn look(store: &Store, links: &[Link], make: bool) -> Vec<LinkReport> {
    let one = |link: &Link| {
        let state = state(store, link, make).unwrap_or_else(|why| LinkState::Failed { why });
        LinkReport {
            target: link.target.clone(),
            source: link.source.clone(),
            state,
        }
    };
    links.iter().map(one).collect()
}

fn state(store: &Store, link: &Link, make: bool) -> Result<LinkState, String> {
    let sources = store.sources();
    let missing = || LinkState::Dangling {
        misses: sources.join(&link.source),
    };
    if !sources.is_dir() {
        return Ok(missing());
    }
    let source = place::below(&sources, &link.source).map_err(|error| error.to_string())?;
    let target = place::below(&store.models(), &link.target).map_err(|error| error.to_string())?;
    let real = match source.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(missing()),
        Err(error) => return Err(format!("cannot look at {}: {error}", source.display())),
    };
    match target.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => match target.canonicalize() {
            Ok(there) if there == real => return Ok(LinkState::There),
            Ok(there) => {
                return Ok(LinkState::Occupied {
                    what: format!("a link to {}", there.display()),
                });
            }
            // It dangles, so nothing is lost with it.
            Err(_) if make => std::fs::remove_file(&target)
                .map_err(|error| format!("cannot remove {}: {error}", target.display()))?,
            Err(_) => return Ok(LinkState::Missing),
        },
        Ok(meta) if meta.is_file() => {
            return Ok(LinkState::Occupied {
                what: "a file".to_owned(),
            });
        }
        Ok(_) => {
            return Ok(LinkState::Occupied {
                what: "a folder".to_owned(),
            });
        }
        Err(_) if !make => return Ok(LinkState::Missing),
        Err(_) => {}
    }
    let failed = |error: io::Error| format!("cannot make {}: {error}", target.display());
    let folder = target.parent().unwrap_or(&target);
    std::fs::create_dir_all(folder).map_err(failed)?;
    match symlink(text(store, &source, folder), &target) {
        // Another process was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(LinkState::There),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok(LinkState::Made),
    }
}

/// What the link says: a relative path inside the workspace, so that the workspace can be moved or mounted elsewhere.
fn text(store: &Store, source: &Path, folder: &Path) -> PathBuf {
    let relative = || {
        let root = store.root().canonicalize().ok()?;
        let folder = folder.canonicalize().ok()?;
        let sources = store.sources().canonicalize().ok()?;
        let inner = sources
            .strip_prefix(&root)
            .ok()?
            .join(source.strip_prefix(store.sources()).ok()?);
        let ups = folder.strip_prefix(&root).ok()?.components().count();
        Some(
            std::iter::repeat_n("..", ups)
                .collect::<PathBuf>()
                .join(inner),
        )
    };
    relative().unwrap_or_else(|| source.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfyui::workspace::Workspace;

    fn link(source: &str, target: &str) -> Link {
        Link {
            source: source.to_owned(),
            target: target.to_owned(),
            description: None,
        }
    }

    #[test]
    fn links_are_made_once_and_what_cannot_be_linked_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::of(&Workspace::resolve(Some(dir.path()), &|_| None).unwrap());
        let links = [
            link("SD/a.bin", "checkpoints/a.bin"),
            link("SD/none.bin", "checkpoints/b.bin"),
            link("SD/a.bin", "vae/own.bin"),
            link("SD/a.bin", "out/x"),
        ];
        std::fs::create_dir_all(store.models().join("vae")).unwrap();
        let states = |make| {
            look(&store, &links, make)
                .into_iter()
                .map(|report| report.state)
                .collect::<Vec<_>>()
        };
        assert!(matches!(states(true)[0], LinkState::Dangling { .. }));
        std::fs::create_dir_all(store.sources().join("SD")).unwrap();
        std::fs::write(store.sources().join("SD/a.bin"), "a").unwrap();
        std::fs::write(store.models().join("vae/own.bin"), "mine").unwrap();
        symlink("/", store.models().join("out")).unwrap();
        assert_eq!(states(false)[0], LinkState::Missing);
        let made = states(true);
        assert_eq!(made[0], LinkState::Made);
        assert!(
            matches!(&made[1], LinkState::Dangling { misses } if misses.ends_with("sd_models/SD/none.bin"))
        );
        assert!(matches!(&made[2], LinkState::Occupied { .. }));
        assert!(
            matches!(&made[3], LinkState::Failed { why } if why.contains("leads out of")),
            "{made:?}"
        );
        assert_eq!(states(true)[0], LinkState::There);
        let text = std::fs::read_link(store.models().join("checkpoints/a.bin")).unwrap();
        assert_eq!(text, Path::new("../../sd_models/SD/a.bin"));
        // One that dangles since is made anew when its file is back.
        std::fs::remove_file(store.models().join("checkpoints/a.bin")).unwrap();
        symlink("/nowhere", store.models().join("checkpoints/a.bin")).unwrap();
        assert_eq!(states(false)[0], LinkState::Missing);
        assert_eq!(states(true)[0], LinkState::Made);
        assert_eq!(
            std::fs::read_to_string(store.models().join("checkpoints/a.bin")).unwrap(),
            "a"
        );
    }
}
