//! The daemon's birth: what another one has left, home, lock, sockets, threads. Its end is in `boot/end.rs`.

mod end;
mod legacy;
mod places;

pub use legacy::check;

use self::end::{End, Signals};
use super::bus::Bus;
use super::handle::{DaemonInfo, Handle, HttpRequest, HttpState};
use super::run::{Daemon, Inputs};
use super::settings::{self, Settings};
use super::snapshot::Snapshot;
use super::succession::Succession;
use super::world::RealWorld;
use super::{memory_limits, sampling, telemetry, warm};
use crate::adapters::cluster::Registry;
use crate::adapters::keeper::Keeper;
use crate::adapters::logs::{LogOptions, LogPlane};
use crate::adapters::runner::Running;
use crate::adapters::runs::Runs;
use crate::adapters::tree::Roots;
use crate::core::keeping::{self, Held, Key};
use crate::core::spec::home::Home;
use crate::sys::cgroup::CgroupRoot;
use crate::sys::files::{self, Readers};
use crate::sys::heap;
use crate::sys::limits;
use crate::sys::pidfd;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Commands waiting for the loop; whoever asks waits when it is full.
const COMMANDS: usize = 256;
/// Events waiting for the loop; the adapters wait when it is full.
const EVENTS: usize = 1024;

/// So long requests in flight are answered before a hand-over.
const LAST_ANSWERS: Duration = Duration::from_millis(50);

/// How the daemon is to run.
#[derive(Debug, Clone)]
pub struct BootOptions {
    /// PM2_HOME.
    pub home: Home,
    /// Where HTTP listens: an address, or `off`.
    pub http: String,
}

/// A server at work, until the daemon ends.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves `rpc.sock` and `pub.sock`.
pub type ServesSockets =
    Box<dyn FnOnce(UnixListener, UnixListener, Handle, TaskTracker) -> Serving + Send>;
/// Serves HTTP.
pub type ServesHttp = Box<
    dyn FnOnce(Handle, String, mpsc::Receiver<HttpRequest>, watch::Sender<HttpState>) -> Serving
        + Send,
>;
/// Does something else for as long as the daemon runs. It shares a thread with the servers, so it must not block or compute.
pub type ServesElse = Box<dyn FnOnce(Handle) -> Serving + Send>;

/// What serves HTTP and PM2's sockets, and what else runs beside the loop, given by `main` so that this layer need not know them.
pub struct Servers {
    /// PM2's sockets.
    pub sockets: ServesSockets,
    /// HTTP.
    pub http: ServesHttp,
    /// Everything else.
    pub others: Vec<ServesElse>,
}

