//! What the engine does at each command.

use super::chain::Chain;
use super::command::Command;
use super::config::LogConfig;
use super::engine::Engine;
use super::format::Moment;
use super::hub::{Filter, Position, Queue};
use super::plane::Finished;
use super::replay::{Backlog, CatchUp};
use super::sink::truncate_path;
use super::stats::PlaneStats;
use super::tail::{SCAN_BYTES, TailTarget};
use crate::core::ids::PmId;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A follower that is so many lines behind or fewer is live at once, and reads the rest from disk meanwhile.
const NEAR_LINES: u64 = 2_000;

impl Engine {
    /// Does what is asked and answers. A reply that nobody waits for any more is dropped.
    pub(super) fn obey(&mut self, command: Command, now: Moment) {
        match command {
            Command::Attach(logs) => self.attach(logs, now),
            Command::Finish {
                instance,
                generation,
                reply,
            } => {
                self.drain((instance, generation), now);
                let _ = reply.send(self.finish((instance, generation)));
            }
            Command::SetConfig { instance, config } => self.set_config(instance, &config, now),
            Command::Reopen { reply } => {
                self.outlets
                    .sinks
                    .all_mut()
                    .for_each(|(_, sink)| sink.reopen(now));
                let _ = reply.send(());
            }
            Command::Flush { paths, reply } => {
                let _ = reply.send(self.flush(paths));
            }
            Command::Stats { reply } => {
                let _ = reply.send(self.stats());
            }
            Command::Follow { filter, queue } => self.outlets.hub.add(filter, queue),
            Command::CatchUp {
                filter,
                positions,
                queue,
                reply,
            } => {
                let _ = reply.send(self.catch_up(filter, &positions, queue));
            }
            Command::Chains { targets, reply } => {
                let _ = reply.send(self.chains(&targets));
            }
            Command::Zipped {
                sink,
                file_no,
                done,
            } => {
                self.zipper.ended();
                let placed = self
                    .outlets
                    .sinks
                    .get_mut(sink)
                    .map(|sink| sink.place_zipped(file_no, done));
                if let Some(Err(error)) = placed {
                    tracing::debug!(%error, "a compressed log file was not put in place");
                }
            }
            Command::Shutdown => self.ending = true,
        }
    }

    /// Marks a run as ended; it is forgotten with its last stream.
    fn finish(&mut self, key: super::intake::RunKey) -> Finished {
        let Some(run) = self.runs.get_mut(&key) else {
            return Finished::default();
        };
        run.finished = true;
        let finished = Finished {
            stderr_tail: run.stderr_tail(),
        };
        if run.open == [None, None] {
            self.runs.remove(&key);
        }
        finished
    }

    fn set_config(&mut self, instance: PmId, config: &LogConfig, now: Moment) {
        for source in self
            .sources
            .values_mut()
            .filter(|source| source.lane.run.0 == instance)
        {
            let key = source.lane.run;
            let Some(run) = self.runs.get(&key) else {
                continue;
            };
            let lane = self.outlets.lane(key, run, source.lane.stream, config, now);
            let before = std::mem::replace(&mut source.lane, lane);
            for sink in before.sinks() {
                self.outlets.sinks.release(sink);
            }
        }
    }

    fn flush(&mut self, paths: Vec<PathBuf>) -> Vec<(PathBuf, std::io::Error)> {
        let mut failed = Vec::new();
        for path in paths {
            let done = match self.outlets.sinks.at_path(&path) {
                Some(sink) => sink.flush(),
                None => truncate_path(&path),
            };
            if let Err(error) = done {
                failed.push((path, error));
            }
        }
        failed
    }

    fn stats(&mut self) -> PlaneStats {
        PlaneStats {
            read_bytes: self.read_bytes,
            streams: self.sources.len(),
            followers: self.outlets.hub.len(),
            missed_lines: self.outlets.hub.missed_total.load(Ordering::Relaxed),
            ..self.outlets.sinks.stats()
        }
    }

    /// The files of each target; a file that two targets share counts for the first.
    fn chains(&mut self, targets: &[TailTarget]) -> Vec<(usize, Chain)> {
        let sinks = &mut self.outlets.sinks;
        let mut seen = HashSet::new();
        let mut chains = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let path = match target {
                TailTarget::Path(path) => Some(path.clone()),
                TailTarget::Stream(instance, stream) => {
                    let id = sinks.place((*instance, *stream)).map(|place| place.sink);
                    id.and_then(|id| sinks.get_mut(id))
                        .and_then(|sink| sink.path.clone())
                }
            };
            let Some(path) = path.filter(|path| seen.insert(path.clone())) else {
                continue;
            };
            let chain = match sinks.at_path(&path) {
                Some(sink) => sink.chain(SCAN_BYTES, 0),
                None => Chain::of_path(&path, SCAN_BYTES),
            };
            chains.push((at, chain));
        }
        chains
    }

    /// What a follower has not seen; when that is little, it is live from here on.
    fn catch_up(&mut self, filter: Filter, positions: &[Position], queue: Arc<Queue>) -> CatchUp {
        let mut backlogs: Vec<(u64, Backlog)> = Vec::new();
        for position in positions {
            let Some(place) = self
                .outlets
                .sinks
                .place((position.instance, position.stream))
                .cloned()
            else {
                continue;
            };
            let Some(sink) = self.outlets.sinks.get_mut(place.sink) else {
                continue;
            };
            let (from, until) = (position.after_seq.saturating_add(1), sink.next_seq());
            // Of two positions in one file the later one tells what was seen.
            if let Some((_, known)) = backlogs.iter_mut().find(|(id, _)| *id == place.sink) {
                known.from = known.from.max(from);
                continue;
            }
            let first = sink
                .index
                .marks()
                .iter()
                .rev()
                .find(|mark| mark.seq <= from)
                .or(sink.index.marks().first());
            let chain = sink.chain(u64::MAX, first.map_or(u64::MAX, |mark| mark.file_no));
            let Position {
                instance, stream, ..
            } = *position;
            let (generation, name, namespace) = (place.generation, place.name, place.namespace);
            backlogs.push((
                place.sink,
                Backlog {
                    instance,
                    generation,
                    name,
                    namespace,
                    stream,
                    from,
                    until,
                    chain,
                },
            ));
        }
        let backlogs: Vec<Backlog> = backlogs
            .into_iter()
            .map(|(_, backlog)| backlog)
            .filter(|b| b.from < b.until)
            .collect();
        let behind: u64 = backlogs
            .iter()
            .map(|backlog| backlog.until - backlog.from)
            .sum();
        let live = behind <= NEAR_LINES;
        if live {
            self.outlets.hub.add(filter, queue);
        }
        CatchUp { backlogs, live }
    }
}
