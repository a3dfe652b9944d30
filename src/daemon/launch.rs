//! From an instance to the plan of its next run.

use super::table::Instance;
use crate::adapters::logs::{LogConfig, LogFormat};
use crate::adapters::plan::RunPlan;
use crate::adapters::probes::ProbePlan;
use crate::core::ids::Generation;
use crate::core::spec::app::{AppSpec, LogSettings};
use crate::core::spec::fornax::LogRotation;
use crate::sys::spawn::UserIds;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why an instance's configuration can't be turned into a run.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// `uid` or `gid` names nobody.
    #[error("{kind} `{name}` cannot be found")]
    NoSuchIdentity {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
}

/// The environment of a run: the configuration's scalars, the app's own variables, and how the run stands (spec 1.4).
///
/// `at_ms`: when it begins, in milliseconds since the Unix epoch.
pub fn environment(instance: &Instance, at_ms: u64) -> BTreeMap<String, String> {
    let mut env = instance.conf.environment();
    let memory = &instance.machine.memory;
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("pm_id", instance.id.to_string());
    set("status", "launching".to_owned());
    set("pm_uptime", at_ms.to_string());
    set("restart_time", memory.restarts.to_string());
    set("unstable_restarts", memory.unstable.to_string());
    set("unique_id", instance.unique_id.to_string());
    if let Some(created) = instance.created_at_ms {
        set("created_at", created.to_string());
    }
    if let Some(code) = instance.exit_code {
        set("exit_code", code.to_string());
    }
    // Not for what PM2 takes for Python alone: an environment manager, a launcher, a shell or a Node app may start one, and its
    // lines would come late, or never. Whoever sets it, to nothing if need be, is left alone.
    env.entry("PYTHONUNBUFFERED".to_owned())
        .or_insert_with(|| "1".to_owned());
    env.insert("PWD".to_owned(), instance.spec.cwd.clone());
    env
}

/// The run to spawn, which begins at this time.
pub fn plan(instance: &Instance, rotation: LogRotation, at_ms: u64) -> Result<RunPlan, PlanError> {
    let spec = &instance.spec;
    let (program, args) = command(spec);
    Ok(RunPlan {
        id: instance.id,
        generation: instance.machine.generation,
        name: Arc::clone(&spec.name),
        namespace: Arc::clone(&spec.namespace),
        program,
        args,
        script: spec.exec_path.clone(),
        source_maps: spec.source_maps,
        env: environment(instance, at_ms),
        cwd: spec.cwd.clone(),
        user: user(spec)?,
        pid_path: spec.pid_path.clone(),
        logs: Arc::new(log_config(&spec.logs, spec.fornax.logs.unwrap_or(rotation))),
        processors: None,
        cluster: spec.workers,
        agent: spec.agent,
    })
}

/// `interpreter interpreter_args script args`, or `script args` without an interpreter (spec 4.3).
fn command(spec: &AppSpec) -> (String, Vec<String>) {
    match &spec.interpreter {
        None => (spec.exec_path.clone(), spec.args.clone()),
        Some(interpreter) => {
            let own = spec
                .interpreter_args
                .iter()
                .chain(std::iter::once(&spec.exec_path))
                .chain(&spec.args);
            (interpreter.clone(), own.cloned().collect())
        }
    }
}

/// How the log plane is to treat an app's output.
pub fn log_config(settings: &LogSettings, rotation: LogRotation) -> LogConfig {
    let format = match (settings.json, &settings.date_format) {
        (true, format) => LogFormat::Json(format.clone()),
        (false, Some(format)) => LogFormat::Stamped(format.clone()),
        (false, None) => LogFormat::Raw,
    };
    LogConfig {
        out_file: settings.out.clone(),
        err_file: settings.err.clone(),
        combined_file: settings.combined.clone(),
        format,
        disabled: settings.disabled,
        rotation,
    }
}

/// The probe of the instance's run, if it has one. What has a monitor is asked by that, and by nobody else.
pub fn probe_plan(instance: &Instance, generation: Generation) -> Option<ProbePlan> {
    let fornax = &instance.spec.fornax;
    if fornax.monitor.is_some() {
        return None;
    }
    Some(ProbePlan {
        id: instance.id,
        generation,
        probe: fornax.probe.clone()?,
        port: fornax.port,
        cwd: instance.spec.cwd.clone(),
        env: instance.conf.environment(),
        before: None,
    })
}

/// The ids to take on. Only root may; everybody else gets the kernel's refusal at spawn.
fn user(spec: &AppSpec) -> Result<Option<UserIds>, PlanError> {
    use nix::unistd::{Group, User};
    if spec.user.is_none() && spec.group.is_none() {
        return Ok(None);
    }
    let number = |text: &String| text.parse::<u32>().ok();
    let known = match &spec.user {
        None => None,
        Some(name) => match number(name) {
            Some(uid) => User::from_uid(uid.into()).ok().flatten(),
            None => User::from_name(name).ok().flatten(),
        },
    };
    let missing = |kind, name: &String| PlanError::NoSuchIdentity {
        kind,
        name: name.clone(),
    };
    let uid = match (&spec.user, &known) {
        (_, Some(user)) => user.uid.as_raw(),
        (Some(name), None) => number(name).ok_or_else(|| missing("user", name))?,
        (None, None) => nix::unistd::getuid().as_raw(),
    };
    let gid = match &spec.group {
        Some(name) => match number(name) {
            Some(gid) => gid,
            None => Group::from_name(name)
                .ok()
                .flatten()
                .ok_or_else(|| missing("group", name))?
                .gid
                .as_raw(),
        },
        None => known
            .as_ref()
            .map_or(nix::unistd::getgid().as_raw(), |user| user.gid.as_raw()),
    };
    let groups = known
        .and_then(|user| std::ffi::CString::new(user.name).ok())
        .and_then(|name| nix::unistd::getgrouplist(&name, gid.into()).ok())
        .map_or_else(
            || vec![gid],
            |groups| groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
        );
    Ok(Some(UserIds { uid, gid, groups }))
}
