//! Which job is next, and on which instance.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Free memory counts in steps of this size, so that noise does not decide. In bytes.
const STEP: u64 = 1 << 30;

/// An instance as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its service is healthy, and it can be talked to.
    pub healthy: bool,
    /// It finishes what it has, and takes no more.
    pub draining: bool,
    /// Prompts that wait or run there, ours or not.
    pub depth: u32,
    /// So many it may have.
    pub most: u32,
    /// How many of the job's models it has loaded, as far as is known.
    pub loaded: u32,
    /// Free memory of its device, in bytes.
    pub free_vram: u64,
    /// When it last got a job: a counter, 0 for never.
    pub last_used: u64,
}

/// What a job says about instances.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes<'a> {
    /// Not these.
    pub not_on: &'a [String],
    /// Rather not these.
    pub avoid: &'a [String],
}

/// The instance for a job: healthy, not draining, with room for a prompt. Of these the one that the job does not avoid,
/// with the fewest prompts, the most of the job's models loaded, the most free memory, that has waited longest, by name.
pub fn choose<'a>(
    candidates: &'a [Candidate<'a>],
    wishes: Wishes<'_>,
) -> Option<&'a Candidate<'a>> {
    let listed = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    candidates
        .iter()
        .filter(|one| one.healthy && !one.draining && one.depth < one.most)
        .filter(|one| !listed(wishes.not_on, one.name))
        .min_by_key(|one| {
            (
                listed(wishes.avoid, one.name),
                one.depth,
                Reverse(one.loaded),
                Reverse(one.free_vram / STEP),
                one.last_used,
                one.name,
            )
        })
}

/// Whether any instance but this could ever take the job: one that it has not been refused by. A sick one may recover.
pub fn is_elsewhere(names: &[&str], refused_by: &str, not_on: &[String]) -> bool {
    names
        .iter()
        .any(|name| *name != refused_by && !not_on.iter().any(|refused| refused == name))
}

/// Jobs that wait: by priority, highest first; within one, callers take turns; within a caller, first come, first served.
#[derive(Debug, Default)]
pub struct WaitingLine<T> {
    levels: BTreeMap<Reverse<i32>, Level<T>>,
    length: usize,
}

#[derive(Debug)]
struct Level<T> {
    /// Callers in the order of their turns; each has a job.
    turns: VecDeque<String>,
    jobs: HashMap<String, VecDeque<T>>,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            jobs: HashMap::new(),
        }
    }
}

