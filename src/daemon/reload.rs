//! The second run of an instance whose worker is being replaced without a gap.

use super::snapshot::Axm;
use super::table::Instance;
use crate::core::instance::Machine;
use crate::core::spec::app::AppSpec;
use crate::core::spec::conf::Conf;
use crate::core::units::Millis;
use std::sync::Arc;

/// How far a reload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The predecessor serves on until its successor listens.
    Waiting,
    /// One of the two is chosen, and the other ends.
    Ending,
}

/// A run beside the instance's own: its predecessor, or, when that had to be taken back, the successor that failed. Owner: the
/// daemon loop.
#[derive(Debug)]
pub struct Reload {
    /// Its lifecycle. It is never wanted.
    pub other: Machine,
    /// What it was started with.
    pub spec: Arc<AppSpec>,
    /// How far it has come.
    pub phase: Phase,
    conf: Conf,
    created_at_ms: Option<u64>,
    started_at_ms: u64,
    started: Millis,
    exit_code: Option<i32>,
    axm: Arc<Axm>,
}

impl Reload {
    /// The instance's present run, to be kept beside the one that follows.
    pub fn of(instance: &Instance) -> Self {
        let mut other = instance.machine.clone();
        other.wanted = false;
        Self {
            other,
            spec: Arc::clone(&instance.spec),
            phase: Phase::Waiting,
            conf: instance.conf.clone(),
            created_at_ms: instance.created_at_ms,
            started_at_ms: instance.started_at_ms,
            started: instance.started,
            exit_code: instance.exit_code,
            axm: Arc::clone(&instance.axm),
        }
    }

    /// The successor has failed: the predecessor is the instance's run again, and is as wanted as its successor was.
    pub fn take_back(&mut self, instance: &mut Instance) {
        std::mem::swap(&mut self.other, &mut instance.machine);
        std::mem::swap(&mut self.spec, &mut instance.spec);
        std::mem::swap(&mut self.conf, &mut instance.conf);
        std::mem::swap(&mut self.axm, &mut instance.axm);
        instance.machine.wanted = true;
        instance.created_at_ms = self.created_at_ms;
        instance.started_at_ms = self.started_at_ms;
        instance.started = self.started;
        instance.exit_code = self.exit_code;
        self.phase = Phase::Ending;
    }
}
