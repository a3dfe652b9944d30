//! What a command begins: registering, starting, stopping and reconfiguring instances.

use super::{Daemon, Until, Waiter};
use crate::core::ids::PmId;
use crate::core::instance::{Event, State};
use crate::core::probe::Verdict;
use crate::core::spec::app::AppSpec;
use crate::core::spec::instances::{self, Numbering};
use crate::daemon::command::{Answer, Command, CommandError};
use crate::daemon::table::Instance;
use crate::daemon::world::World;
use serde_json::{Map, Value};
use std::sync::Arc;
use tokio::sync::oneshot;

impl<W: World> Daemon<W> {
    pub(super) fn command(&mut self, command: Command, reply: oneshot::Sender<Answer>) {
        match self.begin(command) {
            Ok((ids, until)) => self.waiters.push(Waiter::new(ids, until, reply)),
            // Whoever asked may have gone.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Starts what was asked; which instances must come to what before it is answered.
    pub(super) fn begin(
        &mut self,
        command: Command,
    ) -> Result<(Vec<PmId>, Option<Until>), CommandError> {
        let one = |id, until| Ok((vec![id], until));
        match command {
            Command::Prepare { conf, version } => {
                Ok((self.prepare(conf, &version)?, Some(Until::Up)))
            }
            Command::Start(id) => {
                let deps_met = self.dependencies_met(id)?;
                match &self.startable(id)?.machine.state {
                    State::Online(_) => return Err(CommandError::AlreadyOnline(id)),
                    State::Starting(_) | State::Spawning => {
                        return Err(CommandError::AlreadyStarted(id));
                    }
                    State::Idle(_)
                    | State::Waiting
                    | State::Stopping(_)
                    | State::Backoff { .. }
                    | State::Failed(_) => {}
                }
                self.step(id, Event::Start { deps_met });
                one(id, Some(Until::Up))
            }
            Command::Stop(id) => {
                let instance = self.known(id)?;
                instance.start_untold = false;
                let name = Arc::clone(&instance.spec.name);
                tracing::info!(target: "pm2", "Stopping app:{name} id:{id}");
                self.step(id, Event::Stop);
                self.end_other(id, Event::Stop);
                one(id, Some(Until::Down))
            }
            Command::Restart { id, env } => {
                if self.ending {
                    return Err(CommandError::Ending);
                }
                self.startable(id)?;
                self.reconfigure(id, env)?;
                let deps_met = self.dependencies_met(id)?;
                self.forgive(id);
                self.end_other(id, Event::Stop);
                self.step(id, Event::Restart { deps_met });
                one(id, Some(Until::Up))
            }
            Command::Reload {
                id,
                env,
                by_message,
            } => self.reload(id, env, by_message),
            Command::Delete(id) => {
                self.known(id)?.deleting = true;
                self.leave(id);
                self.end_other(id, Event::Stop);
                one(id, Some(Until::Deleted))
            }
            Command::Duplicate(id) => {
                let copy = self.duplicate(id)?;
                one(copy, Some(Until::Up))
            }
            Command::Reset(id) => {
                let now = self.now();
                let instance = self.known(id)?;
                instance.machine.memory.forgive(now.mono);
                instance.machine.memory.restarts = 0;
                instance.created_at_ms = Some(now.wall_ms);
                self.dirty.insert(id);
                one(id, None)
            }
            Command::Signal(id, signal) => {
                let instance = self.known(id)?;
                let (run, generation) = (instance.machine.run(), instance.machine.generation);
                run.ok_or(CommandError::Offline(id))?;
                self.world.signal_root(id, generation, signal);
                one(id, None)
            }
            Command::StopRestarting => {
                self.ending = true;
                Ok((Vec::new(), None))
            }
            Command::SetFlag { id, key, value } => {
                let instance = self.known(id)?;
                let mut map = instance.conf.to_map();
                map.insert(key.to_owned(), value);
                self.configure(id, &map)?;
                one(id, None)
            }
            Command::Watch { id, on } => {
                self.switch_watch(id, on)?;
                one(id, None)
            }
            Command::Changed { id, path, at } => {
                self.changed(id, path, at);
                one(id, None)
            }
            Command::OverMemory {
                id,
                generation,
                used,
            } => {
                self.over_memory(id, generation, used);
                one(id, None)
            }
            Command::Version { id, version } => {
                self.known(id)?.version = version.into();
                self.dirty.insert(id);
                one(id, None)
            }
            Command::NodeVersion { id, version } => {
                self.known(id)?.node_version = Some(version.into());
                self.dirty.insert(id);
                one(id, None)
            }
            Command::Verdict {
                id,
                generation,
                verdict,
                why,
            } => {
                let instance = self.known(id)?;
                let runs = instance.machine.run().is_some();
                if instance.machine.generation == generation && runs {
                    self.probe_said(id, verdict, why.clone(), why);
                } else {
                    self.stale_events += 1;
                }
                one(id, None)
            }
            Command::Installed { id, missing } => {
                self.known(id)?.missing = missing;
                self.dirty.insert(id);
                one(id, None)
            }
        }
    }

    /// What asks the latest run says; `why` is told of the restart, if there is one.
    pub(super) fn probe_said(&mut self, id: PmId, verdict: Verdict, detail: String, why: String) {
        let Some(instance) = self.table.instances.get_mut(&id) else {
            return;
        };
        self.dirty.insert(id);
        instance.probe = Some((verdict, detail));
        if verdict == Verdict::Dead {
            let app = &*instance.spec.name;
            tracing::error!(app, instance = id.0, why, "restarting");
            instance.upkeep.why = Some(why);
            self.step(id, Event::Restart { deps_met: true });
        }
    }

    pub(super) fn known(&mut self, id: PmId) -> Result<&mut Instance, CommandError> {
        self.table
            .instances
            .get_mut(&id)
            .ok_or(CommandError::UnknownId(id))
    }

    /// One that is being deleted is not started again: nobody would know it.
    pub(super) fn startable(&mut self, id: PmId) -> Result<&mut Instance, CommandError> {
        self.known(id).and_then(|instance| {
            if instance.deleting {
                Err(CommandError::UnknownId(id))
            } else {
                Ok(instance)
            }
        })
    }

    pub(super) fn dependencies_met(&self, id: PmId) -> Result<bool, CommandError> {
        let instance = self
            .table
            .instances
            .get(&id)
            .ok_or(CommandError::UnknownId(id))?;
        Ok(self.table.dependencies_met(&instance.spec))
    }

    /// A person acted: PM2 counts from now.
    pub(super) fn forgive(&mut self, id: PmId) {
        let wall_ms = self.now().wall_ms;
        if let Some(instance) = self.table.instances.get_mut(&id) {
            instance.created_at_ms = Some(wall_ms);
        }
    }

    fn prepare(
        &mut self,
        mut conf: Map<String, Value>,
        version: &str,
    ) -> Result<Vec<PmId>, CommandError> {
        if self.ending {
            return Err(CommandError::Ending);
        }
        // What a takeover brings along.
        let restarts = conf
            .remove("fornax_restart_time")
            .and_then(|count| count.as_u64());
        // A key that PM2's daemon adds; its look at version control is never under way here.
        conf.entry("vizion_running").or_insert(Value::Bool(false));
        let defaults = self.settings.borrow().defaults;
        // Refused before anything of it exists.
        let spec = AppSpec::from_map(&conf, defaults)?;
        let (count, numbered) = instances::count(&conf, self.cpus);
        if count > instances::MOST {
            return Err(CommandError::TooMany { asked: count });
        }
        let mut numbering = self.numbering(&spec.name, &conf);
        let restored = !numbered && conf.get("status").and_then(Value::as_str) == Some("stopped");
        let unique: Arc<str> = uuid::Uuid::new_v4().to_string().into();
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let mut own = conf.clone();
            if numbered {
                own.insert("instances".to_owned(), Value::from(count));
                numbering.number(&mut own);
            }
            let id = self.insert(own, &unique, version)?;
            if let Some(restarts) = restarts
                && let Some(instance) = self.table.instances.get_mut(&id)
            {
                instance.machine.memory.restarts = u32::try_from(restarts).unwrap_or(u32::MAX);
            }
            if conf.get("created_at").is_some_and(Value::is_u64)
                && let Some(instance) = self.table.instances.get_mut(&id)
            {
                instance.created_at_ms = conf.get("created_at").and_then(Value::as_u64);
            }
            ids.push(id);
        }
        for id in &ids {
            if restored {
                continue;
            }
            if spec.autostart && spec.fornax.enabled {
                let deps_met = self.dependencies_met(*id)?;
                self.known(*id)?.start_untold = true;
                self.step(*id, Event::Start { deps_met });
            } else {
                self.publish(*id, "start", true);
            }
        }
        Ok(ids)
    }

    /// What numbers the next instances of an app.
    fn numbering(&self, name: &str, conf: &Map<String, Value>) -> Numbering {
        let existing = self
            .table
            .of_app(name)
            .map(|instance| instance.conf.to_map());
        Numbering::of(existing, conf)
    }

    fn insert(
        &mut self,
        mut conf: Map<String, Value>,
        unique: &Arc<str>,
        version: &str,
    ) -> Result<PmId, CommandError> {
        let now = self.now();
        let id = self.table.take_id();
        instances::set_paths(&mut conf, id);
        let spec = AppSpec::from_map(&conf, self.settings.borrow().defaults)?;
        let (text, generation) = (self.table.share(&conf), self.table.take_generations());
        let mut instance = Instance::new(id, Arc::new(spec), text, generation, now);
        instance.unique_id = Arc::clone(unique);
        instance.version = version.into();
        self.table.instances.insert(id, instance);
        self.dirty.insert(id);
        self.attend(id);
        Ok(id)
    }

    fn duplicate(&mut self, id: PmId) -> Result<PmId, CommandError> {
        let original = self.known(id)?;
        let (mut conf, version) = (original.conf.to_map(), Arc::clone(&original.version));
        let name = Arc::clone(&original.spec.name);
        self.numbering(&name, &conf).number(&mut conf);
        let unique = uuid::Uuid::new_v4().to_string().into();
        let copy = self.insert(conf, &unique, &version)?;
        let deps_met = self.dependencies_met(copy)?;
        self.known(copy)?.start_untold = true;
        self.step(copy, Event::Start { deps_met });
        Ok(copy)
    }

    /// Merges what a restart carries, as PM2 does (spec 3.3): variables, and `current_conf` for keys.
    pub(super) fn reconfigure(
        &mut self,
        id: PmId,
        mut env: Map<String, Value>,
    ) -> Result<(), CommandError> {
        let conf = env.remove("current_conf");
        if env.is_empty() && conf.is_none() {
            return Ok(());
        }
        let mut map = self.known(id)?.conf.to_map();
        instances::recount(&mut map, &env);
        if let Some(current) = map.get_mut("env").and_then(Value::as_object_mut) {
            current.extend(env);
        }
        if let Some(Value::Object(keys)) = conf {
            for (key, value) in keys {
                let empty = value.as_object().is_some_and(Map::is_empty);
                match (key.as_str(), value) {
                    ("env", _) if empty => {}
                    // What names an instance and its files stays (spec 5.7).
                    (
                        "pm_exec_path" | "pm_cwd" | "exec_mode" | "instances" | "pm_out_log_path"
                        | "pm_err_log_path" | "pm_log_path" | "pm_pid_path",
                        _,
                    ) => {}
                    (_, Value::String(text)) if text == "null" => {
                        map.remove(&key);
                    }
                    (_, value) => {
                        map.insert(key, value);
                    }
                }
            }
        }
        self.configure(id, &map)
    }

    pub(super) fn configure(
        &mut self,
        id: PmId,
        map: &Map<String, Value>,
    ) -> Result<(), CommandError> {
        let spec = Arc::new(AppSpec::from_map(map, self.settings.borrow().defaults)?);
        let conf = self.table.share(map);
        let instance = self.known(id)?;
        instance.spec = spec;
        instance.conf = conf;
        self.dirty.insert(id);
        self.attend(id);
        Ok(())
    }
}
