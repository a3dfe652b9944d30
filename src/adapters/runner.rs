//! One run, from spawn to the last of its descendants: a task that tells the loop what it sees and decides nothing.

use super::channel::{Channel, Incoming, Outgoing};
use super::cluster::{self, ClusterFact, Registry, WorkerSeat};
use super::event::{RunEvent, RunEventKind};
use super::keeper::Keeper;
use super::logs::{LogConfig, LogPlane, RunLogs};
use super::tree::{Roots, RunFacts, Tree};
use crate::core::cluster::{Sched, WorkerId};
use crate::core::exit::ExitCause;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key, Standing};
use crate::core::signal::Signal;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::spawn::{SpawnError, SpawnPlan, Spawned, UserIds};
use crate::sys::{affinity, fds, limits, pidfd, procfs, spawn};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Messages waiting for an app that does not read its channel; a full queue refuses further ones.
pub(super) const CHANNEL_QUEUE: usize = 64;
/// So often a process is looked at that ended as the child of a stranger, every 5 ms.
const REAPED_WITHIN: u32 = 40;
/// How long the loop may take to start the next run, before anything is done that nobody waits for.
const AFTER_SUCCESSOR: Duration = Duration::from_millis(1);
/// How long after a run's end what it has left on disk is tidied up.
const TIDY_AFTER: Duration = Duration::from_millis(20);
/// The variable that marks the processes of a run.
pub const MARKER: &str = "FORNAX_INSTANCE";
/// How often a tree that outlives its root is looked at.
const LEFTOVER_PERIOD: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug)]
pub struct RunPlan {
    /// The instance.
    pub id: PmId,
    /// The run.
    pub generation: Generation,
    /// Its app's name.
    pub name: Arc<str>,
    /// Its app's namespace.
    pub namespace: Arc<str>,
    /// The program or interpreter: an absolute path, or a name looked up in the `PATH` of `env`.
    pub program: String,
    /// Its arguments, without its own name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working directory.
    pub cwd: String,
    /// Whom it runs as.
    pub user: Option<UserIds>,
    /// The file its pid is written to.
    pub pid_path: Option<PathBuf>,
    /// Where its output goes.
    pub logs: Arc<LogConfig>,
    /// The processors it is bound to from birth.
    pub processors: Option<Vec<usize>>,
    /// It is a worker of Node's cluster, served in this way.
    pub cluster: Option<Sched>,
}

/// What every run needs of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Running {
    /// Where facts are told. Bounded: a runner waits, the loop never does.
    pub events: mpsc::Sender<RunEvent>,
    /// Who takes the output.
    pub plane: LogPlane,
    /// All root processes.
    pub roots: Arc<Roots>,
    /// Where cgroups are made, if they can be.
    pub cgroups: Option<Arc<CgroupRoot>>,
    /// All runs in progress.
    pub runs: Arc<Runs>,
    /// Tells our runs from another daemon's in the marker; a successor of ours keeps it.
    pub daemon: Arc<str>,
    /// Who holds what must outlive us.
    pub keeper: Keeper,
    /// Node's cluster primary.
    pub cluster: Registry,
}

impl Running {
    /// What stands in the environment of every process of a run, `NAME=value`.
    pub fn marker(&self, id: PmId, generation: Generation) -> String {
        format!("{MARKER}={}:{id}:{generation}", self.daemon)
    }
}

/// A run in progress, for whoever signals it or talks to it. Its descriptors live here and, for its output, in the log plane.
#[derive(Debug)]
pub struct RunHandle {
    /// Its root process.
    pub pid: u32,
    /// All its processes.
    pub tree: Tree,
    stdin: Mutex<Option<File>>,
    outbox: mpsc::Sender<Outgoing>,
    killed: AtomicBool,
    oom_kills: Option<u64>,
}

impl RunHandle {
    /// Of a run that lives already.
    pub(super) fn adopted(
        pid: u32,
        tree: Tree,
        stdin: Option<OwnedFd>,
        outbox: mpsc::Sender<Outgoing>,
        facts: &RunFacts,
    ) -> Self {
        Self {
            pid,
            tree,
            stdin: Mutex::new(stdin.map(File::from)),
            outbox,
            killed: AtomicBool::new(false),
            oom_kills: facts.oom_kills,
        }
    }

    /// Signals the whole tree, children first. Blocking for as long as /proc takes. The pids signalled.
    pub fn signal(&self, signal: Signal) -> Vec<u32> {
        if signal == Signal::KILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        self.tree.signal(signal)
    }

