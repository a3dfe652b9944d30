//! Signs of life: what two looks at a process's counters say about the time between them.

use super::super::units::Millis;

/// How sure a sign is that something goes on. A surer one is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Nothing moved.
    None,
    /// A thread other than the one that answers HTTP woke up now and then, as one does that polls or sleeps between steps.
    Stirs,
    /// Processor, disk, memory or GPU were at work.
    Works,
}

/// One look. What could not be read is `None`, and then says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processor time of the whole tree, in milliseconds.
    pub cpu_ms: u64,
    /// Bytes that it read, from wherever (`rchar` of /proc/PID/io).
    pub read: Option<u64>,
    /// Bytes that came from a disk, which counts pages of mapped files too (`read_bytes`).
    pub fetched: Option<u64>,
    /// Bytes that it wrote, to files, pipes and terminals (`wchar`).
    pub written: Option<u64>,
    /// Resident memory of the root process, in bytes.
    pub rss: u64,
    /// Memory in use on its GPU, in bytes.
    pub gpu_memory: Option<u64>,
    /// Share of time in which a kernel ran on its GPU, 0 to 100.
    pub gpu_busy: Option<u32>,
    /// How often each thread but the main one gave up the processor, by thread id; ascending.
    pub switches: Vec<(u32, u64)>,
}

/// Processor time that answering our own questions may take: so much of one core, in a thousandth.
const OWN_CPU: u64 = 60;
/// Bytes read or written in one interval that are more than answering takes.
const BYTES: u64 = 256 << 10;
/// A change of memory that is more than noise.
const MEMORY: u64 = 4 << 20;
/// A thread that woke up more often than once in so long stirs. tqdm's own monitor wakes up every 10 s, for ever.
const WAKES_EVERY: Millis = Millis(4_000);

/// What happened between two looks, `passed` apart. `prompts`: the threads of which one runs prompts, if that is known; a
/// single wake of one of them is a sign of life, since nothing else wakes it.
pub fn between(before: &Counters, now: &Counters, passed: Millis, prompts: Option<&[u32]>) -> Sign {
    let grown = |before: u64, now: u64| now.saturating_sub(before);
    let more = |before: Option<u64>, now: Option<u64>| {
        before
            .zip(now)
            .map_or(0, |(before, now)| grown(before, now))
    };
    let cpu = grown(before.cpu_ms, now.cpu_ms) * 1000 > passed.0 * OWN_CPU;
    let bytes = more(before.read, now.read) > BYTES
        || more(before.fetched, now.fetched) > BYTES
        || more(before.written, now.written) > BYTES;
    let memory = before.rss.abs_diff(now.rss) > MEMORY
        || before
            .gpu_memory
            .zip(now.gpu_memory)
            .is_some_and(|(before, now)| before.abs_diff(now) > MEMORY);
    if cpu || bytes || memory || now.gpu_busy.is_some_and(|busy| busy > 0) {
        return Sign::Works;
    }
    let often = passed.0 / WAKES_EVERY.0 + 1;
    let woke = now.switches.iter().any(|(thread, count)| {
        let known = before
            .switches
            .binary_search_by_key(thread, |(known, _)| *known);
        let least = match prompts {
            Some(prompts) if prompts.contains(thread) => 0,
            Some(_) | None => often,
        };
        known.is_ok_and(|at| grown(before.switches[at].1, *count) > least)
    });
    if woke { Sign::Stirs } else { Sign::None }
}

/// Tells which thread runs prompts, from outside. Owner: the monitor of a run.
///
/// It is one of those that exist when the server first answers, and one of those that wake up for a canary job. Once it is the
/// only one left, its absence is proof.
#[derive(Debug, Default)]
pub struct PromptThread {
    may_be: Vec<u32>,
    narrowed: bool,
}

impl PromptThread {
    /// The threads, but for the main one, when the server first answered.
    pub fn at_ready(&mut self, threads: &[(u32, u64)]) {
        self.may_be = threads.iter().map(|(thread, _)| *thread).collect();
        self.narrowed = false;
    }

