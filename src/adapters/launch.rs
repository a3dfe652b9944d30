//! From a plan to a process: descriptors, cgroup, spawn, log plane. Blocking.

use super::channel::Channel;
use super::cluster;
use super::ending::Ending;
use super::kit::{Kit, NoKit};
use super::logs::RunLogs;
use super::plan::RunPlan;
use super::preload::{self, AGENT};
use super::runner::{CHANNEL_QUEUE, Launched, MARKER, RunHandle, Running};
use super::tree::Tree;
use crate::core::keeping::{Held, Key};
use crate::sys::memory_room::NoRoom;
use crate::sys::spawn::{SpawnError, SpawnPlan, Spawned};
use crate::sys::{affinity, limits, procfs, spawn};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Why a run could not be launched.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("`{program}` is not found in the app's PATH; install it or name its absolute path")]
    NotInPath { program: String },
    #[error(
        "cannot bind it to processors {processors:?}: {source}; `fornax.cpus` must name some that this machine lets us use"
    )]
    Processors {
        processors: Vec<usize>,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Memory(#[from] NoRoom),
    #[error("cannot make a {what}: {source}; the limit of open files may be reached (ulimit -n)")]
    Descriptor {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl From<NoKit> for LaunchError {
    fn from(NoKit { what, source }: NoKit) -> Self {
        Self::Descriptor { what, source }
    }
}

impl LaunchError {
    /// It can succeed later, without anybody's doing: something is used up.
    pub(super) fn is_starvation(&self) -> bool {
        let source = match self {
            LaunchError::Descriptor { source, .. } => source,
            LaunchError::Spawn(error) => match error {
                SpawnError::Clone { source }
                | SpawnError::Setup { source }
                | SpawnError::Exec { source, .. } => source,
                SpawnError::Nul { .. } | SpawnError::Chdir { .. } | SpawnError::User { .. } => {
                    return false;
                }
            },
            LaunchError::NotInPath { .. } | LaunchError::Processors { .. } => return false,
            LaunchError::Memory(_) => return true,
        };
        limits::is_starvation(source)
    }
}

/// The blocking part: descriptors, cgroup, spawn, log plane.
pub(super) fn launch(mut plan: RunPlan, ctx: &Running) -> Result<Launched, LaunchError> {
    if let Some(no_room) = ctx.memory.refusal() {
        return Err(no_room.into());
    }
    let Kit {
        input: (stdin_read, stdin_write),
        output: (out_read, out_write),
        errors: (err_read, err_write),
        channel: (ours, theirs),
    } = ctx.kits.take()?;
    let marker = ctx.marker(plan.id, plan.generation);
    let own = plan.user.as_ref().is_none_or(preload::is_own);
    let folder = match own {
        true => Some(ctx.cluster.folder().to_owned()),
        false => preload::folder_for_others(),
    };
    if plan.cluster.is_some() {
        cluster::as_worker(&mut plan, ctx.cluster.unique_id(), folder.as_deref());
    }
    if let Some(folder) = folder.filter(|_| plan.agent && own) {
        AGENT.require(&folder, &mut plan.args);
    }
    if plan.source_maps {
        // Before the agent, which takes both out of what the app sees.
        plan.args.insert(0, "--enable-source-maps".to_owned());
    }
    let bound = plan.processors.as_deref().map(affinity::bind).transpose();
    let bound = bound.map_err(|source| LaunchError::Processors {
        processors: plan.processors.clone().unwrap_or_default(),
        source,
    })?;
    let program = spawn::c_path("the program's path", &find_program(&plan)?)?;
    let args = c_args(&plan)?;
    let env = c_env(std::mem::take(&mut plan.env), &marker)?;
    let cwd = spawn::c_string("the working directory", plan.cwd.as_str())?;
    // Taken last: what fails above leaves none behind.
    let cgroup = ctx.cgroups.as_ref().and_then(|root| root.take().ok());
    let spawn_plan = SpawnPlan {
        program,
        args,
        env,
        cwd,
        stdio: [stdin_read, out_write, err_write],
        channel: Some(theirs),
        user: plan.user.clone(),
        cgroup: cgroup.as_ref().and_then(|cgroup| cgroup.open().ok()),
        sibling: ctx.keeper.pid().is_some(),
    };
    let key = |held| Key::run(held, plan.id, plan.generation);
    // Before the child is: whatever it writes from its first moment on is kept.
    let held = ctx.keeper.hold(&[
        (key(Held::Output), out_read.as_fd()),
        (key(Held::Errors), err_read.as_fd()),
        (key(Held::Input), stdin_write.as_fd()),
        (key(Held::Channel), ours.as_fd()),
    ]);
    if let Err(error) = held {
        tracing::error!(app = &*plan.name, %error, "the keeper does not hold a run's output; it would not outlive this daemon");
    }
    ctx.roots.spawning();
    let spawned = spawn::spawn(spawn_plan);
    drop(bound);
    ctx.roots
        .registered(spawned.as_ref().ok().map(|spawned| spawned.pid));
    let Spawned {
        pid,
        pidfd,
        in_cgroup,
    } = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            if let Some(cgroup) = &cgroup {
                cgroup.remove();
            }
            ctx.keeper.release_run(plan.id, plan.generation);
            return Err(error.into());
        }
    };
    // It runs: from here on nothing keeps it waiting.
    let oom_kills = procfs::oom_kills();
    if let Some(path) = &plan.pid_path {
        write_pid_file(path, pid);
    }
    let logs = RunLogs {
        instance: plan.id,
        generation: plan.generation,
        name: plan.name.to_string(),
        namespace: plan.namespace.to_string(),
        out: out_read,
        err: err_read,
        config: plan.logs,
    };
    if let Err(error) = ctx.plane.attach(logs) {
        tracing::error!(pid, %error, "an app's output is lost");
    }
    let tree = Tree::new(
        pid,
        marker,
        cgroup.filter(|_| in_cgroup),
        Arc::clone(&ctx.roots),
    );
    let (outbox, inbox) = mpsc::channel(CHANNEL_QUEUE);
    let handle = RunHandle::new(pid, tree, Some(stdin_write), outbox, oom_kills);
    let channel = Channel::new(ours);
    if let Err(error) = &channel {
        tracing::error!(app = &*plan.name, pid, %error, "an app's channel cannot be read; what it says there is not heard");
    }
    Ok(Launched {
        handle: Arc::new(handle),
        ending: Ending::of(pid, Ok(pidfd), ctx.keeper.clone()),
        channel: channel.ok(),
        outbox: inbox,
    })
}

/// Finds the program as execvp would in the app's own PATH, so that a PATH in its `env` counts (pm2 7.0.4, spec 4.3).
fn find_program(plan: &RunPlan) -> Result<PathBuf, LaunchError> {
    if plan.program.contains('/') {
        return Ok(PathBuf::from(&plan.program));
    }
    let path = plan
        .env
        .get("PATH")
        .map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    let candidates = path
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| Path::new(folder).join(&plan.program));
    candidates
        .into_iter()
        .find(|candidate| {
            nix::unistd::access(candidate, nix::unistd::AccessFlags::X_OK).is_ok()
                && candidate.is_file()
        })
        .ok_or_else(|| LaunchError::NotInPath {
            program: plan.program.clone(),
        })
}

