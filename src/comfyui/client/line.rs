//! One HTTP/1.1 connection, driven by whoever uses it: it lives and dies with the call, and no task is spawned for it.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A request's body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What moves a connection's bytes when it is polled.
type Driven = Pin<Box<Connection<TokioIo<TcpStream>, Body>>>;

/// How long a connection attempt may take. Loopback answers at once; a full backlog does not.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// An idle connection older than this is not used again: aiohttp closes them after 75 s.
const IDLE: Duration = Duration::from_secs(20);

/// A connection, used by one call at a time.
pub(super) struct Line {
    sender: SendRequest<Body>,
    /// `None` once it has ended.
    connection: Option<Driven>,
    idle_since: Instant,
}

impl Line {
    /// Connects.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let connecting = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address));
        let stream = connecting.await.map_err(late)??;
        // Without it a small request may wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            sender,
            connection: Some(Box::pin(connection)),
            idle_since: Instant::now(),
        })
    }

    /// Whether an idle connection can take another request: it is young, and the other end has not closed it.
    pub fn is_usable(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.advance(&mut context);
        self.connection.is_some() && self.sender.is_ready() && self.idle_since.elapsed() < IDLE
    }

    /// It is idle from now on.
    pub fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let answer = self.sender.send_request(request);
        self.drive(answer).await
    }

    /// Awaits something that this connection brings.
    pub async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(output);
            }
            // What it reads in this step may be what is waited for, also in its last one.
            self.advance(context);
            future.as_mut().poll(context)
        })
        .await
    }

    fn advance(&mut self, context: &mut Context<'_>) {
        let ended = self
            .connection
            .as_mut()
            .is_some_and(|connection| connection.as_mut().poll(context).is_ready());
        if ended {
            self.connection = None;
        }
    }
}
