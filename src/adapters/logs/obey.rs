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
                    .for_each(|(_, sink)| sink.reopen(now, &mut self.outlets.book));
                let _ = reply.send(());
            }
            Command::Flush { paths, reply } => {
                let _ = reply.send(self.flush(paths));
            }
            Command::Stats { reply } => {
                let _ = reply.send(self.stats());
            }
            Command::Follow { filter, queue } => self.outlets.hub.add(filter, Vec::new(), queue),
            Command::CatchUp {
                filter,
                positions,
                queue,
                reply,
            } => {
                let _ = reply.send(self.catch_up(filter, &positions, &queue));
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
            Command::AdoptionDone => self.outlets.adoption_done(now),
            Command::Shutdown { drain } => {
                (self.ending, self.draining) = (true, drain || !self.outlets.book.is_kept());
            }
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
            .filter(|source| source.lane.owner.instance == instance)
        {
            let key = source.lane.run();
            let Some(run) = self.runs.get(&key) else {
                continue;
            };
            let lane = self
                .outlets
                .lane(key, run, source.lane.owner.stream, config, now);
            let before = source.change_lane(lane, &mut self.outlets, now);
            for sink in before.sinks() {
                self.outlets.sinks.release(sink, &mut self.outlets.book);
            }
        }
    }

    fn flush(&mut self, paths: Vec<PathBuf>) -> Vec<(PathBuf, std::io::Error)> {
        let mut failed = Vec::new();
        for path in paths {
            let done = match self.outlets.sinks.at_path(&path) {
                Some(sink) => sink.flush(&mut self.outlets.book),
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
            wakeups: self.wakeups,
            streams: self.sources.len(),
            followers: self.outlets.hub.len(),
            missed_lines: self.outlets.hub.missed_total.load(Ordering::Relaxed),
            ..self.outlets.sinks.stats()
        }
    }

    /// The files of the targets, each with the targets that it holds.
    fn chains(&mut self, targets: &[TailTarget]) -> Vec<(Vec<usize>, Chain)> {
        let sinks = &mut self.outlets.sinks;
        let mut files: Vec<(PathBuf, Vec<usize>)> = Vec::new();
        for (at, target) in targets.iter().enumerate() {
            let path = match target {
                TailTarget::Path(path) => Some(path.clone()),
                TailTarget::Stream(instance, stream) => {
                    let sink = sinks
                        .place((*instance, *stream))
                        .and_then(|id| sinks.get_mut(id));
                    sink.and_then(|sink| sink.path.clone())
                }
            };
            let Some(path) = path else { continue };
            match files.iter_mut().find(|(known, _)| *known == path) {
                Some((_, holds)) => holds.push(at),
                None => files.push((path, vec![at])),
            }
        }
        let chain = |path: PathBuf| match sinks.at_path(&path) {
            Some(sink) => sink.chain(SCAN_BYTES, 0),
            None => Chain::of_path(&path, SCAN_BYTES),
        };
        let mut chain = chain;
        files
            .into_iter()
            .map(|(path, holds)| (holds, chain(path)))
            .collect()
    }

    /// What a follower has not seen of the streams it names; when that is little, it is live from here on. Streams that it
    /// does not name are live at once.
    fn catch_up(&mut self, filter: Filter, positions: &[Position], queue: &Arc<Queue>) -> CatchUp {
        let mut backlogs: Vec<(u64, Backlog)> = Vec::new();
        for position in positions {
            let stream = (position.instance, position.stream);
            let Some(id) = self.outlets.sinks.place(stream) else {
                continue;
            };
            let Some(sink) = self.outlets.sinks.get_mut(id) else {
                continue;
            };
            let from = position.after_seq.saturating_add(1);
            match backlogs.iter_mut().find(|(known, _)| *known == id) {
                // Of two positions in one file the later one tells what was seen.
                Some((_, known)) => {
                    known.from = known.from.max(from);
                    known.streams.push(stream);
                }
                None => {
                    let streams = vec![stream];
                    let (until, chain) = (sink.next_seq(), sink.chain_from(from));
                    backlogs.push((
                        id,
                        Backlog {
                            streams,
                            from,
                            until,
                            chain,
                        },
                    ));
                }
            }
        }
        let backlogs: Vec<Backlog> = backlogs
            .into_iter()
            .map(|(_, b)| b)
            .filter(|b| b.from < b.until)
            .collect();
        let behind: u64 = backlogs.iter().map(|b| b.until - b.from).sum();
        let live = behind <= NEAR_LINES;
        let except = if live {
            Vec::new()
        } else {
            positions.iter().map(|p| (p.instance, p.stream)).collect()
        };
        self.outlets.hub.add(filter, except, Arc::clone(queue));
        CatchUp { backlogs, live }
    }
}
