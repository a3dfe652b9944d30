//! Files of watched apps: one thread and one inotify instance for all of them, there only while somebody is watched.

mod engine;
mod group;
mod kernel;
mod poll;

use crate::core::ids::PmId;
use crate::core::watch::WatchSpec;
use engine::{Engine, Input};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What the kernel tells, waiting for the thread. When it is full the rest is dropped, and the folders are looked at anew.
const EVENTS: usize = 4_096;

/// Something an app is watched by has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The instance.
    pub id: PmId,
    /// What, as the log names it: relative to the app's folder where it lies in it. The first of several.
    pub path: String,
    /// When it was seen.
    pub at: Instant,
}

/// Takes changes. Called on the watching thread, which it may hold up: what happens meanwhile waits.
pub type Report = Arc<dyn Fn(Change) + Send + Sync>;

/// Who is to be watched.
///
/// A lock, not a message: the loop sets a wish and must not wait for a thread that walks folders.
#[derive(Debug, Default)]
struct Wishes {
    by_id: HashMap<PmId, Arc<WatchSpec>>,
    changed: bool,
    /// To the thread, while it runs.
    thread: Option<SyncSender<Input>>,
}

/// The watching of all apps. Cheap to clone.
#[derive(Clone)]
pub struct Watching {
    wishes: Arc<Mutex<Wishes>>,
    report: Report,
}

impl std::fmt::Debug for Watching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watching").finish_non_exhaustive()
    }
}

impl Watching {
    /// Nobody is watched yet, and there is no thread.
    pub fn new(report: Report) -> Self {
        Self {
            wishes: Arc::default(),
            report,
        }
    }

    /// Watches an instance, otherwise than before, or no longer. Never blocks.
    pub fn set(&self, id: PmId, spec: Option<Arc<WatchSpec>>) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match spec {
            Some(spec) => wishes
                .by_id
                .insert(id, spec.clone())
                .is_none_or(|old| old != spec),
            None => wishes.by_id.remove(&id).is_some(),
        };
        if !before {
            return;
        }
        wishes.changed = true;
        match &wishes.thread {
            // Full: the thread looks at the wishes anyway before it waits again.
            Some(thread) => drop(thread.try_send(Input::Wake)),
            None if !wishes.by_id.is_empty() => self.begin(&mut wishes),
            None => {}
        }
    }

    fn begin(&self, wishes: &mut Wishes) {
        let (sender, inputs) = sync_channel(EVENTS);
        let lost = Arc::new(AtomicBool::new(false));
        let engine = Engine::new(sender.clone(), Arc::clone(&lost));
        let (shared, report) = (Arc::clone(&self.wishes), Arc::clone(&self.report));
        let thread = std::thread::Builder::new()
            .name("fornax-watch".to_owned())
            .stack_size(512 << 10)
            .spawn(move || engine.run(&inputs, &lost_flag(&lost), &|| take(&shared), &*report));
        match thread {
            Ok(_) => wishes.thread = Some(sender),
            Err(error) => {
                tracing::error!(%error, "cannot start the watching thread; apps are not restarted when files change");
            }
        }
    }
}

/// Reads and clears the mark that events were dropped.
fn lost_flag(lost: &AtomicBool) -> impl Fn() -> bool {
    || lost.swap(false, Ordering::Relaxed)
}

/// The wishes, if they have changed. When there are none left, the thread is forgotten, and must end.
fn take(wishes: &Mutex<Wishes>) -> Option<HashMap<PmId, Arc<WatchSpec>>> {
    let mut wishes = wishes.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::take(&mut wishes.changed) {
        return None;
    }
    if wishes.by_id.is_empty() {
        wishes.thread = None;
    }
    Some(wishes.by_id.clone())
}