    /// Signals the root process only, as `pm2 sendSignal` does.
    pub fn signal_root(&self, signal: Signal) -> io::Result<bool> {
        if signal == Signal::KILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        let pidfd = pidfd::open(self.pid)?;
        pidfd::signal(pidfd.as_fd(), signal)
    }

    /// Puts a message on the app's channel. `false`: it does not read them, or has gone.
    pub fn send(&self, message: Value) -> bool {
        self.outbox.try_send(message.into()).is_ok()
    }

    /// Writes to the app's standard input. Never blocks: what it does not read is an error.
    pub fn write_stdin(&self, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;
        let guard = self
            .stdin
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*guard {
            Some(file) => (&mut &*file).write_all(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Runs the plan to its end.
pub async fn run(plan: RunPlan, ctx: Running) {
    let (id, generation) = (plan.id, plan.generation);
    let tell = |kind| {
        ctx.events.send(RunEvent {
            id,
            generation,
            kind,
        })
    };
    let (told, pid_path) = (Told::Nothing, plan.pid_path.clone());
    let seat = plan.cluster.map(|sched| (Arc::clone(&plan.name), sched));
    let launch = {
        let ctx = ctx.clone();
        tokio::task::spawn_blocking(move || launch(plan, &ctx))
    };
    let launched = match launch.await {
        Ok(Ok(launched)) => launched,
        Ok(Err(error)) if error.is_starvation() => {
            let reason = error.to_string();
            return drop(tell(RunEventKind::Starved { reason }).await);
        }
        Ok(Err(error)) => {
            return drop(
                tell(RunEventKind::SpawnFailed {
                    reason: error.to_string(),
                    not_installed: false,
                })
                .await,
            );
        }
        // The pool is shutting down, and the daemon with it.
        Err(_) => return,
    };
    let clustered = seat.is_some();
    if let Some((app, sched)) = seat {
        let outbox = launched.handle.outbox.clone();
        let seat = WorkerSeat { app, sched, outbox };
        ctx.cluster.enter((id, generation), seat);
    }
    serve((id, generation), launched, told, pid_path, clustered, ctx).await;
}

/// What the loop knows of a run already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// That it has begun.
    Begun,
    /// That its root process has ended.
    Ended,
}

/// A launched run, to the end of its last process. `clustered`: it has entered the cluster's registry, and leaves it here.
pub(super) async fn serve(
    (id, generation): (PmId, Generation),
    launched: Launched,
    told: Told,
    pid_path: Option<PathBuf>,
    clustered: bool,
    ctx: Running,
) {
    let tell = |kind| {
        ctx.events.send(RunEvent {
            id,
            generation,
            kind,
        })
    };
    let Launched {
        handle,
        pidfd,
        channel,
        outbox,
    } = launched;
    ctx.runs.insert(id, generation, Arc::clone(&handle));
    let worker = clustered.then_some((id, generation));
    if told == Told::Nothing {
        // An error means that the loop has gone: nobody is left to tell.
        let _ = tell(RunEventKind::Spawned {
            pid: handle.pid,
            facts: handle.tree.facts(handle.oom_kills),
        })
        .await;
        if let Some(cgroups) = ctx.cgroups.clone() {
            tokio::task::spawn_blocking(move || cgroups.restock());
        }
    }
    let leftovers = if told == Told::Ended {
        true
    } else {
        if let Some(pidfd) = &pidfd {
            let run = (id, generation);
            follow(&ctx, &handle, run, worker, pidfd, channel, outbox).await;
        }
        if let Some(worker) = worker {
            ctx.cluster.leave(worker);
        }
        // Asked first and awaited last: the log thread and the keeper work while we look at what it has left.
        let finished = ctx.plane.finish(id, generation);
        let standing = ctx.keeper.standing(handle.pid);
        let memory_ran_out =
            !handle.killed.load(Ordering::Relaxed) && procfs::oom_kills() > handle.oom_kills;
        let leftovers = handle.tree.has_leftovers();
        let mut cause = match (standing.await, &pidfd) {
            (Standing::Ended(cause), _) => cause,
            (Standing::Unknown | Standing::Alive, Some(pidfd)) => {
                exit_of_stranger(pidfd.get_ref()).await
            }
            (Standing::Unknown | Standing::Alive, None) => ExitCause::Unknown,
        };
        if cause == ExitCause::Signal(Signal::KILL) && memory_ran_out {
            cause = ExitCause::OomKilled;
        }
        // An error means that the plane is shutting down, and the daemon with it.
        let stderr_tail = finished.await.unwrap_or_default().stderr_tail;
        let _ = tell(RunEventKind::Exited {
            cause,
            leftovers,
            stderr_tail,
        })
        .await;
        if let Some(path) = pid_path {
            // A successor takes the thread that waits for work.
            tokio::time::sleep(AFTER_SUCCESSOR).await;
            let pid = handle.pid;
            tokio::task::spawn_blocking(move || remove_pid_file(&path, pid));
        }
        leftovers
    };
    if leftovers {
        loop {
            tokio::time::sleep(LEFTOVER_PERIOD).await;
            ctx.roots.reap_strays();
            if !handle.tree.has_leftovers() {
                break;
            }
        }
        // Whoever looks when it is told stopped sees no zombie either.
        ctx.roots.reap_strays();
        let _ = tell(RunEventKind::TreeEmpty).await;
    }
    // The successor first, if there is one: it is on its way, and nobody waits for these.
    tokio::time::sleep(TIDY_AFTER).await;
    handle.tree.remove_cgroup();
    ctx.runs.remove(id, generation);
    ctx.keeper.release_run(id, generation);
}

/// The runs in progress, by instance: the one place where a run's descriptors are found.
///
/// A lock, not a message: the loop, the sampler and the protocol's threads look a handle up and let go at once.
#[derive(Debug, Default)]
pub struct Runs {
    by_id: Mutex<HashMap<(PmId, Generation), Arc<RunHandle>>>,
}

impl Runs {
    fn insert(&self, id: PmId, generation: Generation, handle: Arc<RunHandle>) {
        self.lock().insert((id, generation), handle);
    }

    fn remove(&self, id: PmId, generation: Generation) {
        self.lock().remove(&(id, generation));
    }

    /// The run, if it has not ended. While a worker is reloaded its instance has two.
    pub fn get(&self, id: PmId, generation: Generation) -> Option<Arc<RunHandle>> {
        self.lock().get(&(id, generation)).map(Arc::clone)
    }

    /// All of them, an instance's latest last.
    pub fn all(&self) -> Vec<(PmId, Generation, Arc<RunHandle>)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .map(|((id, generation), handle)| (*id, *generation, Arc::clone(handle)))
            .collect();
        all.sort_unstable_by_key(|(_, generation, _)| *generation);
        all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PmId, Generation), Arc<RunHandle>>> {
        // A map of handles is whole after any panic.
        self.by_id
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Waits for the end while the channel is served.
async fn follow(
    ctx: &Running,
    handle: &RunHandle,
    (id, generation): (PmId, Generation),
    worker: Option<WorkerId>,
    pidfd: &AsyncFd<OwnedFd>,
    channel: Option<Channel>,
    mut outbox: mpsc::Receiver<Outgoing>,
) {
    let mut channel = channel;
    let tell = |kind| {
        ctx.events.send(RunEvent {
            id,
            generation,
            kind,
        })
    };
    loop {
        tokio::select! {
            ready = pidfd.readable() => {
                if let Err(error) = ready {
                    tracing::error!(pid = handle.pid, %error, "cannot wait for a child");
                }
                return;
            }
            messages = async { match &mut channel { Some(open) => open.next().await, None => std::future::pending().await } } => {
                let Some(messages) = messages else {
                    channel = None;
                    if let Some(worker) = worker {
                        ctx.cluster.leave(worker);
                        // An error means that the loop has gone.
                        let _ = tell(RunEventKind::Cluster(ClusterFact::Disconnected)).await;
                    }
                    continue;
                };
                for message in messages {
                    let kind = match message {
                        Incoming::App(message) => Some(RunEventKind::Message(message)),
                        Incoming::Cluster(message) => worker.and_then(|worker| ctx.cluster.take(worker, &message)).map(RunEventKind::Cluster),
                    };
                    if let Some(kind) = kind {
                        let _ = tell(kind).await;
                    }
                }
            }
            // An app that does not read keeps its messages here, and us from nothing.
            Some(message) = outbox.recv(), if channel.as_ref().is_none_or(Channel::has_room) => {
                if let Some(open) = &mut channel {
                    open.push(message);
                }
            }
        }
    }
}

/// How a process has ended whose parent is not our keeper but whoever has inherited it.
async fn exit_of_stranger(pidfd: &OwnedFd) -> ExitCause {
    for _ in 0..REAPED_WITHIN {
        if let Some(cause) = pidfd::exit_of_stranger(pidfd) {
            return cause;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ExitCause::Unknown
}

/// A run with all that serves it.
pub(super) struct Launched {
    pub handle: Arc<RunHandle>,
    /// `None`: its root process was gone before it could be watched.
    pub pidfd: Option<AsyncFd<OwnedFd>>,
    pub channel: Option<Channel>,
    pub outbox: mpsc::Receiver<Outgoing>,
}

/// Why a run could not be launched.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
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
    #[error("cannot make a {what}: {source}; the limit of open files may be reached (ulimit -n)")]
    Descriptor {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// It can succeed later, without anybody's doing: something is used up.
    fn is_starvation(&self) -> bool {
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
        };
        limits::is_starvation(source)
    }
}

/// The blocking part: descriptors, cgroup, spawn, log plane.
fn launch(mut plan: RunPlan, ctx: &Running) -> Result<Launched, LaunchError> {
    let descriptor = |what| move |source| LaunchError::Descriptor { what, source };
    let (stdin_read, stdin_write) = fds::input_pipe().map_err(descriptor("pipe"))?;
    let (out_read, out_write) = fds::output_pipe().map_err(descriptor("pipe"))?;
    let (err_read, err_write) = fds::output_pipe().map_err(descriptor("pipe"))?;
    let (ours, theirs) = fds::channel_pair().map_err(descriptor("socket pair"))?;
    let marker = ctx.marker(plan.id, plan.generation);
    if plan.cluster.is_some() {
        // Whoever is somebody else may be unable to read our home.
        let preload = plan.user.is_none().then(|| ctx.cluster.preload()).flatten();
        cluster::as_worker(&mut plan, ctx.cluster.unique_id(), preload);
    }
    let program = spawn::c_path("the program's path", &find_program(&plan)?)?;
    let (args, env) = (c_args(&plan)?, c_env(&plan, &marker)?);
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
    let bound = plan.processors.as_deref().map(affinity::bind).transpose();
    let bound = bound.map_err(|source| LaunchError::Processors {
        processors: plan.processors.clone().unwrap_or_default(),
        source,
    })?;
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
    let stdin = Mutex::new(Some(File::from(stdin_write)));
    let handle = RunHandle {
        pid,
        tree,
        stdin,
        outbox,
        killed: AtomicBool::new(false),
        oom_kills,
    };
    let pidfd = watched(pidfd).map_err(descriptor("poll registration"))?;
    Ok(Launched {
        handle: Arc::new(handle),
        pidfd: Some(pidfd),
        channel: Channel::new(ours).ok(),
        outbox: inbox,
    })
}

#[expect(
    deprecated,
    reason = "the safe constructor; an OwnedFd is never swapped under the poller here"
)]
pub(super) fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
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

fn c_env(plan: &RunPlan, marker: &str) -> Result<Vec<std::ffi::CString>, SpawnError> {
    let entry = |(name, value): (&String, &String)| {
        spawn::c_string("an environment variable", format!("{name}={value}"))
    };
    let channel = [
        "NODE_CHANNEL_FD=3",
        "NODE_CHANNEL_SERIALIZATION_MODE=json",
        marker,
    ];
    let ours = channel
        .into_iter()
        .map(|entry| spawn::c_string("an environment variable", entry));
    // A name with `=` in it would set another variable; the kernel has no way to write it.
    let theirs = plan
        .env
        .iter()
        .filter(|(name, _)| !name.is_empty() && !name.contains('='))
        .filter(|(name, _)| {
            !matches!(
                name.as_str(),
                "NODE_CHANNEL_FD" | "NODE_CHANNEL_SERIALIZATION_MODE" | MARKER
            )
        });
    theirs.map(entry).chain(ours).collect()
}

fn write_pid_file(path: &Path, pid: u32) {
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    if let Err(error) = folder.and_then(|()| std::fs::write(path, pid.to_string())) {
        tracing::warn!(path = %path.display(), %error, "cannot write the pid file");
    }
}

/// Only our own: a successor may have written its pid by now.
fn remove_pid_file(path: &Path, pid: u32) {
    if std::fs::read_to_string(path).is_ok_and(|text| text == pid.to_string()) {
        // Gone is what is wanted.
        let _ = std::fs::remove_file(path);
    }
}
