//! The listening socket: bound last, slow if a fault says so, and with a bound on connections.

use super::error::SimulateError;
use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections open at one time; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 512;

/// A listener that takes each connection late, and no more than a fixed number.
pub(super) struct SlowListener {
    listener: TcpListener,
    delay: Duration,
    room: Arc<Semaphore>,
}

impl SlowListener {
    /// Binds. `delay` passes before each connection is taken.
    pub(super) async fn bind(address: SocketAddr, delay: Duration) -> Result<Self, SimulateError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| SimulateError::Bind { address, source })?;
        Ok(Self {
            listener,
            delay,
            room: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        })
    }

    /// The address bound, with the port that was free if 0 was asked for.
    pub(super) fn address(&self) -> Result<SocketAddr, SimulateError> {
        self.listener
            .local_addr()
            .map_err(|source| SimulateError::Setup {
                what: "the listening socket",
                source,
            })
    }
}

impl Listener for SlowListener {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let permit = self.room.clone().acquire_owned().await.ok();
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Only a hint for latency; a connection without it works.
        let _ = stream.set_nodelay(true);
        (
            Held {
                stream,
                _permit: permit,
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds its place among the connections.
pub(super) struct Held {
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