/// Why the daemon did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Another one has this home.
    #[error("a daemon with the home {} runs already", home.display())]
    Running {
        /// Which home.
        home: PathBuf,
    },
    /// A file or socket in the home.
    #[error("cannot {what} {}: {source}", path.display())]
    Home {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A thread, a runtime or a signal handler.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Runs the daemon to its end. `ready` is called once both sockets listen and signals are handled.
pub fn run(options: BootOptions, servers: Servers, ready: impl FnOnce()) -> Result<(), BootError> {
    heap::keep_small();
    limits::raise_open_files();
    let setup = |what| move |source| BootError::Setup { what, source };
    let home = options.home.clone();
    let others_wrote = places::prepare_home(&home)?;
    let (keeper, mut inherited) = Keeper::connect().map_err(setup("the keeper"))?;
    let _lock = places::take_lock(&home, &keeper, inherited.remove(&Key::own(Held::HomeLock)))?;
    let bus = Bus::default();
    telemetry::install(bus.clone(), &home.log_file());
    if others_wrote {
        tracing::warn!(home = %home.root().display(), "other users could write to PM2_HOME until now; look at dump.pm2 before it is resurrected");
    }
    if keeper.pid().is_none() {
        pidfd::become_subreaper().map_err(setup("orphan adoption"))?;
    }
    let mut open = |held, path: PathBuf| {
        let inherited = inherited.remove(&Key::own(held));
        places::listen(&path, &keeper, held, inherited)
    };
    let (rpc, events) = (
        open(Held::Rpc, home.rpc_socket())?,
        open(Held::Pub, home.pub_socket())?,
    );
    let at = |what| {
        let path = home.pid_file();
        move |source| BootError::Home { what, path, source }
    };
    let pid = std::process::id().to_string();
    files::replace(&home.pid_file(), pid.as_bytes(), Readers::Anybody).map_err(at("write"))?;
    let (journal, numbered) = legacy::journal(&mut inherited, &keeper);
    let plane = LogPlane::start(LogOptions::default(), journal).map_err(setup("the log plane"))?;
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(8)
            // Longer than the sampler's period, so that a crash finds a thread waiting.
            .thread_keep_alive(warm::KEEP_ALIVE)
            .thread_stack_size(256 << 10)
            .build()
    };
    let main = runtime().map_err(setup("the loop's runtime"))?;
    let serving = runtime().map_err(setup("the servers' runtime"))?;
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();

    let module_conf = settings::stored(&home.module_conf());
    let settings = watch::Sender::new(Settings::load(module_conf.as_deref(), |name| {
        std::env::var(name).ok()
    }));
    let (commands_in, commands) = mpsc::channel(COMMANDS);
    let (events_in, run_events) = mpsc::channel(EVENTS);
    let (http_in, http_requests) = mpsc::channel(4);
    let snapshots = watch::Sender::new(Arc::<Snapshot>::default());
    let usages = watch::Sender::new(Arc::default());
    let host = watch::Sender::new(Arc::default());
    let http_state = watch::Sender::new(HttpState::Pending);
    let (roots, runs) = (Arc::new(Roots::new(keeper.clone())), Arc::<Runs>::default());
    let estate = legacy::take(&mut inherited, &settings.borrow(), &roots);
    let (hand_overs_in, hand_overs) = mpsc::channel(1);
    let started_at_ms = telemetry::wall_ms();
    // Line numbers go on in the journal, or begin again, and the life with them.
    let life = estate.life.filter(|_| numbered).unwrap_or(started_at_ms);
    let info = DaemonInfo {
        pid: std::process::id(),
        started_at_ms,
        life,
        home: home.root().to_owned(),
        user: nix::unistd::User::from_uid(nix::unistd::getuid())
            .ok()
            .flatten()
            .map_or_else(String::new, |user| user.name),
    };
    let running = Running {
        events: events_in,
        plane: plane.clone(),
        roots: Arc::clone(&roots),
        runs: Arc::clone(&runs),
        cgroups: cgroups(),
        kits: Arc::default(),
        memory: Arc::default(),
        daemon: estate.mark,
        keeper: keeper.clone(),
        cluster: Registry::new(tasks.clone(), home.root().to_owned(), keeper.clone()),
    };
    tracing::info!(target: "pm2", "--- New PM2 Daemon started (fornax {}, home {}) ---", env!("CARGO_PKG_VERSION"), home.root().display());
    let predecessor = std::env::var(keeping::PREDECESSOR_VARIABLE).ok();
    tracing::info!(
        cgroups = running.cgroups.is_some(),
        keeper = keeper.pid(),
        predecessor,
        "supervising"
    );
    let handle = Handle {
        commands: commands_in,
        snapshots: snapshots.subscribe(),
        usages: usages.subscribe(),
        host: host.subscribe(),
        sample: Arc::new(Notify::new()),
        bus: bus.clone(),
        plane: plane.clone(),
        roots: Arc::clone(&roots),
        runs,
        settings: settings.clone(),
        http: http_state.subscribe(),
        http_requests: http_in,
        mourner: Arc::default(),
        succession: Arc::new(Succession::new(
            keeper.clone(),
            predecessor.map(Into::into),
            hand_overs_in,
            estate.http,
        )),
        info: Arc::new(info),
        shutdown: shutdown.clone(),
    };

    let world = RealWorld::new(running, tasks.clone(), &handle, inherited);
    let mut daemon = Daemon::new(world, bus, snapshots, settings.subscribe()).of_life(life);
    {
        let _within = main.enter();
        match estate.legacy {
            Some(legacy) => daemon.resume(legacy),
            None => daemon.begin_anew(),
        }
    }
    // Only now: whoever asks sees the apps that were there before.
    let server_thread = {
        let (handle, tasks, http) = (handle.clone(), tasks.clone(), options.http.clone());
        let (sockets, http_server, others) = (servers.sockets, servers.http, servers.others);
        std::thread::Builder::new()
            .name("fornax-servers".to_owned())
            .spawn(move || {
                serving.block_on(async move {
                    let sockets = async {
                        match (UnixListener::from_std(rpc), UnixListener::from_std(events)) {
                            (Ok(rpc), Ok(events)) => {
                                sockets(rpc, events, handle.clone(), tasks).await
                            }
                            (Err(error), _) | (_, Err(error)) => {
                                tracing::error!(%error, "cannot serve the sockets")
                            }
                        }
                    };
                    let others = others.into_iter().map(|serve| serve(handle.clone()));
                    let others = futures_util::future::join_all(others.collect::<Vec<_>>());
                    tokio::join!(
                        sockets,
                        others,
                        http_server(handle.clone(), http, http_requests, http_state),
                        warm::keep_a_thread(handle.shutdown.clone())
                    );
                });
            })
    };
    let server_thread = server_thread.map_err(setup("the servers' thread"))?;

    let end = main.block_on(async {
        let signals = Signals::install().map_err(setup("signal handlers"))?;
        let the_loop = tokio::spawn(daemon.run(Inputs {
            commands,
            events: run_events,
        }));
        tasks.spawn(sampling::run(
            handle.clone(),
            Arc::clone(&roots),
            usages,
            host,
        ));
        tasks.spawn(sampling::recheck_installs(handle.clone()));
        tasks.spawn(memory_limits::run(handle.clone()));
        ready();
        keeper.ready();
        let end = signals.serve(&handle, &keeper, &home, hand_overs).await;
        match end {
            End::Wanted => {
                keeper.bye();
                // At once: whoever connected now would wait for an answer that does not come.
                places::remove_sockets(&home);
                end::tell_mourner(&handle);
                end::stop_all(&handle).await;
            }
            // What is in flight is answered, or refused by the end of its connection.
            End::HandOver => {
                tokio::time::sleep(LAST_ANSWERS).await;
                shutdown.cancel();
            }
        }
        the_loop.abort();
        Ok(end)
    })?;
    // The servers answer what is in flight, then their thread ends; it is not worth more than a moment.
    let until = std::time::Instant::now() + Duration::from_millis(500);
    while !server_thread.is_finished() && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    if end == End::HandOver {
        plane.quiesce();
        // Locks, leases and cgroups are the successor's: nothing of ours may let them go.
        std::process::exit(0);
    }
    plane.shutdown();
    places::remove_files(&home);
    Ok(())
}

/// Where cgroups are made. `FORNAX_NO_CGROUPS=1` does without, as on a machine that lets us make none: trees are then
/// followed by descent, session and marker.
fn cgroups() -> Option<Arc<CgroupRoot>> {
    if std::env::var("FORNAX_NO_CGROUPS").is_ok_and(|value| value == "1") {
        return None;
    }
    CgroupRoot::create(std::process::id()).ok().map(Arc::new)
}
