//! Bringing what a manifest wants: several files at a time, each once, however many ask for it.

use super::download::{Download, Got, Patience};
use super::error::PullError;
use super::event::{Listener, Outcome, Step};
use super::folders;
use super::groups::{Group, groups};
use super::hash;
use super::http::Client;
use super::index::{Entry, Index};
use super::links::{self, LinkReport};
use super::manifest::{Manifest, Wanted};
use super::source::Hosts;
use super::store::Store;
use super::told::Told;
use crate::sys::files;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The most downloads at a time.
pub const MOST_AT_ONCE: usize = 16;

/// How a pull goes about it.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Endpoints and tokens.
    pub hosts: Hosts,
    /// Downloads at a time, 1 to [`MOST_AT_ONCE`].
    pub at_once: usize,
    /// For how long nothing may come before a connection is given up.
    pub stall: Duration,
    /// Failures in a row after which a file is given up, at least 1. One that brought bytes on begins the count anew.
    pub tries: u32,
    /// The first wait between tries; each is twice the one before, up to 30 s.
    pub wait: Duration,
    /// Overwrite files that somebody else has put in place of wanted ones.
    pub replace: bool,
}

impl PullOptions {
    /// Three at a time, 60 s without a byte, six tries, from half a second on.
    pub fn usual(hosts: Hosts) -> Self {
        Self {
            hosts,
            at_once: 3,
            stall: Duration::from_secs(60),
            tries: 6,
            wait: Duration::from_millis(500),
            replace: false,
        }
    }
}

/// What became of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullReport {
    /// Each wanted file, in the manifest's order.
    pub files: Vec<FileReport>,
    /// Each link.
    pub links: Vec<LinkReport>,
    /// Folders that the extra-model-paths file does not name, because somebody has edited it: ComfyUI does not look there.
    pub unlisted_folders: BTreeSet<String>,
}

impl PullReport {
    /// Whether every wanted file is there. Links that dangle are told and are no failure: their files are not ours to bring.
    pub fn is_whole(&self) -> bool {
        self.files.iter().all(|file| file.error.is_none())
    }
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileReport {
    /// Its path below the models folder.
    pub file: String,
    /// Where it comes from, without secrets.
    pub source: String,
    /// `there`, `loaded`, `linked` or `failed`.
    pub outcome: &'static str,
    /// Bytes that came in this run.
    pub bytes: u64,
    /// Whether a sum was there to check it by: the manifest's, or its source's.
    pub checked: bool,
    /// Why it is not there, and how to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Brings everything. Blocks until all is done or given up.
///
/// # Errors
/// The workspace's own folders cannot be made or written; what is wrong with one file is in the report.
pub fn pull(
    store: &Store,
    manifest: &Manifest,
    options: &PullOptions,
    listener: &Listener<'_>,
) -> Result<PullReport, PullError> {
    store.prepare()?;
    let folders: BTreeSet<String> = manifest
        .models
        .iter()
        .map(|wanted| wanted.folder.clone())
        .collect();
    let unlisted_folders = list_folders(store, &folders)?;
    let told = Told::begin(store, manifest.models.len());
    let listener: &Listener<'_> = &|file, step| {
        told.take(file, &step);
        listener(file, step);
    };
    let pull = Pull {
        store,
        client: Client::new(options.hosts.clone(), options.stall),
        options,
        listener,
    };
    let groups = Mutex::new(groups(manifest));
    let reports = Mutex::new(BTreeMap::new());
    let work = || {
        // A worker that has panicked leaves whole groups only.
        while let Some(group) = groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
        {
            for (at, report) in pull.group(&group) {
                reports
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(at, report);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.at_once.clamp(1, MOST_AT_ONCE) {
            scope.spawn(work);
        }
    });
    let files = reports
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_values()
        .collect();
    let links = links::look(store, &manifest.links, true);
    let report = PullReport {
        files,
        links,
        unlisted_folders,
    };
    told.end(report.is_whole());
    Ok(report)
}

/// Makes the extra-model-paths file name all folders. Those that it does not, because it is the operator's.
fn list_folders(store: &Store, folders: &BTreeSet<String>) -> Result<BTreeSet<String>, PullError> {
    let list = store.list();
    let unlisted = folders::unlisted(&list, folders);
    if list.symlink_metadata().is_ok() && unlisted.is_empty() {
        return Ok(unlisted);
    }
    let copy = store.state().join("extra_model_paths.generated");
    folders::write(&list, &copy, &folders::list(&store.models(), folders))
        .map_err(PullError::io("write", &list))?;
    Ok(folders::unlisted(&list, folders))
}

struct Pull<'a> {
    store: &'a Store,
    client: Client,
    options: &'a PullOptions,
    listener: &'a Listener<'a>,
}

/// How a file's place stands.
enum Place {
    /// It is there.
    Whole { checked: bool },
    /// Nothing is there, or what may go.
    Free,
}

impl Pull<'_> {
    fn group(&self, group: &Group<'_>) -> Vec<(usize, FileReport)> {
        let mut first: Option<&str> = None;
        let mut reports = Vec::new();
        for (at, wanted) in group {
            let tell = |step| (self.listener)(&wanted.file, step);
            let outcome = self.file(wanted, first, &tell);
            let (outcome, checked) =
                outcome.unwrap_or_else(|error| (Outcome::Failed { why: error.whole() }, false));
            let (word, bytes, error) = match &outcome {
                Outcome::There => ("there", 0, None),
                Outcome::Loaded { bytes, .. } => ("loaded", *bytes, None),
                Outcome::Linked { .. } => ("linked", 0, None),
                Outcome::Failed { why } => ("failed", 0, Some(why.clone())),
            };
            if error.is_none() {
                first = first.or(Some(&wanted.file));
            }
            tell(Step::End(outcome.clone()));
            let report = FileReport {
                file: wanted.file.clone(),
                source: wanted.source.to_string(),
                outcome: word,
                bytes,
                checked,
                error,
            };
            reports.push((*at, report));
        }
        reports
    }

