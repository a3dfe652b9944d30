//! What the files of a workspace tell of its installation and its models, looked at now and then, so that no request has to.

use super::book::Book;
use super::view::{Facts, ModelFacts};
use crate::comfyui::install::{Layout, Record, State, last, machine};
use crate::comfyui::models::manifest::Manifest;
use crate::comfyui::models::status::{self, Status};
use crate::comfyui::models::store::Store;
use crate::comfyui::models::told;
use crate::comfyui::workspace::Workspace;
use crate::daemon::handle::Handle;
use crate::sys::procfs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the times of the files are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Models may be put there and taken away without a word to anybody: they are looked at anew after so long.
const MODELS_EVERY: Duration = Duration::from_secs(60);
/// Files of models that are told one by one; further ones are counted.
const TOLD: usize = 1_000;

/// Looks at a workspace's files until the daemon ends.
pub(super) async fn watch(handle: Handle, book: Book, root: PathBuf) {
    let Ok(workspace) = Workspace::resolve(Some(&root), &|_| None) else {
        return;
    };
    let mut looker = Looker {
        layout: Layout::new(&workspace),
        store: Store::of(&workspace),
        seen: Vec::new(),
        models_at: None,
        facts: Facts {
            workspace: root.display().to_string(),
            ..Facts::default()
        },
    };
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let changed = looker.look();
            (looker, changed)
        });
        let Ok((back, changed)) = looked.await else {
            return;
        };
        looker = back;
        if changed {
            book.facts(&looker.facts);
        }
        tokio::select! {
            () = handle.shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// What has been seen of a workspace. Owner: its task.
struct Looker {
    layout: Layout,
    store: Store,
    /// Of each file that matters: its node, its size and the time of its last change.
    seen: Vec<Option<(u64, u64, i64, i64)>>,
    models_at: Option<Instant>,
    facts: Facts,
}

impl Looker {
    /// Whether something has changed. Blocking, for as long as some files take.
    fn look(&mut self) -> bool {
        let before = self.facts.clone();
        let seen: Vec<_> = self.files().iter().map(|path| mark(path)).collect();
        let same = seen == self.seen;
        if !same {
            self.seen = seen;
            self.facts.installer = last(&self.layout).map(Arc::new);
            self.look_at_build();
        }
        self.see_cut_off();
        if !same || self.models_at.is_none_or(|at| at.elapsed() >= MODELS_EVERY) {
            self.models_at = Some(Instant::now());
            self.facts.models = Arc::new(self.models());
        } else if self
            .facts
            .models
            .pulls
            .iter()
            .any(|pull| pull.outcome == "running")
        {
            // It may have been killed, which no file tells.
            let pulls = told::pulls(&self.store);
            self.facts.models = Arc::new(ModelFacts {
                pulls,
                ..ModelFacts::clone(&self.facts.models)
            });
        }
        before != self.facts
    }

    /// The files whose change is a reason to look again.
    fn files(&self) -> Vec<PathBuf> {
        let root = self.layout.workspace().root();
        let current = self.layout.builds_dir().join("current");
        let mut files = vec![
            self.layout.state_file(),
            self.layout.settings_file(),
            self.layout.builds_dir().join("previous"),
            current.join("build.json"),
            current,
            root.join(".fornax/models-index.json"),
            told::dir(&self.store),
        ];
        files.extend(["models.json", "static-models.json"].map(|name| root.join(name)));
        let pulls = std::fs::read_dir(told::dir(&self.store))
            .into_iter()
            .flatten();
        files.extend(pulls.flatten().take(32).map(|entry| entry.path()));
        files
    }

    fn look_at_build(&mut self) {
        self.facts.previous = self.layout.previous().map(|build| build.id);
        let current = self.layout.current();
        self.facts.record = current.as_ref().and_then(Record::of).map(Arc::new);
        self.facts.build = current.map(|build| build.id);
    }

    /// An installer that was killed says no more.
    fn see_cut_off(&mut self) {
        let Some(state) = &self.facts.installer else {
            return;
        };
        let lives = |pid| procfs::stat(pid).is_some_and(|process| !process.is_dead());
        if state.outcome == "running" && !lives(state.pid) {
            let outcome = "broken_off".to_owned();
            self.facts.installer = Some(Arc::new(State {
                outcome,
                ..State::clone(state)
            }));
        }
    }

    fn models(&self) -> ModelFacts {
        let mut facts = ModelFacts {
            pulls: told::pulls(&self.store),
            ..ModelFacts::default()
        };
        let settings = machine(&self.layout, &|name| std::env::var(name).ok());
        let named = settings.ok().and_then(|machine| machine.models);
        let files = match named {
            Some(name) => vec![self.layout.workspace().root().join(name)],
            None => self.store.default_manifests(),
        };
        let read = files.iter().try_fold(Manifest::default(), |all, file| {
            let one = Manifest::load(file).map_err(|error| error.to_string())?;
            all.join(one)
        });
        match read {
            Err(error) => facts.error = Some(error),
            Ok(manifest) => {
                let Status {
                    mut files, links, ..
                } = status::look(&self.store, &manifest);
                facts.wanted = files.len();
                facts.bytes = files
                    .iter()
                    .filter_map(|file| file.size.filter(|_| is_there(&file.state)))
                    .sum();
                facts.whole = files.iter().filter(|file| is_there(&file.state)).count();
                // What is not as it should be is told first.
                files.sort_by_key(|file| is_there(&file.state));
                files.truncate(TOLD);
                facts.files = files;
                facts.links = links.into_iter().take(TOLD).collect();
            }
        }
        facts
    }
}

fn is_there(state: &status::State) -> bool {
    match state {
        status::State::Whole | status::State::Unchecked => true,
        status::State::Missing | status::State::Partial { .. } | status::State::Differs { .. } => {
            false
        }
    }
}

fn mark(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