impl<T> WaitingLine<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts a job at the end of its caller's.
    pub fn push(&mut self, priority: i32, caller: &str, job: T) {
        self.put(priority, caller, job, false);
    }

    /// Puts a job that was out already before its caller's others, and its caller's turn first.
    pub fn push_back(&mut self, priority: i32, caller: &str, job: T) {
        self.put(priority, caller, job, true);
    }

    fn put(&mut self, priority: i32, caller: &str, job: T, first: bool) {
        let level = self.levels.entry(Reverse(priority)).or_default();
        let jobs = level.jobs.entry(caller.to_owned()).or_default();
        if jobs.is_empty() {
            if first {
                level.turns.push_front(caller.to_owned());
            } else {
                level.turns.push_back(caller.to_owned());
            }
        }
        if first {
            jobs.push_front(job);
        } else {
            jobs.push_back(job);
        }
        self.length += 1;
    }

    /// Takes out the first job, in order, for which `place` gives something; each caller is asked for its first job only, so that
    /// a job that nobody can take now holds up its caller's others and nobody else's.
    pub fn take<R>(&mut self, mut place: impl FnMut(&T) -> Option<R>) -> Option<(T, R)> {
        for level in self.levels.values_mut() {
            for at in 0..level.turns.len() {
                let caller = &level.turns[at];
                let Some(jobs) = level.jobs.get_mut(caller) else {
                    continue;
                };
                let Some(found) = jobs.front().and_then(&mut place) else {
                    continue;
                };
                let caller = level.turns.remove(at)?;
                let job = jobs.pop_front()?;
                if jobs.is_empty() {
                    level.jobs.remove(&caller);
                } else {
                    level.turns.push_back(caller);
                }
                self.length -= 1;
                self.levels.retain(|_, level| !level.turns.is_empty());
                return Some((job, found));
            }
        }
        None
    }

    /// Takes out every job that `gone` says is.
    pub fn remove(&mut self, gone: impl Fn(&T) -> bool) {
        for level in self.levels.values_mut() {
            level.jobs.retain(|_, jobs| {
                jobs.retain(|job| !gone(job));
                !jobs.is_empty()
            });
            let jobs = &level.jobs;
            level.turns.retain(|caller| jobs.contains_key(caller));
        }
        self.levels.retain(|_, level| !level.turns.is_empty());
        let counts = self.levels.values().flat_map(|level| level.jobs.values());
        self.length = counts.map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idle(name: &str) -> Candidate<'_> {
        Candidate {
            name,
            healthy: true,
            draining: false,
            depth: 0,
            most: 2,
            loaded: 0,
            free_vram: 8 * STEP,
            last_used: 0,
        }
    }

    #[test]
    fn each_rule_decides_where_those_before_it_are_equal() {
        let refused = ["a".to_owned()];
        let cases: [(&str, [Candidate<'_>; 2], Wishes<'_>); 7] = [
            (
                "health",
                [
                    Candidate {
                        healthy: false,
                        ..idle("a")
                    },
                    Candidate {
                        depth: 1,
                        ..idle("b")
                    },
                ],
                Wishes::default(),
            ),
            (
                "draining",
                [
                    Candidate {
                        draining: true,
                        ..idle("a")
                    },
                    idle("b"),
                ],
                Wishes::default(),
            ),
            (
                "refusals",
                [
                    idle("a"),
                    Candidate {
                        depth: 1,
                        ..idle("b")
                    },
                ],
                Wishes {
                    not_on: &refused,
                    avoid: &[],
                },
            ),
            (
                "failures",
                [
                    idle("a"),
                    Candidate {
                        depth: 1,
                        ..idle("b")
                    },
                ],
                Wishes {
                    not_on: &[],
                    avoid: &refused,
                },
            ),
            (
                "depth",
                [
                    Candidate {
                        depth: 1,
                        loaded: 2,
                        ..idle("a")
                    },
                    idle("b"),
                ],
                Wishes::default(),
            ),
            (
                "models",
                [
                    Candidate {
                        free_vram: 9 * STEP,
                        ..idle("a")
                    },
                    Candidate {
                        loaded: 1,
                        ..idle("b")
                    },
                ],
                Wishes::default(),
            ),
            (
                "memory",
                [
                    idle("a"),
                    Candidate {
                        free_vram: 9 * STEP,
                        last_used: 5,
                        ..idle("b")
                    },
                ],
                Wishes::default(),
            ),
        ];
        for (rule, candidates, wishes) in cases {
            assert_eq!(
                choose(&candidates, wishes).map(|one| one.name),
                Some("b"),
                "{rule}"
            );
        }
        let turns = [
            Candidate {
                last_used: 7,
                ..idle("a")
            },
            Candidate {
                last_used: 6,
                free_vram: 8 * STEP + 5,
                ..idle("b")
            },
        ];
        assert_eq!(
            choose(&turns, Wishes::default()).map(|one| one.name),
            Some("b")
        );
        assert_eq!(
            choose(
                &[Candidate {
                    depth: 2,
                    ..idle("a")
                }],
                Wishes::default(),
            ),
            None
        );
        assert!(
            is_elsewhere(&["a", "b"], "a", &[]) && !is_elsewhere(&["a", "b"], "a", &["b".into()])
        );
    }

    #[test]
    fn priorities_first_then_callers_in_turn_then_first_come() {
        let mut line = WaitingLine::default();
        for (priority, caller, job) in [
            (0, "x", "x1"),
            (0, "x", "x2"),
            (0, "y", "y1"),
            (5, "z", "z1"),
            (0, "x", "x3"),
        ] {
            line.push(priority, caller, job);
        }
        line.push_back(0, "y", "y0");
        let order: Vec<_> =
            std::iter::from_fn(|| line.take(|_| Some(())).map(|(job, ())| job)).collect();
        assert_eq!(order, ["z1", "x1", "y0", "x2", "y1", "x3"]);
    }

    #[test]
    fn a_job_that_nobody_takes_holds_up_its_own_caller_only() {
        let mut line = WaitingLine::default();
        line.push(0, "x", "stuck");
        line.push(0, "x", "behind");
        line.push(0, "y", "free");
        let place = |job: &&str| (*job != "stuck").then_some(());
        assert_eq!(line.take(place).map(|(job, ())| job), Some("free"));
        assert_eq!(line.take(place), None);
        line.remove(|job| *job == "stuck");
        assert_eq!(line.take(place).map(|(job, ())| job), Some("behind"));
        assert!(line.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_sick_draining_full_or_refused_is_ever_chosen(
            raw in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u32..4, 0u32..3, 0u64..4, 0u64..9), 0..8),
            refused in proptest::collection::vec(0usize..8, 0..3),
        ) {
            let names: Vec<String> = (0..raw.len()).map(|at| format!("gpu{at}")).collect();
            let all: Vec<Candidate<'_>> = raw.iter().zip(&names)
                .map(|(&(healthy, draining, depth, loaded, vram, last_used), name)| Candidate { name, healthy, draining, depth, most: 2, loaded, free_vram: vram * STEP, last_used })
                .collect();
            let not_on: Vec<String> = refused.iter().map(|at| format!("gpu{at}")).collect();
            let fit = |one: &Candidate<'_>| one.healthy && !one.draining && one.depth < 2 && !not_on.iter().any(|no| no == one.name);
            match choose(&all, Wishes { not_on: &not_on, avoid: &[] }) {
                Some(one) => {
                    prop_assert!(fit(one));
                    prop_assert!(all.iter().filter(|other| fit(other)).all(|other| one.depth <= other.depth));
                }
                None => prop_assert!(!all.iter().any(fit)),
            }
        }

        #[test]
        fn every_job_comes_out_once(jobs in proptest::collection::vec((0i32..3, 0u8..4, any::<bool>()), 0..60)) {
            let mut line = WaitingLine::default();
            for (at, (priority, caller, back)) in jobs.iter().enumerate() {
                if *back { line.push_back(*priority, &caller.to_string(), at) } else { line.push(*priority, &caller.to_string(), at) }
            }
            prop_assert_eq!(line.len(), jobs.len());
            let mut out: Vec<usize> = std::iter::from_fn(|| line.take(|_| Some(())).map(|(job, ())| job)).collect();
            prop_assert!(out.windows(2).all(|pair| jobs[pair[0]].0 >= jobs[pair[1]].0));
            out.sort_unstable();
            prop_assert_eq!(out, (0..jobs.len()).collect::<Vec<_>>());
        }
    }
}
