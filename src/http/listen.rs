//! The listener: binds, moves to another address on request, and serves a bounded number of connections.

use super::address::{self, Wanted};
use super::app::{App, HttpOptions, router};
use super::bind::{Bound, Refused};
use super::connection;
use super::gate::{Gate, Guard};
use super::token::LazyToken;
use crate::daemon::crowd::{Crowd, Place};
use crate::daemon::handle::{Handle, HttpRequest, HttpState};
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use axum::Router;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the keeper's copy of a socket may be in the way of its successor.
const KEEPER_CLOSES_WITHIN: Duration = Duration::from_millis(500);
/// How often it is tried meanwhile.
const BIND_AGAIN: Duration = Duration::from_millis(10);

/// Serves at `wanted` (see [`HttpOptions`] for what else the environment says) until the daemon ends. `wanted` is `off`, a port,
/// or an address with a port; a port alone is one of 127.0.0.1. Each request names another such address: the old listener is
/// closed when the new one works. An address that fails leaves everything as it was. `state` tells how it stands.
pub async fn serve(
    handle: Handle,
    fleet: Fleet,
    jobs: Jobs,
    wanted: String,
    requests: mpsc::Receiver<HttpRequest>,
    state: watch::Sender<HttpState>,
) {
    serve_with(
        handle,
        fleet,
        jobs,
        wanted,
        requests,
        state,
        HttpOptions::from_env(),
    )
    .await;
}

/// [`serve`] with options of the caller's.
pub async fn serve_with(
    handle: Handle,
    fleet: Fleet,
    jobs: Jobs,
    wanted: String,
    mut requests: mpsc::Receiver<HttpRequest>,
    state: watch::Sender<HttpState>,
    options: HttpOptions,
) {
    let shutdown = handle.shutdown.clone();
    let app = Arc::new(App::new(handle, fleet, jobs, &options));
    let mut server = Server {
        routes: router(Arc::clone(&app)),
        app,
        options,
        state,
        open: None,
        crowd: Crowd::new("http"),
        tasks: TaskTracker::new(),
    };
    if !server.take_over().await {
        server.listen(&wanted).await;
    }
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some((wanted, reply)) = requests.recv() => {
                let state = server.listen(&wanted).await;
                // Whoever asked may have gone.
                drop(reply.send(state));
            }
            (stream, place) = accept(server.open.as_ref(), &server.crowd) => server.take(stream, place),
        }
    }
    server.open = None;
    server.tasks.close();
    server.tasks.wait().await;
}

/// What serving needs. Owner: the serving task.
struct Server {
    app: Arc<App>,
    routes: Router,
    options: HttpOptions,
    state: watch::Sender<HttpState>,
    open: Option<Open>,
    crowd: Arc<Crowd>,
    tasks: TaskTracker,
}

/// A listener.
struct Open {
    bound: Bound,
    gate: Arc<Gate>,
    /// Cancelled when it is closed.
    closing: CancellationToken,
}

impl Server {
    /// Goes on where the daemon before this one listened, or stays off as it was; `false` if it left nothing.
    async fn take_over(&mut self) -> bool {
        if self.app.handle.succession.http_was_off() {
            self.state.send_replace(HttpState::Off);
            tracing::info!("http stays off");
            return true;
        }
        let left = self.app.handle.succession.inherited_http();
        let Some(bound) = Bound::inherited(left) else {
            return false;
        };
        match self.gate(bound.address.ip()).await {
            Ok(gate) => {
                let state = self.open(bound, Arc::new(gate));
                tracing::info!(?state, "http goes on");
                self.state.send_replace(state);
                true
            }
            Err(reason) => {
                tracing::error!(reason, "cannot go on serving http");
                false
            }
        }
    }

    /// Serves there from now on.
    fn open(&mut self, bound: Bound, gate: Arc<Gate>) -> HttpState {
        let address = bound.address;
        self.replace(Some(Open {
            bound,
            gate,
            closing: self.app.handle.shutdown.child_token(),
        }));
        HttpState::Listening(address)
    }

    /// Moves to `wanted`; tells what came of it.
    async fn listen(&mut self, wanted: &str) -> HttpState {
        match self.move_to(wanted).await {
            Ok(state) => {
                tracing::info!(?state, "http");
                self.state.send_replace(state.clone());
                state
            }
            Err(reason) => {
                tracing::error!(address = wanted, reason, "cannot serve http");
                let failed = HttpState::Failed {
                    address: wanted.to_owned(),
                    reason,
                };
                // With a listener that still works, the failure is the asker's only.
                if self.open.is_none() {
                    self.state.send_replace(failed.clone());
                }
                failed
            }
        }
    }