fn c_args(plan: &RunPlan) -> Result<Vec<std::ffi::CString>, SpawnError> {
    let all = std::iter::once(&plan.program).chain(&plan.args);
    all.map(|arg| spawn::c_string("an argument", arg.as_str()))
        .collect()
}

fn c_env(
    env: std::collections::BTreeMap<String, String>,
    marker: &str,
) -> Result<Vec<std::ffi::CString>, SpawnError> {
    let channel = [
        "NODE_CHANNEL_FD=3",
        "NODE_CHANNEL_SERIALIZATION_MODE=json",
        marker,
    ];
    let what = "an environment variable";
    let mut entries = Vec::with_capacity(env.len() + channel.len());
    for (name, value) in env {
        // A name with `=` in it would set another variable; the kernel has no way to write it.
        let writable = !name.is_empty() && !name.contains('=');
        let ours = matches!(
            name.as_str(),
            "NODE_CHANNEL_FD" | "NODE_CHANNEL_SERIALIZATION_MODE" | MARKER
        );
        if writable && !ours {
            // With room for the NUL too, so that nothing is moved.
            let mut entry = Vec::with_capacity(name.len() + value.len() + 2);
            entry.extend_from_slice(name.as_bytes());
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            entries.push(spawn::c_string(what, entry)?);
        }
    }
    for entry in channel {
        entries.push(spawn::c_string(what, entry)?);
    }
    Ok(entries)
}

fn write_pid_file(path: &Path, pid: u32) {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = folder.and_then(|()| std::fs::write(path, pid.to_string())) {
        tracing::warn!(path = %path.display(), %error, "cannot write the pid file");
    }
}
