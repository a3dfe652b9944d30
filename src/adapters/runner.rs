//! One run, from spawn to the last of its descendants: a task that tells the loop what it sees and decides nothing.

use super::channel::{Channel, Incoming, Outgoing};
use super::cluster::{ClusterFact, Registry, WorkerSeat, watch_load};
use super::ending::Ending;
use super::event::{RunEvent, RunEventKind};
use super::keeper::Keeper;
use super::kit::Kits;
use super::launch::{LaunchError, launch};
use super::logs::LogPlane;
use super::plan::RunPlan;
use super::runs::Runs;
use super::tree::{Roots, Tree};
use crate::core::cluster::{Sched, WorkerId};
use crate::core::exit::ExitCause;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::Standing;
use crate::core::signal::Signal;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::memory_room::MemoryRoom;
use crate::sys::{pidfd, procfs};
use serde_json::Value;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Messages waiting for an app that does not read its channel; a full queue refuses further ones.
pub(super) const CHANNEL_QUEUE: usize = 64;
/// How long the loop may take to start the next run, before anything is done that nobody waits for.
const AFTER_SUCCESSOR: Duration = Duration::from_millis(1);
/// How long after a run's end what it has left on disk is tidied up.
const TIDY_AFTER: Duration = Duration::from_millis(20);
/// The variable that marks the processes of a run.
pub const MARKER: &str = "FORNAX_INSTANCE";
/// How often a tree that outlives its root is looked at.
const LEFTOVER_PERIOD: Duration = Duration::from_millis(20);

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
    /// What the next run is born with.
    pub kits: Arc<Kits>,
    /// Whether there is memory for one more run.
    pub memory: Arc<MemoryRoom>,
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
    pub(super) outbox: mpsc::Sender<Outgoing>,
    killed: AtomicBool,
    oom_kills: Option<u64>,
}

impl RunHandle {
    /// Of a run that lives.
    pub(super) fn new(
        pid: u32,
        tree: Tree,
        stdin: Option<OwnedFd>,
        outbox: mpsc::Sender<Outgoing>,
        oom_kills: Option<u64>,
    ) -> Self {
        Self {
            pid,
            tree,
            stdin: Mutex::new(stdin.map(File::from)),
            outbox,
            killed: AtomicBool::new(false),
            oom_kills,
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

/// Runs the plan to its end. It is launched by the call; what is returned follows it. Within a runtime.
pub fn run(plan: RunPlan, ctx: Running) -> impl Future<Output = ()> + Send {
    let followed = Followed {
        run: (plan.id, plan.generation),
        pid_path: plan.pid_path.clone(),
        seat: plan.cluster.map(|sched| (Arc::clone(&plan.name), sched)),
    };
    let launch = {
        let ctx = ctx.clone();
        tokio::task::spawn_blocking(move || launch(plan, &ctx))
    };
    follow_launch(followed, launch, ctx)
}

/// What is kept of a plan while it is launched.
struct Followed {
    run: (PmId, Generation),
    pid_path: Option<PathBuf>,
    /// Its app, and how it is served as a worker of Node's cluster, if it is one.
    seat: Option<(Arc<str>, Sched)>,
}

async fn follow_launch(
    followed: Followed,
    launch: JoinHandle<Result<Launched, LaunchError>>,
    ctx: Running,
) {
    let Followed {
        run: (id, generation),
        pid_path,
        seat,
    } = followed;
    let tell = |kind| {
        ctx.events.send(RunEvent {
            id,
            generation,
            kind,
        })
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
    serve(
        (id, generation),
        launched,
        Told::Nothing,
        pid_path,
        clustered,
        ctx,
    )
    .await;
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
        ending,
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
        let (cgroups, kits) = (ctx.cgroups.clone(), Arc::clone(&ctx.kits));
        tokio::task::spawn_blocking(move || {
            kits.restock();
            if let Some(cgroups) = cgroups {
                cgroups.restock();
            }
        });
    }
    let leftovers = if told == Told::Ended {
        true
    } else {
        let load = async {
            match worker {
                Some(_) => watch_load(handle.pid).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = follow(&ctx, (id, generation), worker, &ending, channel, outbox) => {}
            never = load => match never {},
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
        let mut cause = match standing.await {
            Standing::Ended(cause) => cause,
            Standing::Unknown | Standing::Alive => ending.of_stranger().await,
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

/// Waits for the end while the channel is served.
async fn follow(
    ctx: &Running,
    (id, generation): (PmId, Generation),
    worker: Option<WorkerId>,
    ending: &Ending,
    channel: Option<Channel>,
    mut outbox: mpsc::Receiver<Outgoing>,
) {
    let mut channel = channel;
    let ended = ending.come();
    tokio::pin!(ended);
    let tell = |kind| {
        ctx.events.send(RunEvent {
            id,
            generation,
            kind,
        })
    };
    loop {
        tokio::select! {
            () = &mut ended => return,
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

/// A run with all that serves it.
pub(super) struct Launched {
    pub handle: Arc<RunHandle>,
    pub ending: Ending,
    pub channel: Option<Channel>,
    pub outbox: mpsc::Receiver<Outgoing>,
}

/// Only our own: a successor may have written its pid by now.
fn remove_pid_file(path: &Path, pid: u32) {
    if std::fs::read_to_string(path).is_ok_and(|text| text == pid.to_string()) {
        // Gone is what is wanted.
        let _ = std::fs::remove_file(path);
    }
}
