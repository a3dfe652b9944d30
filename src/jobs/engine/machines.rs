//! News of the daemon's instances: runs that begin, end, fall sick or recover.

use super::super::link;
use super::super::machine::{self, Machine, Seen};
use super::super::report::Report;
use super::Engine;
use crate::core::ids::PmId;
use crate::core::job::{AttemptEnd, JobState};
use std::time::Duration;
use tokio::time::Instant;

/// How long the websocket of a run that is over may take to end.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Free memory is asked for no more often.
const STATS: Duration = Duration::from_secs(10);

impl Engine {
    /// Compares what the daemon has published last with what is known.
    pub(super) fn look_at_machines(&mut self) {
        let snapshot = std::sync::Arc::clone(&self.daemon.snapshots.borrow());
        let seen = machine::seen(&snapshot);
        let over: Vec<PmId> = self
            .machines
            .values()
            .filter(|known| {
                !seen
                    .iter()
                    .any(|seen| seen.id == known.id && seen.run == known.run)
            })
            .map(|known| known.id)
            .collect();
        for id in over {
            let stopped = machine::is_stopped(&snapshot, id);
            let Some(machine) = self.machines.get_mut(&id) else {
                continue;
            };
            let stopped = stopped || machine.stopping;
            machine.gone.get_or_insert((Instant::now(), stopped));
            // With its websocket open, what it said last is heard first.
            if !machine.open {
                self.run_over(id);
            }
        }
        for seen in seen {
            match self.machines.get_mut(&seen.id) {
                // Its next run is looked at when this one is done with.
                Some(machine) if machine.gone.is_some() => {}
                Some(machine) => {
                    machine.healthy = seen.healthy;
                    machine.stopping = seen.stopping;
                    machine.draining = seen.draining;
                    machine.name = seen.name;
                }
                None => self.run_begun(seen),
            }
        }
    }

    /// Runs that are over and have had their last word.
    pub(super) fn bury(&mut self) {
        let over: Vec<PmId> = self
            .machines
            .values()
            .filter(|machine| {
                let late = machine
                    .gone
                    .is_some_and(|(since, _)| since.elapsed() >= LAST_WORD);
                late || (machine.gone.is_some() && !machine.open)
            })
            .map(|machine| machine.id)
            .collect();
        if over.is_empty() {
            return;
        }
        for id in over {
            self.run_over(id);
        }
        self.look_at_machines();
    }

    fn run_begun(&mut self, seen: Seen) {
        self.serial += 1;
        let over = self.daemon.shutdown.child_token();
        let machine = Machine::new(seen, self.serial, over);
        self.tasks
            .spawn(link::listen(machine.link.clone(), self.reports.clone()));
        self.machines.insert(machine.id, machine);
    }

    /// A run has ended: what it had is tried elsewhere. Only what it executed may be what it died of.
    fn run_over(&mut self, id: PmId) {
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        machine.link.over.cancel();
        let stopped = machine.gone.is_some_and(|(_, stopped)| stopped);
        machine.gone.get_or_insert((Instant::now(), stopped));
        let how = if stopped { "was stopped" } else { "died" };
        let (name, kept) = (machine.name.clone(), machine.link.output.is_some());
        for prompt_id in machine.forgets_all() {
            let Some(live) = self.job_of(&prompt_id) else {
                continue;
            };
            live.looking = false;
            let running = live.record.state() == JobState::Running;
            let job = live.record.id.clone();
            let (end, words) = match live.giving_up.take() {
                Some((end, _)) => (
                    end,
                    format!("{name} {how} while this job was being taken back"),
                ),
                // It had said that it was done, and its files are on this machine: nothing needs to be done again.
                None if live.succeeded && kept => (AttemptEnd::Success, String::new()),
                None => {
                    let did = if running {
                        "it executed this job"
                    } else {
                        "this job waited there"
                    };
                    let running = running && !stopped;
                    (
                        AttemptEnd::InstanceLost { running },
                        format!("{name} {how} while {did}"),
                    )
                }
            };
            self.end_attempt(&job, end, words);
        }
        self.machines.remove(&id);
    }

    /// Asks an instance for its free memory, now and then.
    pub(super) fn ask_stats(&mut self, id: PmId) {
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if machine.asked_stats.is_some_and(|at| at.elapsed() < STATS) {
            return;
        }
        machine.asked_stats = Some(Instant::now());
        let link = machine.link.clone();
        self.spawn(async move {
            let stats = link.client.system_stats().await;
            let device = stats
                .ok()
                .and_then(|stats| stats.devices.into_iter().next());
            Report::Stats {
                link: link.serial,
                free_vram: device.map_or(0, |device| device.vram_free),
            }
        });
    }
}
