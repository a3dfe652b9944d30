//! The table as it is handed to another daemon: versioned, complete, and without anything that lives in this process.
//!
//! It is written as entries, one for each thing that has changed, and read as a whole: of two entries for one thing the later
//! one counts. What is not in here must not be needed to go on (docs/adr/0002).

use super::reload::{Reload, ReloadState};
use super::snapshot::Axm;
use super::table::{Instance, Now, Table};
use crate::adapters::facts::RunFacts;
use crate::core::exit::LastExit;
use crate::core::ids::{Generation, PmId};
use crate::core::instance::Machine;
use crate::core::probe::Verdict;
use crate::core::service::ServiceState;
use crate::core::spec::app::{AppSpec, Defaults, SpecError};
use crate::core::units::Millis;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The schema written now. A reader takes this one and every older one, and refuses a newer one: then the older program does
/// not get the job.
///
/// - 1: the whole table as one JSON object; never written by a released Fornax.
/// - 2: entries; what a run is known by, its probe's verdict, and what its app has told.
/// - 3: a reload under way, and which workers listen.
///
/// A field that is added needs a default, for tables from before it. It needs a new number, and a fixture of the old one, if a
/// program that does not know it must not go on from such a table: else that one passes over it, and takes the default.
pub const SCHEMA: u32 = 3;

/// One thing that has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The table but for its instances. The first of all.
    Head(Head),
    /// An instance, without its configuration.
    App(Box<InstanceState>),
    /// The configuration of an instance.
    Conf(PmId, Map<String, Value>),
    /// There is no such instance any more.
    Gone(PmId),
}

/// The table but for its instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Which schema the entries have.
    pub schema: u32,
    /// When the table's clock stood at 0, on the machine's monotonic clock, in milliseconds.
    pub epoch_ms: u64,
    /// What marks the processes of its runs.
    pub daemon: String,
    /// See [`DaemonInfo::life`](super::handle::DaemonInfo::life).
    #[serde(default)]
    pub life: u64,
    /// See [`Table::next_id`].
    pub next_id: u32,
    /// See [`Table::next_generation`].
    pub next_generation: u64,
}

impl Entry {
    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Maps with text keys and numbers: there is nothing in it that JSON refuses.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A whole table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableState {
    /// Which schema this is.
    pub schema: u32,
    /// The table's clock when it was written. A successor's clock goes on from here, so that every instant in it stays true.
    /// With `epoch_ms` the time between is counted too.
    pub mono: Millis,
    /// See [`Head::epoch_ms`]; none in schema 1.
    #[serde(default)]
    pub epoch_ms: Option<u64>,
    /// See [`Head::daemon`]; none in schema 1.
    #[serde(default)]
    pub daemon: Option<String>,
    /// See [`Head::life`]; none in schema 1.
    #[serde(default)]
    pub life: Option<u64>,
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
    /// Its configuration as it came over the wire; in entries it stands by itself.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
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
    /// What makes its latest run known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<RunFacts>,
    /// What its latest run's probe says, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<(Verdict, String)>,
    /// What port 9090 tells, for its `since`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceState>,
    /// What the app has told.
    #[serde(default, skip_serializing_if = "Axm::is_empty")]
    pub axm: Axm,
    /// Its latest run is a cluster worker that listens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub listens: bool,
    /// Its worker is being replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Box<ReloadState>>,
}

/// Why a table can't be taken over.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not a table.
    #[error("the saved table cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// There is nothing in it.
    #[error("the saved table is empty")]
    Empty,
    /// It was written by a newer Fornax.
    #[error(
        "the saved table has schema {found}, and this Fornax reads up to {SCHEMA}; use the newer one"
    )]
    TooNew {
        /// Its schema.
        found: u32,
    },
    /// Its counters are of no daemon.
    #[error("the saved table counts further than any life of a daemon")]
    Counters,
    /// An app in it can't be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl Table {
    /// The entry for the table itself.
    pub fn head(&self, epoch_ms: u64, daemon: &str, life: u64) -> Entry {
        Entry::Head(Head {
            schema: SCHEMA,
            epoch_ms,
            daemon: daemon.to_owned(),
            life,
            next_id: self.next_id,
            next_generation: self.next_generation,
        })
    }

    /// The entry for an instance, without its configuration.
    pub fn entry(&self, id: PmId) -> Entry {
        let instance = self.instances.get(&id);
        instance.map_or(Entry::Gone(id), |instance| {
            Entry::App(Box::new(instance_state(instance)))
        })
    }

    /// The table that was saved.
    pub fn restore(
        state: TableState,
        defaults: Defaults,
        wall_ms: u64,
    ) -> Result<Self, StateError> {
        let mut table = Table::default();
        (table.next_id, table.next_generation) = counters(&state)?;
        let now = Now {
            mono: state.mono,
            wall_ms,
        };
        for saved in state.instances {
            let spec = Arc::new(AppSpec::from_map(&saved.conf, defaults)?);
            let conf = table.share(&saved.conf);
            let reload = saved.reload.map(|reload| {
                Reload::restore(*reload, (&spec, &conf), &mut table, defaults).map(Box::new)
            });
            let instance = Instance {
                reload: reload.transpose()?,
                listens: saved.listens,
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
                axm: Arc::new(saved.axm),
                deleting: saved.deleting,
                facts: saved.facts,
                probe: saved.probe,
                ..Instance::new(saved.id, spec, conf, Generation::default(), now)
            };
            let instance = match saved.service {
                Some(service) => Instance {
                    service,
                    ..instance
                },
                None => instance,
            };
            table.instances.insert(saved.id, instance);
        }
        let ids: Vec<PmId> = table.instances.keys().copied().collect();
        for id in ids {
            table.assess(id, wall_ms);
        }
        Ok(table)
    }
}

