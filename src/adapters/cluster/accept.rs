//! Accepting for the workers of one listener, as long as one of them is free: what waits, waits in the kernel's backlog.

use super::registry::Registry;
use crate::core::cluster::ListenerKey;
use crate::sys::fdpass;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How long accepting pauses when the kernel has no descriptor or memory for us.
const PAUSE: Duration = Duration::from_millis(100);

/// Until the listener is closed. It holds the socket only while it looks, so that closing it closes it at once.
pub(super) async fn run(
    socket: Weak<AsyncFd<OwnedFd>>,
    registry: Registry,
    key: Arc<ListenerKey>,
    free: Arc<Notify>,
) {
    let mut troubled = false;
    loop {
        while !registry.wants_connection(&key) {
            free.notified().await;
        }
        match poll_fn(|cx| poll_accept(&socket, cx)).await {
            None => return,
            Some(Ok(connection)) => {
                troubled = false;
                registry.offer(&key, connection);
            }
            Some(Err(error)) if transient(&error) => {}
            Some(Err(error)) => {
                if !std::mem::replace(&mut troubled, true) {
                    tracing::error!(app = key.app, listener = %key, %error, "cannot accept connections; raise the limit of open files (ulimit -n)");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// `None`: the listener is closed.
fn poll_accept(
    socket: &Weak<AsyncFd<OwnedFd>>,
    cx: &mut Context<'_>,
) -> Poll<Option<io::Result<OwnedFd>>> {
    let Some(socket) = socket.upgrade() else {
        return Poll::Ready(None);
    };
    loop {
        let mut guard = match socket.poll_read_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(guard)) => guard,
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
        };
        if let Ok(accepted) = guard.try_io(|socket| fdpass::accept(socket.as_fd())) {
            return Poll::Ready(Some(accepted));
        }
    }
}

/// The connection's own trouble, not ours (accept(2)).
fn transient(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EINVAL | libc::EBADF
        )
    )
}
