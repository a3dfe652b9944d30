//! The queue of prompts: what waits, what runs, what ran, and the wishes about them.

use super::history::History;
use serde_json::{Map, Number, Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Prompts that may wait. ComfyUI has no bound; here the next one is refused.
const MOST_WAITING: usize = 1000;
/// Bytes of graphs that may wait; the next prompt is refused.
const MOST_WAITING_BYTES: usize = 256 * 1024 * 1024;

/// One accepted prompt.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place: lower first.
    pub number: Number,
    /// Its id, chosen by the client or by us.
    pub id: String,
    /// The graph: node id to class and inputs.
    pub prompt: Map<String, Value>,
    /// What came with it, the client's id among it.
    pub extra: Map<String, Value>,
    /// The output nodes to execute.
    pub outputs: Vec<String>,
    /// The size of the submission, in bytes.
    pub bytes: usize,
}

impl Job {
    /// The websocket client that gets its messages.
    pub(super) fn client(&self) -> Option<&str> {
        self.extra.get("client_id").and_then(Value::as_str)
    }

    /// As `/queue` and `/history` show it.
    pub(super) fn item(&self) -> Value {
        json!([self.number, self.id, self.prompt, self.extra, self.outputs])
    }

    fn place(&self) -> f64 {
        self.number.as_f64().unwrap_or(f64::MAX)
    }
}

/// Why a prompt was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum QueueRefusal {
    /// Too many wait, or too large ones.
    Full,
    /// The same id and number wait with another graph: ComfyUI 0.3.64 answers 500.
    Clash,
}

/// What `/free` asked for, for the worker's next idle moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FreeWish {
    /// Unload the models.
    pub models: bool,
    /// Forget the results of nodes.
    pub memory: bool,
}

/// The queue. A lock, not a message: routes read it at any time, while the worker executes.
#[derive(Default)]
pub(super) struct Jobs {
    table: Mutex<Table>,
    wake: Notify,
    interrupted: AtomicBool,
}

#[derive(Default)]
struct Table {
    next_number: i64,
    /// Sorted by number, then by id, as ComfyUI's heap of tuples.
    waiting: Vec<Arc<Job>>,
    waiting_bytes: usize,
    running: Option<Arc<Job>>,
    history: History,
    free: FreeWish,
}

impl Jobs {
    /// The next number; `front` makes it negative, so that the prompt overtakes.
    pub(super) fn next_number(&self, front: bool) -> Number {
        let mut table = self.lock();
        let number = table.next_number;
        table.next_number += 1;
        Number::from(if front { -number } else { number })
    }