    /// A canary job ran between these two looks, and nothing else did.
    pub fn canary(&mut self, before: &[(u32, u64)], after: &[(u32, u64)]) {
        let woke = |thread: &u32| {
            let count = |of: &[(u32, u64)]| {
                of.iter()
                    .find_map(|(known, count)| (known == thread).then_some(*count))
            };
            count(after).is_some_and(|now| count(before).is_some_and(|then| now > then))
        };
        let left: Vec<u32> = self.may_be.iter().copied().filter(woke).collect();
        // A look that missed it must not accuse the rest.
        if !left.is_empty() {
            self.may_be = left;
            self.narrowed = true;
        }
    }

    /// Those that may be it, once a canary job has told them from the rest.
    pub fn known(&self) -> Option<&[u32]> {
        self.narrowed.then_some(&self.may_be)
    }

    /// Whether it has ended: `Some(true)` is certain, `Some(false)` that one which may be it has, `None` that all are there.
    pub fn gone(&self, threads: &[(u32, u64)]) -> Option<bool> {
        let there = |thread: &u32| threads.iter().any(|(known, _)| known == thread);
        let left = self.may_be.iter().filter(|thread| there(thread)).count();
        match (self.may_be.len(), left) {
            (0, _) => None,
            (_, 0) => Some(true),
            (all, left) => (left < all).then_some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Millis = Millis(5_000);

    fn look(cpu_ms: u64, wakes: u64) -> Counters {
        Counters {
            cpu_ms,
            read: Some(1_000),
            fetched: Some(0),
            written: Some(10),
            rss: 1 << 30,
            switches: vec![(10, 5), (11, wakes)],
            ..Counters::default()
        }
    }

    #[test]
    fn an_idle_process_that_answers_probes_shows_no_sign() {
        assert_eq!(
            between(&look(1000, 5), &look(1010, 5), FIVE, None),
            Sign::None
        );
        assert_eq!(
            between(&look(1000, 5), &look(1010, 6), FIVE, None),
            Sign::None,
            "tqdm's monitor"
        );
    }

    #[test]
    fn sleeping_between_steps_stirs_and_work_of_every_kind_is_work() {
        assert_eq!(between(&look(0, 5), &look(10, 10), FIVE, None), Sign::Stirs);
        assert_eq!(between(&look(0, 5), &look(900, 5), FIVE, None), Sign::Works);
        let then = look(0, 5);
        let kinds: [fn(&mut Counters); 6] = [
            |now| now.read = Some(10 << 20),
            |now| now.fetched = Some(10 << 20),
            |now| now.written = Some(10 << 20),
            |now| now.rss += 100 << 20,
            |now| now.gpu_busy = Some(3),
            |now| now.rss -= 100 << 20,
        ];
        for change in kinds {
            let mut now = then.clone();
            change(&mut now);
            assert_eq!(between(&then, &now, FIVE, None), Sign::Works);
        }
    }

    #[test]
    fn one_wake_of_the_thread_that_runs_prompts_is_a_sign_of_life() {
        let step = (look(0, 5), look(10, 6));
        assert_eq!(between(&step.0, &step.1, FIVE, None), Sign::None);
        assert_eq!(between(&step.0, &step.1, FIVE, Some(&[10])), Sign::None);
        assert_eq!(between(&step.0, &step.1, FIVE, Some(&[11])), Sign::Stirs);
        let still = look(10, 5);
        assert_eq!(between(&step.0, &still, FIVE, Some(&[11])), Sign::None);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let mut blind = look(0, 5);
        (blind.read, blind.fetched, blind.written) = (None, None, None);
        assert_eq!(between(&blind, &look(0, 5), FIVE, None), Sign::None);
        assert_eq!(
            between(&look(0, 5), &Counters::default(), FIVE, None),
            Sign::Works
        );
    }

    #[test]
    fn a_canary_tells_the_prompt_thread_and_its_absence_is_proof() {
        let mut thread = PromptThread::default();
        assert_eq!(thread.gone(&[]), None, "nothing is known yet");
        thread.at_ready(&[(10, 1), (11, 1), (12, 1)]);
        assert_eq!(thread.gone(&[(10, 1), (11, 1), (12, 1)]), None);
        assert_eq!(thread.gone(&[(10, 1), (12, 1)]), Some(false));
        thread.canary(&[(10, 1), (11, 1), (12, 1)], &[(10, 1), (11, 3), (12, 1)]);
        assert_eq!(thread.gone(&[(11, 9)]), None, "the others may end");
        assert_eq!(thread.gone(&[(10, 1), (12, 1)]), Some(true));
    }
}
