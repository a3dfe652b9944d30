//! The table of instances. Owner: the daemon loop.

use super::health;
use super::reload::Reload;
use super::snapshot::{Axm, InstanceView};
use super::upkeep::Upkeep;
use crate::adapters::facts::RunFacts;
use crate::core::exit::{ExitCause, LastExit};
use crate::core::ids::{Generation, PmId};
use crate::core::instance::{IdleReason, Machine, State};
use crate::core::probe::Verdict;
use crate::core::service::{Dependency, ServiceState, ServiceStatus};
use crate::core::spec::app::AppSpec;
use crate::core::spec::conf::Conf;
use crate::core::units::Millis;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Now, on both clocks: the monotonic one decides, the other is for people to read.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the daemon's start.
    pub mono: Millis,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// One slot of an app.
#[derive(Debug)]
pub struct Instance {
    /// Its id.
    pub id: PmId,
    /// What it should be.
    pub spec: Arc<AppSpec>,
    /// The same as it came over the wire.
    pub conf: Conf,
    /// Its lifecycle.
    pub machine: Machine,
    /// PM2's `unique_id`, which all instances of one `prepare` share.
    pub unique_id: Arc<str>,
    /// See [`InstanceView::version`].
    pub version: Arc<str>,
    /// See [`InstanceView::node_version`].
    pub node_version: Option<Arc<str>>,
    /// See [`InstanceView::created_at_ms`].
    pub created_at_ms: Option<u64>,
    /// When the latest run began.
    pub started_at_ms: u64,
    /// The same, on the monotonic clock.
    pub started: Millis,
    /// The code that PM2 shows of the last run.
    pub exit_code: Option<i32>,
    /// How the last run ended.
    pub last_exit: Option<Arc<LastExit>>,
    /// What the latest run's probe says, and why.
    pub probe: Option<(Verdict, String)>,
    /// What makes the latest run known to another daemon.
    pub facts: Option<RunFacts>,
    /// What it lacks to be installed.
    pub missing: Option<String>,
    /// What the app has told.
    pub axm: Arc<Axm>,
    /// What port 9090 tells; kept for `since`.
    pub service: ServiceState,
    /// Whoever asked for it has not been told yet that it started: the bus hears so after it has heard that it is online.
    pub start_untold: bool,
    /// It is to be forgotten once it is down.
    pub deleting: bool,
    /// Its latest run is a cluster worker that listens.
    pub listens: bool,
    /// It is to leave once another worker of its app listens, or after a while.
    pub leaves_later: bool,
    /// Its watch and its cron pattern at work.
    pub upkeep: Upkeep,
    /// Its worker is being replaced, and there is a second run.
    pub reload: Option<Box<Reload>>,
    /// Why the last reload kept the old worker, until whoever asked has been told.
    pub reload_failed: Option<String>,
}

impl Instance {
    /// A new one, not started.
    pub fn new(id: PmId, spec: Arc<AppSpec>, conf: Conf, generation: Generation, now: Now) -> Self {
        let reason = if spec.fornax.enabled {
            IdleReason::NotStarted
        } else {
            IdleReason::Disabled
        };
        Self {
            id,
            conf,
            machine: Machine::new(reason, generation, now.mono),
            unique_id: "".into(),
            version: "N/A".into(),
            node_version: None,
            created_at_ms: Some(now.wall_ms),
            started_at_ms: now.wall_ms,
            started: now.mono,
            exit_code: None,
            last_exit: None,
            probe: None,
            facts: None,
            missing: None,
            axm: Arc::default(),
            service: ServiceState {
                status: ServiceStatus::Stopped,
                message: String::new(),
                since_ms: now.wall_ms,
                completed: false,
            },
            start_untold: false,
            deleting: false,
            listens: false,
            leaves_later: false,
            upkeep: Upkeep::default(),
            reload: None,
            reload_failed: None,
            spec,
        }
    }

    /// Notes why there is no process, and tells it.
    pub fn could_not_start(&mut self, reason: &str, now: Now) {
        self.last_exit = Some(Arc::new(LastExit {
            cause: ExitCause::CouldNotStart {
                reason: reason.to_owned(),
            },
            at_ms: now.wall_ms,
            uptime_ms: 0,
            stderr_tail: Vec::new(),
            why: None,
        }));
        tracing::error!(
            app = &*self.spec.name,
            instance = self.id.0,
            reason,
            "could not start"
        );
    }
}