impl TableState {
    /// From a table of schema 1.
    pub fn from_text(text: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let version: Version = serde_json::from_slice(text)?;
        if version.schema > SCHEMA {
            return Err(StateError::TooNew {
                found: version.schema,
            });
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// From entries, in the order they were written.
    pub fn from_entries<'a>(
        entries: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Version {
            head: Schema,
        }
        #[derive(Deserialize)]
        struct Schema {
            schema: u32,
        }
        // The first entry says what the others are; a newer one may be a head that we can't read.
        let known = |found| match found {
            0..=SCHEMA => Ok(()),
            _ => Err(StateError::TooNew { found }),
        };
        let mut entries = entries.into_iter();
        let first = entries.next().ok_or(StateError::Empty)?;
        let version: Version = serde_json::from_slice(first)?;
        known(version.head.schema)?;
        let mut head: Option<Head> = None;
        let mut apps: BTreeMap<PmId, InstanceState> = BTreeMap::new();
        let mut confs: BTreeMap<PmId, Map<String, Value>> = BTreeMap::new();
        for entry in std::iter::once(first).chain(entries) {
            match serde_json::from_slice(entry)? {
                Entry::Head(latest) => {
                    known(latest.schema)?;
                    head = Some(latest);
                }
                Entry::App(app) => drop(apps.insert(app.id, *app)),
                Entry::Conf(id, conf) => drop(confs.insert(id, conf)),
                Entry::Gone(id) => {
                    apps.remove(&id);
                    confs.remove(&id);
                }
            }
        }
        let head = head.ok_or(StateError::Empty)?;
        let instances = apps.into_values().filter_map(|app| {
            let conf = confs.remove(&app.id)?;
            Some(InstanceState { conf, ..app })
        });
        Ok(Self {
            schema: head.schema,
            mono: Millis(0),
            epoch_ms: Some(head.epoch_ms),
            daemon: Some(head.daemon),
            life: Some(head.life),
            next_id: head.next_id,
            next_generation: head.next_generation,
            instances: instances.collect(),
        })
    }
}

/// The most ids, and ranges of generations, that a daemon's life comes to.
const MOST: u64 = 1 << 31;

/// Where ids and generations go on. Past those of every instance, even where the head was written before one of them: else they
/// would be given out twice.
fn counters(state: &TableState) -> Result<(u32, u64), StateError> {
    let (mut ids, mut generations, mut runs) = (u64::from(state.next_id), state.next_generation, 0);
    for instance in &state.instances {
        ids = ids.max(u64::from(instance.id.0) + 1);
        let other = instance.reload.as_ref().map(|reload| &reload.machine);
        for machine in std::iter::once(&instance.machine).chain(other) {
            generations = generations.max(machine.generation.0 >> 32);
            runs = runs.max(machine.generation.number());
        }
    }
    if ids.max(generations).max(runs.into()) > MOST {
        return Err(StateError::Counters);
    }
    let ids = u32::try_from(ids).map_err(|_| StateError::Counters)?;
    Ok((ids, generations))
}

fn instance_state(instance: &Instance) -> InstanceState {
    InstanceState {
        id: instance.id,
        conf: Map::new(),
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
        facts: instance.facts.clone(),
        probe: instance.probe.clone(),
        service: Some(instance.service.clone()),
        axm: Axm::clone(&instance.axm),
        listens: instance.listens,
        reload: instance
            .reload
            .as_ref()
            .map(|reload| Box::new(reload.state(&instance.conf))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::exit::ExitCause;
    use crate::core::instance::{FailReason, IdleReason, Run, State};
    use serde_json::json;

    /// Written by schema 1; never to be changed. A new schema gets a fixture of its own beside it.
    const FIXTURE_1: &str = include_str!("../../tests/fixtures/state/schema-1.json");

    /// Written by a real daemon of schema 2, its paths and environment apart.
    const FIXTURE_2: &str = include_str!("../../tests/fixtures/state/schema-2.jsonl");

    fn of_lines(text: &str) -> TableState {
        TableState::from_entries(text.lines().map(str::as_bytes)).unwrap()
    }

    /// What is written of a table now, and read again.
    fn rewritten(table: &Table) -> Table {
        let mut entries = vec![table.head(77, "d", 42).to_bytes()];
        for (id, instance) in &table.instances {
            entries.push(Entry::Conf(*id, instance.conf.to_map()).to_bytes());
            entries.push(table.entry(*id).to_bytes());
        }
        let state = TableState::from_entries(entries.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(state.schema, SCHEMA);
        Table::restore(state, Defaults::default(), 0).unwrap()
    }

    #[track_caller]
    fn assert_same(one: &Table, other: &Table) {
        let ids = |table: &Table| table.instances.keys().copied().collect::<Vec<_>>();
        assert_eq!(ids(one), ids(other));
        for id in ids(one) {
            assert_eq!(one.entry(id), other.entry(id));
            assert_eq!(one.instances[&id].conf, other.instances[&id].conf);
        }
        let counters = |table: &Table| (table.next_id, table.next_generation);
        assert_eq!(counters(one), counters(other));
    }

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
            why: None,
        };
        instance.last_exit = Some(Arc::new(exit));
        table.instances.insert(id, instance);
        table.assess(id, now.wall_ms);
        table
    }

    #[test]
    fn a_table_survives_being_written_and_read() {
        let table = table();
        let (id, wall_ms) = (PmId(0), 1_795_000_000_000);
        let conf = table.instances[&id].conf.to_map();
        let entries = [
            table.head(77, "d", 42),
            Entry::Conf(id, conf),
            table.entry(PmId(9)),
            table.entry(id),
        ]
        .map(|entry| entry.to_bytes());
        let state = TableState::from_entries(entries.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(
            (state.epoch_ms, state.daemon.as_deref()),
            (Some(77), Some("d"))
        );
        let again = Table::restore(state, Defaults::default(), wall_ms).unwrap();
        assert_eq!(again.entry(id), table.entry(id));
        assert_eq!(again.instances[&id].conf, table.instances[&id].conf);
        let gone = [&entries[..], &[Entry::Gone(id).to_bytes()]].concat();
        let state = TableState::from_entries(gone.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(state.instances, []);
    }

    #[test]
    fn a_table_of_schema_1_is_read_by_every_later_fornax() {
        let state = TableState::from_text(FIXTURE_1.as_bytes()).unwrap();
        assert_eq!((state.mono, state.epoch_ms), (Millis(5_000), None));
        let table = Table::restore(state, Defaults::default(), 0).unwrap();
        let web = &table.instances[&PmId(0)];
        assert_eq!(
            (&*web.spec.name, web.machine.run().map(|run| run.pid)),
            ("web", Some(4711))
        );
    }

    #[test]
    fn a_table_of_schema_2_is_gone_on_with_whatever_its_apps_were_doing() {
        let state = of_lines(FIXTURE_2);
        assert_eq!(state.schema, 2);
        assert_eq!(state.epoch_ms, Some(2_166_861));
        assert_eq!((state.next_id, state.next_generation), (9, 9));
        let table = Table::restore(state, Defaults::default(), 0).unwrap();
        let states: Vec<(&str, &State)> = table
            .instances
            .values()
            .map(|instance| (&*instance.spec.name, &instance.machine.state))
            .collect();
        let names: Vec<&str> = states.iter().map(|(name, _)| *name).collect();
        let of = |name: &str| states.iter().find(|known| known.0 == name).unwrap().1;
        assert_eq!(
            names,
            [
                "web", "web", "crash", "gaveup", "done", "stubborn", "probed", "off"
            ]
        );
        assert!(matches!(of("web"), State::Online(_)));
        assert!(matches!(of("crash"), State::Backoff { .. }));
        assert!(matches!(of("gaveup"), State::Failed(FailReason::GaveUp(_))));
        assert!(matches!(of("done"), State::Idle(IdleReason::Ended(_))));
        assert!(matches!(of("off"), State::Idle(IdleReason::Disabled)));
        let State::Stopping(stopping) = of("stubborn") else {
            panic!("{:?}", of("stubborn"));
        };
        assert!(stopping.asked && stopping.exited.is_none() && stopping.run.is_some());
        let probed = &table.instances[&PmId(6)];
        assert_eq!(
            probed.probe.as_ref().map(|known| known.0),
            Some(Verdict::Healthy)
        );
        let facts = probed.facts.as_ref().unwrap();
        assert!(facts.start_time.is_some() && facts.cgroup.is_some());
        assert!(table.instances[&PmId(0)].axm.monitor.contains_key("served"));
        let crash = &table.instances[&PmId(2)];
        let last = crash.last_exit.as_ref().unwrap();
        assert_eq!(last.cause, ExitCause::Code(3));
        assert_eq!(last.stderr_tail, ["no such model"]);
    }

    #[test]
    fn an_upgrade_over_one_or_two_schemas_loses_nothing() {
        let states = [
            TableState::from_text(FIXTURE_1.as_bytes()).unwrap(),
            of_lines(FIXTURE_2),
        ];
        for (state, schema) in states.into_iter().zip(1..) {
            assert_eq!(state.schema, schema);
            let old = Table::restore(state, Defaults::default(), 0).unwrap();
            assert!(!old.instances.is_empty());
            assert_same(&rewritten(&old), &old);
        }
    }

    #[test]
    fn a_reload_under_way_is_handed_over() {
        let mut table = table();
        let instance = table.instances.get_mut(&PmId(0)).unwrap();
        instance.facts = Some(RunFacts {
            start_time: Some(5),
            ..RunFacts::default()
        });
        let mut reload = Reload::of(instance);
        instance.machine.generation = Generation(instance.machine.generation.0 + (1 << 32));
        instance.machine.state = State::Spawning;
        instance.listens = true;
        reload.facts = instance.facts.take();
        instance.reload = Some(Box::new(reload));
        // What the successor is started with is something else.
        let mut map = instance.conf.to_map();
        map.insert("env".to_owned(), json!({"A": "2"}));
        let conf = table.share(&map);
        table.instances.get_mut(&PmId(0)).unwrap().conf = conf;
        table.assess(PmId(0), 0);
        let again = rewritten(&table);
        table.next_generation = again.next_generation;
        assert_same(&again, &table);
        let other = again.instances[&PmId(0)].reload.as_ref().unwrap();
        assert_eq!(other.other.run().map(|run| run.pid), Some(4711));
        assert_eq!(other.facts.as_ref().unwrap().start_time, Some(5));
        assert_eq!(again.next_generation, 2, "the successor's range counts");
    }

    #[test]
    fn no_id_and_no_generation_is_given_out_twice() {
        let state = |change: fn(&mut TableState)| {
            let mut state = TableState::from_text(FIXTURE_1.as_bytes()).unwrap();
            change(&mut state);
            Table::restore(state, Defaults::default(), 0)
        };
        let mut behind = state(|state| (state.next_id, state.next_generation) = (0, 0)).unwrap();
        let generation = behind.instances[&PmId(0)].machine.generation;
        assert_eq!(behind.take_id(), PmId(1));
        assert!(behind.take_generations() > generation);
        let beyond: [fn(&mut TableState); 4] = [
            |state| state.next_id = u32::MAX,
            |state| state.next_generation = u64::MAX,
            |state| state.instances[0].id = PmId(u32::MAX),
            |state| state.instances[0].machine.generation = Generation(u64::MAX),
        ];
        for change in beyond {
            assert!(matches!(state(change), Err(StateError::Counters)));
        }
    }

    #[test]
    fn a_newer_table_is_refused_and_rubbish_too() {
        let newer = format!(r#"{{"schema": {}, "strange": true}}"#, SCHEMA + 1);
        let error = TableState::from_text(newer.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("use the newer one"));
        assert!(TableState::from_text(b"{").is_err());
        let newer = format!(r#"{{"head": {{"schema": {}}}}}"#, SCHEMA + 1);
        let error = TableState::from_entries([newer.as_bytes()]).unwrap_err();
        assert!(error.to_string().contains("use the newer one"));
        assert!(TableState::from_entries([b"{".as_slice()]).is_err());
        let head = |schema| {
            let head = table().head(0, "d", 1);
            let text = String::from_utf8(head.to_bytes()).unwrap();
            text.replace(&format!(":{SCHEMA},"), &format!(":{schema},"))
        };
        let (good, later) = (head(SCHEMA), head(SCHEMA + 1));
        let error = TableState::from_entries([good.as_bytes(), later.as_bytes()]).unwrap_err();
        assert!(matches!(error, StateError::TooNew { .. }));
        assert!(matches!(
            TableState::from_entries([]),
            Err(StateError::Empty)
        ));
    }
}