    /// Queues a prompt and wakes the worker.
    pub(super) fn push(&self, job: Job, tell: impl FnOnce(usize)) -> Result<(), QueueRefusal> {
        let mut table = self.lock();
        if table.waiting.len() >= MOST_WAITING
            || table.waiting_bytes.saturating_add(job.bytes) > MOST_WAITING_BYTES
        {
            return Err(QueueRefusal::Full);
        }
        let at = table.waiting.partition_point(|other| {
            (other.place().total_cmp(&job.place()))
                .then_with(|| other.id.cmp(&job.id))
                .is_le()
        });
        if let Some(before) = at.checked_sub(1).map(|at| &table.waiting[at])
            && before.id == job.id
            && before.place() == job.place()
            && before.prompt != job.prompt
        {
            return Err(QueueRefusal::Clash);
        }
        table.waiting_bytes += job.bytes;
        table.waiting.insert(at, Arc::new(job));
        // Before the worker can take it, as ComfyUI does.
        tell(table.waiting.len() + usize::from(table.running.is_some()));
        drop(table);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes the next prompt as the running one. `None` if none waits.
    pub(super) fn take(&self) -> Option<Arc<Job>> {
        let mut table = self.lock();
        if table.waiting.is_empty() {
            return None;
        }
        let job = table.waiting.remove(0);
        table.waiting_bytes -= job.bytes;
        table.running = Some(job.clone());
        self.interrupted.store(false, Ordering::Relaxed);
        Some(job)
    }

    /// Ends the running prompt, with its history entry where there is to be one.
    pub(super) fn finish(&self, job: &Job, entry: Option<Value>) {
        let mut table = self.lock();
        table.running = None;
        if let Some(entry) = entry {
            table.history.insert(job.id.clone(), entry, job.bytes);
        }
    }

    /// Ends when something may have been queued or wished for.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Prompts waiting and running.
    pub(super) fn remaining(&self) -> usize {
        let table = self.lock();
        table.waiting.len() + usize::from(table.running.is_some())
    }

    /// The running prompt, and those that wait, in their order.
    pub(super) fn queue(&self) -> (Option<Arc<Job>>, Vec<Arc<Job>>) {
        let table = self.lock();
        (table.running.clone(), table.waiting.clone())
    }

    /// Forgets every waiting prompt, or those with these ids.
    pub(super) fn delete_waiting(&self, ids: Option<&HashSet<&str>>) {
        let mut table = self.lock();
        table
            .waiting
            .retain(|job| ids.is_some_and(|ids| !ids.contains(job.id.as_str())));
        table.waiting_bytes = table.waiting.iter().map(|job| job.bytes).sum();
    }

    /// Interrupts the running prompt if it is the one meant. False if it is another, or none runs.
    pub(super) fn interrupt(&self, id: Option<&str>) -> bool {
        let table = self.lock();
        let meant = table
            .running
            .as_ref()
            .is_some_and(|job| id.is_none_or(|id| id == job.id));
        if meant {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        meant
    }

    /// True if the running prompt is to end.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Asks the worker to free memory when it is next idle.
    pub(super) fn wish_free(&self, wish: FreeWish) {
        let mut table = self.lock();
        table.free.models |= wish.models;
        table.free.memory |= wish.memory;
        drop(table);
        self.wake.notify_one();
    }

    /// Takes the wish.
    pub(super) fn take_free(&self) -> FreeWish {
        std::mem::take(&mut self.lock().free)
    }

    /// Reads or changes the history.
    pub(super) fn history<T>(&self, action: impl FnOnce(&mut History) -> T) -> T {
        action(&mut self.lock().history)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: i64, id: &str, bytes: usize) -> Job {
        Job {
            number: number.into(),
            id: id.into(),
            prompt: Map::new(),
            extra: Map::new(),
            outputs: Vec::new(),
            bytes,
        }
    }

    fn order(jobs: &Jobs) -> Vec<String> {
        jobs.queue().1.iter().map(|job| job.id.clone()).collect()
    }

    #[test]
    fn lower_numbers_go_first_and_front_overtakes() {
        let jobs = Jobs::default();
        for (number, id) in [(0, "a"), (2, "c"), (1, "b"), (-3, "front")] {
            jobs.push(job(number, id, 1), |_| ()).unwrap();
        }
        assert_eq!(order(&jobs), ["front", "a", "b", "c"]);
        assert_eq!(jobs.take().unwrap().id, "front");
        assert_eq!(jobs.remaining(), 4);
        jobs.delete_waiting(Some(&HashSet::from(["b", "front"])));
        assert_eq!(order(&jobs), ["a", "c"]);
        jobs.delete_waiting(None);
        assert_eq!(jobs.remaining(), 1);
    }

    #[test]
    fn an_interrupt_reaches_only_the_prompt_it_names() {
        let jobs = Jobs::default();
        assert!(!jobs.interrupt(None));
        jobs.push(job(0, "a", 1), |_| ()).unwrap();
        jobs.push(job(1, "b", 1), |_| ()).unwrap();
        jobs.take();
        assert!(!jobs.interrupt(Some("b")));
        assert!(!jobs.is_interrupted());
        assert!(jobs.interrupt(Some("a")));
        assert!(jobs.is_interrupted());
        jobs.take();
        assert!(!jobs.is_interrupted());
    }

    #[test]
    fn the_queue_is_bounded_and_a_clash_is_told() {
        let jobs = Jobs::default();
        jobs.push(job(0, "a", MOST_WAITING_BYTES), |_| ()).unwrap();
        assert_eq!(jobs.push(job(1, "b", 1), |_| ()), Err(QueueRefusal::Full));
        jobs.delete_waiting(None);
        for number in 0..MOST_WAITING {
            jobs.push(job(number as i64, "a", 1), |_| ()).unwrap();
        }
        assert_eq!(jobs.push(job(0, "b", 1), |_| ()), Err(QueueRefusal::Full));
        jobs.take();
        let mut other = job(5, "a", 1);
        other.prompt.insert("1".into(), Value::Null);
        assert_eq!(jobs.push(other, |_| ()), Err(QueueRefusal::Clash));
    }
}