/// All instances.
#[derive(Debug, Default)]
pub struct Table {
    /// By id.
    pub instances: BTreeMap<PmId, Instance>,
    /// The next id; it begins again at 0 when the table has become empty (pm2 7.0.4, spec 4.1).
    pub next_id: u32,
    /// Generations go on even over deleted instances, so that a late event of one never meets another.
    pub next_generation: u64,
    texts: HashSet<Arc<str>>,
}

impl Table {
    /// An id that no instance has.
    pub fn take_id(&mut self) -> PmId {
        if self.instances.is_empty() {
            self.next_id = 0;
        }
        let id = PmId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Where a new instance's generations begin. Each gets a range of its own, wide enough for any life.
    pub fn take_generations(&mut self) -> Generation {
        self.next_generation += 1;
        Generation(self.next_generation << 32)
    }

    /// A configuration whose texts are shared with equal ones: a hundred apps of one shell keep one environment.
    pub fn share(&mut self, map: &Map<String, Value>) -> Conf {
        let conf = Conf::new(map);
        Conf {
            head: conf.head,
            listed: self.shared(conf.listed),
            own: conf.own,
            env: self.shared(conf.env),
            flat: self.shared(conf.flat),
        }
    }

    fn shared(&mut self, text: Arc<str>) -> Arc<str> {
        if let Some(known) = self.texts.get(&text) {
            return Arc::clone(known);
        }
        // Texts that only this set holds belong to apps that are gone.
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// The instances of an app.
    pub fn of_app<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances
            .values()
            .filter(move |instance| &*instance.spec.name == name)
    }

    /// Whether everything that this app depends on is there.
    pub fn dependencies_met(&self, spec: &AppSpec) -> bool {
        self.dependencies(spec)
            .iter()
            .all(|dependency| dependency.met)
    }

    /// What this app depends on, and how that stands.
    pub fn dependencies(&self, spec: &AppSpec) -> Vec<Dependency> {
        let stand = |name: &str, condition| {
            let states: Vec<&Instance> = self.of_app(name).collect();
            let met = !states.is_empty()
                && states
                    .iter()
                    .all(|instance| health::meets(instance, condition));
            let worst = states
                .iter()
                .map(|instance| instance.service.status)
                .min_by_key(|status| health::rank(*status));
            Dependency {
                name: name.to_owned(),
                condition,
                status: worst,
                met,
            }
        };
        spec.fornax
            .depends_on
            .iter()
            .map(|(name, condition)| stand(name, *condition))
            .collect()
    }

    /// Brings the service state of an instance up to date.
    pub fn assess(&mut self, id: PmId, wall_ms: u64) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let waiting_for = if instance.machine.state == State::Waiting {
            self.dependencies(&instance.spec)
        } else {
            Vec::new()
        };
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let (status, message, completed) = health::assess(instance, &waiting_for);
        let since_ms = if status == instance.service.status {
            instance.service.since_ms
        } else {
            wall_ms
        };
        instance.service = ServiceState {
            status,
            message,
            since_ms,
            completed,
        };
    }

    /// The instance as others see it.
    pub fn view(&self, id: PmId) -> Option<InstanceView> {
        let instance = self.instances.get(&id)?;
        let memory = &instance.machine.memory;
        Some(InstanceView {
            id,
            retiring: false,
            generation: instance.machine.generation,
            status: instance.machine.status(),
            pid: instance.machine.run().map(|run| run.pid),
            spec: Arc::clone(&instance.spec),
            conf: instance.conf.clone(),
            unique_id: Arc::clone(&instance.unique_id),
            version: Arc::clone(&instance.version),
            node_version: instance.node_version.clone(),
            restarts: memory.restarts,
            unstable_restarts: memory.unstable,
            last_backoff_ms: memory.last_backoff.0,
            created_at_ms: instance.created_at_ms,
            started_at_ms: instance.started_at_ms,
            exit_code: instance.exit_code,
            last_exit: instance.last_exit.clone(),
            service: instance.service.clone(),
            dependencies: self.dependencies(&instance.spec),
            axm: Arc::clone(&instance.axm),
        })
    }

    /// The instance's other run, while it is reloaded.
    pub fn other_view(&self, id: PmId) -> Option<InstanceView> {
        let other = &self.instances.get(&id)?.reload.as_ref()?.other;
        Some(InstanceView {
            retiring: true,
            generation: other.generation,
            status: other.status(),
            pid: other.run().map(|run| run.pid),
            restarts: other.memory.restarts,
            ..self.view(id)?
        })
    }
}
