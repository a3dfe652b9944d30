//! The watching thread: wishes and the kernel's news in, at most one change for each app out.

use super::Change;
use super::group::Group;
use super::kernel::{Counted, Folders, Inotify, Kind};
use crate::core::ids::PmId;
use crate::core::watch::WatchSpec;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

/// News taken together; the rest is the next batch.
const BATCH: usize = 1_024;
/// The longest sleep; wishes that found the queue full are seen by then.
const NAP: Duration = Duration::from_secs(60);

/// What wakes the thread.
#[derive(Debug)]
pub(super) enum Input {
    /// Look at the wishes and at the mark of lost events.
    Wake,
    /// The kernel's news.
    Told {
        kind: Kind,
        path: PathBuf,
        at: Instant,
    },
}

/// The thread's state. Owner: itself.
pub(super) struct Engine<F> {
    counted: Counted<F>,
    groups: Vec<Group>,
}

impl Engine<Inotify> {
    pub(super) fn new(sender: SyncSender<Input>, lost: Arc<AtomicBool>) -> Self {
        Self::with(Inotify::new(sender, lost))
    }
}

/// The wishes, if they have changed.
pub(super) type Wished = Option<HashMap<PmId, Arc<WatchSpec>>>;

impl<F: Folders> Engine<F> {
    pub(super) fn with(folders: F) -> Self {
        Self {
            counted: Counted::new(folders),
            groups: Vec::new(),
        }
    }

    /// Until nobody is watched any more.
    pub(super) fn run(
        mut self,
        inputs: &Receiver<Input>,
        lost: &dyn Fn() -> bool,
        wishes: &dyn Fn() -> Wished,
        report: &dyn Fn(Change),
    ) {
        loop {
            if let Some(wishes) = wishes() {
                if wishes.is_empty() {
                    return;
                }
                self.follow(wishes, report);
            }
            let now = Instant::now();
            let looks = self.groups.iter().filter_map(|group| group.poll.as_ref());
            let nap = looks
                .map(|poll| poll.next().saturating_duration_since(now))
                .min()
                .unwrap_or(NAP);
            let first = match inputs.recv_timeout(nap.min(NAP)) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let news: Vec<Input> = first
                .into_iter()
                .chain(inputs.try_iter())
                .take(BATCH)
                .collect();
            self.take(news, lost(), report);
        }
    }

    /// Brings the groups in line with what is wished.
    pub(super) fn follow(
        &mut self,
        wishes: HashMap<PmId, Arc<WatchSpec>>,
        report: &dyn Fn(Change),
    ) {
        for group in &mut self.groups {
            group.ids.retain(|id| wishes.get(id) == Some(&group.spec));
        }
        let mut wishes: Vec<_> = wishes.into_iter().collect();
        wishes.sort_unstable_by_key(|(id, _)| *id);
        for (id, spec) in wishes {
            let known = self.groups.iter_mut().find(|group| group.spec == spec);
            match known {
                Some(group) if group.ids.contains(&id) => {}
                Some(group) => group.ids.push(id),
                None => {
                    let mut group = Group::begin(spec, &mut self.counted);
                    group.ids.push(id);
                    if group.has_initial() {
                        tell(&group, String::new(), Instant::now(), report);
                    }
                    self.groups.push(group);
                }
            }
        }
        // After the new ones have come: what both mean is not given up in between.
        for group in self.groups.iter_mut().filter(|group| group.ids.is_empty()) {
            group.leave(&mut self.counted);
        }
        self.groups.retain(|group| !group.ids.is_empty());
    }

    /// Takes a batch of news, and looks where it is time to.
    pub(super) fn take(&mut self, news: Vec<Input>, lost: bool, report: &dyn Fn(Change)) {
        let mut changes: Vec<Option<(String, Instant)>> = vec![None; self.groups.len()];
        for input in news {
            let Input::Told { kind, path, at } = input else {
                continue;
            };
            for (group, change) in self.groups.iter_mut().zip(&mut changes) {
                let counted = group.told(kind, &path, &mut self.counted);
                if let Some(path) = counted {
                    match change {
                        // The latest moment counts: a run that is younger than it has to be restarted.
                        Some((_, latest)) => *latest = at,
                        None => *change = Some((group.shown(&path), at)),
                    }
                }
            }
        }
        let now = Instant::now();
        for (group, change) in self.groups.iter_mut().zip(&mut changes) {
            if lost && group.poll.is_none() {
                tracing::warn!(target: "pm2", "[Watch] more changes than could be taken in; {} counts as changed", group.spec.cwd);
                group.place(&mut self.counted);
                change.get_or_insert((String::new(), now));
            }
            if let Some(path) = group.look(now) {
                change.get_or_insert((group.shown(&path), now));
            }
        }
        for (group, change) in self.groups.iter().zip(changes) {
            if let Some((path, at)) = change {
                tell(group, path, at, report);
            }
        }
    }
}

