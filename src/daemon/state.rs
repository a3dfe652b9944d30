//! The table as it is handed to another daemon: versioned, complete, and without anything that lives in this process.
//!
//! The seam for the upgrade in place and for the keeper (docs/adr/0002): what is not in here must not be needed to go on.

use super::snapshot::Axm;
use super::table::{Instance, Now, Table};
use crate::core::exit::LastExit;
use crate::core::ids::{Generation, PmId};
use crate::core::instance::Machine;
use crate::core::spec::app::{AppSpec, Defaults, SpecError};
use crate::core::units::Millis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The schema written now. A reader takes this one and every older one.
pub const SCHEMA: u32 = 1;

/// A whole table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableState {
    /// Which schema this is.
    pub schema: u32,
    /// The monotonic clock when it was written. A successor's clock goes on from here, so that every instant in it stays true.
    pub mono: Millis,
    /// See [`Table::next_id`].
    pub next_id: u32,
    /// See [`Table::next_generation`].
    pub next_generation: u64,
    /// The instances by ascending id.
    pub instances: Vec<InstanceState>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceState {
    /// Its id.
    pub id: PmId,
    /// Its configuration as it came over the wire.
    pub conf: Map<String, Value>,
    /// Its lifecycle, with generation and counters.
    pub machine: Machine,
    /// See the view.
    pub unique_id: String,
    /// See the view.
    pub version: String,
    /// See the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_version: Option<String>,
    /// See the view.
    pub created_at_ms: Option<u64>,
    /// See the view.
    pub started_at_ms: u64,
    /// The same, on the monotonic clock.
    pub started: Millis,
    /// See the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// See the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// What it lacks to be installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// It is to be forgotten once it is down.
    #[serde(default)]
    pub deleting: bool,
}

/// Why a table can't be taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not a table.
    #[error("the saved table cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It was written by a newer Fornax.
    #[error(
        "the saved table has schema {found}, and this Fornax reads up to {SCHEMA}; use the newer one"
    )]
    TooNew {
        /// Its schema.
        found: u32,
    },
    /// An app in it can't be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl Table {
    /// The table, to be written down at this moment of the monotonic clock.
    pub fn to_state(&self, mono: Millis) -> TableState {
        TableState {
            schema: SCHEMA,
            mono,
            next_id: self.next_id,
            next_generation: self.next_generation,
            instances: self.instances.values().map(instance_state).collect(),
        }
    }

    /// The table that the text holds, and the moment its clock goes on from.
    pub fn from_state(
        text: &[u8],
        defaults: Defaults,
        wall_ms: u64,
    ) -> Result<(Self, Millis), StateError> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let head: Head = serde_json::from_slice(text)?;
        if head.schema > SCHEMA {
            return Err(StateError::TooNew { found: head.schema });
        }
        let state: TableState = serde_json::from_slice(text)?;
        let mut table = Table::default();
        table.next_id = state.next_id;
        table.next_generation = state.next_generation;
        let now = Now {
            mono: state.mono,
            wall_ms,
        };
        for saved in state.instances {
            let spec = Arc::new(AppSpec::from_map(&saved.conf, defaults)?);
            let conf = table.share(&saved.conf);
            let instance = Instance {
                machine: saved.machine,
                unique_id: saved.unique_id.into(),
                version: saved.version.into(),
                node_version: saved.node_version.map(Into::into),
                created_at_ms: saved.created_at_ms,
                started_at_ms: saved.started_at_ms,
                started: saved.started,
                exit_code: saved.exit_code,
                last_exit: saved.last_exit.map(Arc::new),
                missing: saved.missing,
                axm: Arc::<Axm>::default(),
                deleting: saved.deleting,
                ..Instance::new(saved.id, spec, conf, Generation::default(), now)
            };
            table.instances.insert(saved.id, instance);
            table.assess(saved.id, wall_ms);
        }
        Ok((table, state.mono))
    }
}

fn instance_state(instance: &Instance) -> InstanceState {
    InstanceState {
        id: instance.id,
        conf: instance.conf.to_map(),
        machine: instance.machine.clone(),
        unique_id: instance.unique_id.to_string(),
        version: instance.version.to_string(),
        node_version: instance.node_version.as_deref().map(str::to_owned),
        created_at_ms: instance.created_at_ms,
        started_at_ms: instance.started_at_ms,
        started: instance.started,
        exit_code: instance.exit_code,
        last_exit: instance.last_exit.as_deref().cloned(),
        missing: instance.missing.clone(),
        deleting: instance.deleting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::exit::ExitCause;
    use crate::core::instance::{Run, State};
    use serde_json::json;

    /// Written by schema 1; never to be changed. A new schema gets a fixture of its own beside it.
    const FIXTURE_1: &str = include_str!("../../tests/fixtures/state/schema-1.json");

    fn table() -> Table {
        let mut table = Table::default();
        let map = json!({"name": "web", "pm_exec_path": "/srv/web.js", "pm_cwd": "/srv", "exec_interpreter": "node", "env": {"A": "1"}});
        let map = map.as_object().unwrap().clone();
        let now = Now {
            mono: Millis(5_000),
            wall_ms: 1_795_000_000_000,
        };
        let spec = Arc::new(AppSpec::from_map(&map, Defaults::default()).unwrap());
        let (id, generation, conf) = (table.take_id(), table.take_generations(), table.share(&map));
        let mut instance = Instance::new(id, spec, conf, generation, now);
        instance.unique_id = "u-1".into();
        instance.machine.wanted = true;
        instance.machine.generation = generation.next();
        instance.machine.state = State::Online(Run {
            pid: 4711,
            since: Millis(4_000),
        });
        instance.machine.memory.restarts = 3;
        instance.exit_code = Some(1);
        let exit = LastExit {
            cause: ExitCause::Code(1),
            at_ms: 1_794_999_999_000,
            uptime_ms: 900,
            stderr_tail: vec!["boom".into()],
        };
        instance.last_exit = Some(Arc::new(exit));
        table.instances.insert(id, instance);
        table
    }

    #[test]
    fn a_table_survives_being_written_and_read() {
        let state = table().to_state(Millis(5_000));
        let text = serde_json::to_vec(&state).unwrap();
        let (again, mono) =
            Table::from_state(&text, Defaults::default(), 1_795_000_000_000).unwrap();
        assert_eq!((again.to_state(mono), mono), (state, Millis(5_000)));
    }

    #[test]
    fn a_table_of_schema_1_is_read_by_every_later_fornax() {
        let (table, mono) =
            Table::from_state(FIXTURE_1.as_bytes(), Defaults::default(), 0).unwrap();
        let web = &table.instances[&PmId(0)];
        assert_eq!(
            (&*web.spec.name, web.machine.run().map(|run| run.pid), mono),
            ("web", Some(4711), Millis(5_000))
        );
    }

    #[test]
    fn a_newer_table_is_refused_and_rubbish_too() {
        let newer = format!(r#"{{"schema": {}, "strange": true}}"#, SCHEMA + 1);
        let error = Table::from_state(newer.as_bytes(), Defaults::default(), 0).unwrap_err();
        assert!(error.to_string().contains("use the newer one"));
        assert!(Table::from_state(b"{", Defaults::default(), 0).is_err());
    }
}