    async fn move_to(&mut self, wanted: &str) -> Result<HttpState, String> {
        let Some(wanted) = address::parse(wanted)? else {
            self.replace(None);
            self.app.handle.succession.leave_http_off();
            return Ok(HttpState::Off);
        };
        if let Some(open) = &self.open
            && open.bound.is(wanted)
        {
            return Ok(HttpState::Listening(open.bound.address));
        }
        let gate = Arc::new(self.gate(wanted.ip()).await?);
        let bound = match Bound::to(wanted).await {
            Err(refused) if refused.taken => self.bind_in_place(wanted, refused).await,
            bound => bound,
        };
        let bound = bound.map_err(|refused| refused.words)?;
        Ok(self.open(bound, gate))
    }

    /// Binds an address that our own listener may be in the way of, as 127.0.0.1:9090 is of 0.0.0.0:9090: then the old one
    /// must go first, and is taken up again if that was not it.
    async fn bind_in_place(&mut self, wanted: Wanted, refused: Refused) -> Result<Bound, Refused> {
        let port = wanted.port();
        let Some(old) = self.open.take_if(|open| open.bound.address.port() == port) else {
            return Err(refused);
        };
        let before = old.bound.wanted();
        drop(old.bound);
        // The keeper's copy is in the way as well.
        self.leave();
        match bind_soon(wanted).await {
            Ok(bound) => {
                old.closing.cancel();
                Ok(bound)
            }
            Err(_) => {
                match bind_soon(before).await {
                    Ok(bound) => {
                        self.open = Some(Open { bound, ..old });
                        self.leave();
                    }
                    Err(error) => {
                        tracing::error!(reason = error.words, "cannot listen again");
                        old.closing.cancel();
                    }
                }
                Err(refused)
            }
        }
    }

    /// Closes the old listener; its requests in flight may end, its followers are told to.
    fn replace(&mut self, open: Option<Open>) {
        if let Some(old) = std::mem::replace(&mut self.open, open) {
            old.closing.cancel();
        }
        self.leave();
    }

    /// What is listened on now is what a daemon after this one finds.
    fn leave(&self) {
        let sockets = self.open.as_ref().map(|open| open.bound.sockets());
        let succession = &self.app.handle.succession;
        succession.leave_http(&sockets.unwrap_or_default());
    }

    async fn gate(&self, ip: IpAddr) -> Result<Gate, String> {
        let (given, home) = (
            self.options.token.clone(),
            self.app.handle.info.home.clone(),
        );
        let token = LazyToken::new(given, home);
        let guard = if ip.to_canonical().is_loopback() {
            Guard::Changes(token)
        } else {
            let obtained = token.get().await.map_err(|error| error.to_string())?;
            Guard::All(obtained.clone())
        };
        Ok(Gate {
            guard,
            hosts: self.options.hosts.clone(),
        })
    }

    fn take(&self, stream: TcpStream, place: Place) {
        if let Some(open) = &self.open {
            self.tasks.spawn(connection::serve(
                stream,
                self.routes.clone(),
                Arc::clone(&open.gate),
                open.closing.clone(),
                Arc::new(place),
            ));
        }
    }
}

/// Binds what has just been let go of; the keeper takes a moment to close its copy.
async fn bind_soon(wanted: Wanted) -> Result<Bound, Refused> {
    let until = Instant::now() + KEEPER_CLOSES_WITHIN;
    loop {
        match Bound::to(wanted).await {
            Err(refused) if refused.taken && Instant::now() < until => {
                tokio::time::sleep(BIND_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

/// The next connection, once there is room for it. Never comes while nothing is listened on.
async fn accept(open: Option<&Open>, crowd: &Arc<Crowd>) -> (TcpStream, Place) {
    let Some(open) = open else {
        return std::future::pending().await;
    };
    loop {
        crowd.room().await;
        match poll_fn(|context| open.bound.poll_accept(context)).await {
            Ok((stream, from)) => {
                let mut owner = DefaultHasher::new();
                from.ip().to_canonical().hash(&mut owner);
                if let Some(place) = crowd.admit(owner.finish()) {
                    return (stream, place);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept an http connection");
                crowd.without_descriptors().await;
            }
        }
    }
}