fn tell(group: &Group, path: String, at: Instant, report: &dyn Fn(Change)) {
    for id in &group.ids {
        report(Change {
            id: *id,
            path: path.clone(),
            at,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::AddError;
    use super::*;
    use serde_json::json;
    use std::cell::RefCell;
    use std::fs;
    use std::path::Path;
    use std::rc::Rc;

    /// A kernel with so many watches, and what it holds.
    #[derive(Clone)]
    struct Few {
        most: usize,
        held: Rc<RefCell<Vec<PathBuf>>>,
    }

    impl Folders for Few {
        fn add(&mut self, folder: &Path) -> Result<(), AddError> {
            if self.held.borrow().len() >= self.most {
                return Err(AddError::Watches);
            }
            self.held.borrow_mut().push(folder.to_owned());
            Ok(())
        }

        fn remove(&mut self, folder: &Path) {
            self.held.borrow_mut().retain(|held| held != folder);
        }
    }

    fn few(most: usize) -> Few {
        Few {
            most,
            held: Rc::default(),
        }
    }

    fn spec(folder: &Path) -> Arc<WatchSpec> {
        let map = json!({"watch": true});
        let spec = WatchSpec::from_map(map.as_object().unwrap(), folder.to_str().unwrap());
        Arc::new(spec.unwrap())
    }

    fn wishes(all: &[(u32, &Arc<WatchSpec>)]) -> HashMap<PmId, Arc<WatchSpec>> {
        all.iter()
            .map(|(id, spec)| (PmId(*id), Arc::clone(spec)))
            .collect()
    }

    fn silent(change: Change) {
        panic!("nothing has changed: {change:?}");
    }

    #[test]
    fn folders_are_watched_once_and_given_back_by_the_last_who_means_them() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().canonicalize().unwrap();
        for folder in ["src/deep", "node_modules/x", ".git"] {
            fs::create_dir_all(app.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink("src", app.join("again")).unwrap();
        let kernel = few(100);
        let (whole, part) = (spec(&app), spec(&app.join("src")));
        let mut engine = Engine::with(kernel.clone());
        engine.follow(wishes(&[(0, &whole), (1, &whole), (2, &part)]), &silent);
        let mut held = kernel.held.borrow().clone();
        held.sort();
        assert_eq!(held, [app.clone(), app.join("src"), app.join("src/deep")]);
        engine.follow(wishes(&[(2, &part)]), &silent);
        assert!(!kernel.held.borrow().contains(&app));
        engine.follow(HashMap::new(), &silent);
        assert!(kernel.held.borrow().is_empty());
    }

    #[test]
    fn at_the_kernels_limit_an_app_is_polled_and_holds_no_watch() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a", "b", "c"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let kernel = few(2);
        let spec = spec(&dir.path().canonicalize().unwrap());
        let mut engine = Engine::with(kernel.clone());
        engine.follow(wishes(&[(7, &spec)]), &silent);
        assert!(kernel.held.borrow().is_empty());
        fs::write(dir.path().join("b/saved"), "1").unwrap();
        let seen = RefCell::new(Vec::new());
        let report = |change: Change| seen.borrow_mut().push((change.id, change.path));
        // Its next look comes by itself.
        let deadline = Instant::now() + Duration::from_secs(30);
        while seen.borrow().is_empty() && Instant::now() < deadline {
            let next = engine.groups[0].poll.as_ref().unwrap().next();
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            engine.take(Vec::new(), false, &report);
        }
        assert_eq!(*seen.borrow(), [(PmId(7), "b/saved".to_owned())]);
    }

    #[test]
    fn lost_news_count_as_a_change_and_find_the_folders_that_were_missed() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().canonicalize().unwrap();
        let kernel = few(100);
        let spec = spec(&app);
        let mut engine = Engine::with(kernel.clone());
        engine.follow(wishes(&[(1, &spec)]), &silent);
        fs::create_dir(app.join("missed")).unwrap();
        let seen = RefCell::new(0);
        engine.take(Vec::new(), true, &|_| *seen.borrow_mut() += 1);
        assert_eq!(*seen.borrow(), 1);
        assert!(kernel.held.borrow().contains(&app.join("missed")));
    }
}
