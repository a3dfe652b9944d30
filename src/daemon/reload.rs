//! The second run of an instance whose worker is being replaced without a gap.

use super::snapshot::Axm;
use super::table::{Instance, Table};
use crate::adapters::facts::RunFacts;
use crate::core::instance::Machine;
use crate::core::spec::app::{AppSpec, Defaults, SpecError};
use crate::core::spec::conf::Conf;
use crate::core::units::Millis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// How far a reload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What makes it known to another daemon.
    pub facts: Option<RunFacts>,
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
            facts: instance.facts.clone(),
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
        std::mem::swap(&mut self.facts, &mut instance.facts);
        instance.machine.wanted = true;
        instance.created_at_ms = self.created_at_ms;
        instance.started_at_ms = self.started_at_ms;
        instance.started = self.started;
        instance.exit_code = self.exit_code;
        self.phase = Phase::Ending;
    }

    /// As it is handed to another daemon, beside an instance with this configuration.
    pub fn state(&self, conf: &Conf) -> ReloadState {
        ReloadState {
            machine: self.other.clone(),
            phase: self.phase,
            facts: self.facts.clone(),
            conf: (self.conf != *conf).then(|| self.conf.to_map()),
            created_at_ms: self.created_at_ms,
            started_at_ms: self.started_at_ms,
            started: self.started,
            exit_code: self.exit_code,
            axm: Axm::clone(&self.axm),
        }
    }

    /// Back from that, beside an instance of this table.
    pub fn restore(
        state: ReloadState,
        (spec, conf): (&Arc<AppSpec>, &Conf),
        table: &mut Table,
        defaults: Defaults,
    ) -> Result<Self, SpecError> {
        let (spec, conf) = match &state.conf {
            Some(map) => (
                Arc::new(AppSpec::from_map(map, defaults)?),
                table.share(map),
            ),
            None => (Arc::clone(spec), conf.clone()),
        };
        Ok(Self {
            other: state.machine,
            spec,
            phase: state.phase,
            facts: state.facts,
            conf,
            created_at_ms: state.created_at_ms,
            started_at_ms: state.started_at_ms,
            started: state.started,
            exit_code: state.exit_code,
            axm: Arc::new(state.axm),
        })
    }
}

/// A [`Reload`] in the table that is handed over (since schema 3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadState {
    /// The other run's lifecycle.
    pub machine: Machine,
    phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<RunFacts>,
    /// What it was started with; none: what the instance has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conf: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at_ms: Option<u64>,
    started_at_ms: u64,
    started: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Axm::is_empty")]
    axm: Axm,
}