    /// Brings one file. `first`: one of the same content that is there.
    fn file(
        &self,
        wanted: &Wanted,
        first: Option<&str>,
        tell: &dyn Fn(Step),
    ) -> Result<(Outcome, bool), PullError> {
        let waiting = |pid| tell(Step::Waiting { pid });
        // Two processes may want one content under two names. The content's lock is always taken before the name's.
        let _content = match &wanted.sha256 {
            Some(sum) => Some(self.store.lock("content", sum, &waiting)?),
            None => None,
        };
        let _name = self.store.lock("model", &wanted.file, &waiting)?;
        let target = self.store.path(&wanted.file)?;
        if let Place::Whole { checked } = self.place(wanted, &target, tell)? {
            return Ok((Outcome::There, checked));
        }
        let known =
            || Index::load(self.store).same(self.store, wanted.sha256.as_deref()?, &wanted.file);
        let mut is_linkable = true;
        if let Some(same) = first.map(str::to_owned).or_else(known) {
            is_linkable = self.link(&same, wanted, &target)?;
            if is_linkable {
                return Ok((Outcome::Linked { to: same }, true));
            }
        }
        let patience = Patience {
            stall: self.options.stall,
            tries: self.options.tries.max(1),
            wait: self.options.wait,
        };
        let load = |store: &Store| {
            Download {
                client: &self.client,
                store,
                wanted,
                target: &target,
                patience,
                tell,
                may_link: is_linkable,
            }
            .load()
        };
        match load(self.store)? {
            Got::Loaded {
                bytes,
                size,
                checked,
            } => Ok((Outcome::Loaded { bytes, size }, checked)),
            Got::Same(same) if self.link(&same, wanted, &target)? => {
                Ok((Outcome::Linked { to: same }, true))
            }
            Got::Same(_) => {
                let again = Download {
                    client: &self.client,
                    store: self.store,
                    wanted,
                    target: &target,
                    patience,
                    tell,
                    may_link: false,
                };
                match again.load()? {
                    Got::Loaded {
                        bytes,
                        size,
                        checked,
                    } => Ok((Outcome::Loaded { bytes, size }, checked)),
                    Got::Same(same) => Ok((Outcome::Linked { to: same }, true)),
                }
            }
        }
    }

    /// How the place of a wanted file stands.
    fn place(
        &self,
        wanted: &Wanted,
        target: &Path,
        tell: &dyn Fn(Step),
    ) -> Result<Place, PullError> {
        let meta = match target.metadata() {
            Ok(meta) => meta,
            // A link that dangles is replaced by the file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Free),
            Err(error) => return Err(PullError::io("look at", target)(error)),
        };
        let occupied = |what: String| PullError::Occupied {
            file: target.to_owned(),
            what,
        };
        if !meta.is_file() {
            return Err(occupied("it is a folder".to_owned()));
        }
        let index = Index::load(self.store);
        let entry = index.get(&wanted.file);
        let from = entry.and_then(|entry| entry.from.clone());
        let key = wanted.source.key();
        let other = if let Some(size) = wanted.size.filter(|size| *size != meta.len()) {
            Some(format!("it has {} bytes, not {size}", meta.len()))
        } else if let Some(sum) = &wanted.sha256 {
            let there = match index.sum(&wanted.file, &meta) {
                Some(there) => there.to_owned(),
                None => {
                    tell(Step::Checking);
                    let there = hash::of_file(target).map_err(PullError::io("read", target))?;
                    Index::note(
                        self.store,
                        &wanted.file,
                        Entry::new(&meta, there.clone(), from.clone()),
                    )?;
                    there
                }
            };
            (there != *sum).then(|| format!("its sha256 is {there}"))
        } else {
            match &from {
                Some(from) if *from != key => Some(format!("it came from {from}")),
                _ => None,
            }
        };
        match other {
            None => Ok(Place::Whole {
                checked: wanted.sha256.is_some(),
            }),
            // Ours, and the manifest has another wish since.
            Some(_) if from.is_some() || self.options.replace => Ok(Place::Free),
            Some(what) => Err(occupied(what)),
        }
    }

    /// Gives a file that is there a second name. `false`: they lie on different disks, or there are no hard links.
    fn link(&self, same: &str, wanted: &Wanted, target: &Path) -> Result<bool, PullError> {
        let path = self
            .store
            .path(same)?
            .canonicalize()
            .map_err(PullError::io("look at", target))?;
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(PullError::io("make", folder))?;
        }
        if files::link_over(&path, target).is_err() {
            return Ok(false);
        }
        let meta = target
            .metadata()
            .map_err(PullError::io("look at", target))?;
        let sum = match Index::load(self.store).sum(same, &meta) {
            Some(sum) => sum.to_owned(),
            None => hash::of_file(target).map_err(PullError::io("read", target))?,
        };
        Index::note(
            self.store,
            &wanted.file,
            Entry::new(&meta, sum, Some(wanted.source.key())),
        )?;
        // Nothing more will be added to it.
        for left in [super::part::part_of(target), super::part::notes_of(target)] {
            let _ = std::fs::remove_file(left);
        }
        Ok(true)
    }
}
