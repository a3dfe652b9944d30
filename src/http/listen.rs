//! The listener: binds, moves to another address on request, and serves a bounded number of connections.

use super::address::{self, Wanted};
use super::app::{App, Caller, HttpOptions, router};
use super::gate::Gate;
use super::token::Token;
use crate::daemon::handle::{Handle, HttpRequest, HttpState};
use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// A client that has not sent its request's head by then is cut off; so is one that is silent between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(3);
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// The most headers of a request.
const HEADERS: usize = 64;
/// How long requests in flight may take when their listener closes.
const GRACE: Duration = Duration::from_secs(2);
/// After a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves at `wanted` (see [`HttpOptions`] for what else the environment says) until the daemon ends. `wanted` is `off`, a port,
/// or an address with a port; a port alone is one of 127.0.0.1. Each request names another such address: the old listener is
/// closed when the new one works. An address that fails leaves everything as it was. `state` tells how it stands.
pub async fn serve(
    handle: Handle,
    wanted: String,
    requests: mpsc::Receiver<HttpRequest>,
    state: watch::Sender<HttpState>,
) {
    serve_with(handle, wanted, requests, state, HttpOptions::from_env()).await;
}

/// [`serve`] with options of the caller's.
pub async fn serve_with(
    handle: Handle,
    wanted: String,
    mut requests: mpsc::Receiver<HttpRequest>,
    state: watch::Sender<HttpState>,
    options: HttpOptions,
) {
    let shutdown = handle.shutdown.clone();
    let app = Arc::new(App::new(handle, &options));
    let mut server = Server {
        routes: router(Arc::clone(&app)),
        app,
        options,
        state,
        open: None,
        slots: Arc::new(Semaphore::new(CONNECTIONS)),
        tasks: TaskTracker::new(),
    };
    server.listen(&wanted).await;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some((wanted, reply)) = requests.recv() => {
                let state = server.listen(&wanted).await;
                // Whoever asked may have gone.
                drop(reply.send(state));
            }
            (stream, slot) = accept(server.open.as_ref(), &server.slots) => server.take(stream, slot),
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
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// A listener.
struct Open {
    listener: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
    /// Cancelled when it is closed.
    closing: CancellationToken,
}

impl Server {
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
        let address = match address::parse(wanted)? {
            Wanted::Off => {
                self.replace(None);
                return Ok(HttpState::Off);
            }
            Wanted::At(address) => address,
        };
        if let Some(open) = &self.open
            && open.address == address
        {
            return Ok(HttpState::Listening(address));
        }
        let gate = Arc::new(self.gate(address.ip()).await?);
        let listener = match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                self.bind_in_place(address, error).await?
            }
            bound => bound.map_err(|error| address::refusal(address, &error))?,
        };
        let address = listener
            .local_addr()
            .map_err(|error| address::refusal(address, &error))?;
        self.replace(Some(Open {
            listener,
            address,
            gate,
            closing: self.app.handle.shutdown.child_token(),
        }));
        Ok(HttpState::Listening(address))
    }

    /// Binds an address that our own listener may be in the way of, as 127.0.0.1:9090 is of 0.0.0.0:9090: then the old one
    /// must go first, and is taken up again if that was not it.
    async fn bind_in_place(
        &mut self,
        address: SocketAddr,
        error: io::Error,
    ) -> Result<TcpListener, String> {
        let refused = address::refusal(address, &error);
        let Some(old) = self
            .open
            .take_if(|open| open.address.port() == address.port())
        else {
            return Err(refused);
        };
        drop(old.listener);
        match TcpListener::bind(address).await {
            Ok(listener) => {
                old.closing.cancel();
                Ok(listener)
            }
            Err(_) => {
                match TcpListener::bind(old.address).await {
                    Ok(listener) => self.open = Some(Open { listener, ..old }),
                    Err(error) => {
                        tracing::error!(%error, address = %old.address, "cannot listen again");
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
    }

    async fn gate(&self, ip: IpAddr) -> Result<Gate, String> {
        let token = if ip.to_canonical().is_loopback() {
            None
        } else {
            let (given, home) = (
                self.options.token.clone(),
                self.app.handle.info.home.clone(),
            );
            let obtained =
                tokio::task::spawn_blocking(move || Token::obtain(given.as_deref(), &home)).await;
            let token = obtained.map_err(|error| error.to_string())?;
            Some(token.map_err(|error| error.to_string())?)
        };
        Ok(Gate {
            token,
            hosts: self.options.hosts.clone(),
        })
    }

    fn take(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        if let Some(open) = &self.open {
            self.tasks.spawn(connection(
                stream,
                self.routes.clone(),
                Arc::clone(&open.gate),
                open.closing.clone(),
                slot,
            ));
        }
    }
}

/// The next connection, once there is a slot for it. Never comes while nothing is listened on.
async fn accept(open: Option<&Open>, slots: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let Some(open) = open else {
        return std::future::pending().await;
    };
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    loop {
        match open.listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                // Out of descriptors, most likely: without a pause this would spin.
                tracing::warn!(%error, "cannot accept an http connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends or its listener closes.
async fn connection(
    stream: TcpStream,
    routes: Router,
    gate: Arc<Gate>,
    closing: CancellationToken,
    slot: OwnedSemaphorePermit,
) {
    let Ok(local) = stream.local_addr().map(|address| address.ip()) else {
        return;
    };
    // A line of a followed log goes out at once. Without it, it goes out a little later.
    let _ = stream.set_nodelay(true);
    let routes = TowerToHyperService::new(routes);
    let caller_closing = closing.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (routes, gate, closing) = (routes.clone(), Arc::clone(&gate), caller_closing.clone());
        async move { Ok::<Response, Infallible>(respond(request, &routes, &gate, local, closing).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // One that is not done by then is cut off.
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an http connection ended");
    }
    drop(slot);
}

/// Bodies of requests are never read: the connection ends after the answer to one that has more than a little.
async fn respond(
    request: hyper::Request<Incoming>,
    routes: &TowerToHyperService<Router>,
    gate: &Gate,
    local: IpAddr,
    closing: CancellationToken,
) -> Response {
    let (parts, body) = request.into_parts();
    match gate.admit(&parts, local) {
        Ok(access) => {
            let mut request = hyper::Request::from_parts(parts, body);
            request.extensions_mut().insert(Caller { access, closing });
            routes
                .call(request)
                .await
                .unwrap_or_else(|never: Infallible| match never {})
        }
        Err(problem) => problem.into_response(),
    }
}
