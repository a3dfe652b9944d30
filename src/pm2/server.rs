//! `rpc.sock` and `pub.sock`: who is let in, and who has to go.

use super::{publish, rpc};
use crate::daemon::crowd::{Crowd, Place};
use crate::daemon::handle::Handle;
use crate::daemon::reserve::Reserve;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// How long listeners are told what was on its way when the daemon's end began: an app's last lines.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Serves both sockets until the daemon ends.
pub async fn serve(rpc: UnixListener, events: UnixListener, handle: Handle, tasks: TaskTracker) {
    let large = Arc::new(Semaphore::new(rpc::LARGE_CALLS));
    let calls = listen(
        rpc,
        "rpc.sock",
        &handle,
        &tasks,
        Duration::ZERO,
        |stream, place| rpc::connection(stream, handle.clone(), place, Arc::clone(&large)),
    );
    let listeners = listen(
        events,
        "pub.sock",
        &handle,
        &tasks,
        LAST_WORDS,
        |stream, place| publish::connection(stream, handle.clone(), place),
    );
    tokio::join!(calls, listeners);
}

/// Accepts as long as there is room, or somebody to make it.
async fn listen<F>(
    socket: UnixListener,
    name: &'static str,
    handle: &Handle,
    tasks: &TaskTracker,
    last_words: Duration,
    connection: impl Fn(UnixStream, Arc<Place>) -> F,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (crowd, mut reserve) = (Crowd::new(name), Reserve::new());
    loop {
        reserve.refill();
        let accepted = tokio::select! {
            () = handle.shutdown.cancelled() => return,
            accepted = async { crowd.room().await; socket.accept().await } => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, listener = name, "cannot accept a connection");
                if !reserve.give_up() {
                    crowd.without_descriptors().await;
                }
                continue;
            }
        };
        // One that is gone already has no owner, and costs nothing.
        let owner = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let Some(place) = crowd.admit(owner.unwrap_or_default().unsigned_abs().into()) else {
            continue;
        };
        let (place, ended) = (Arc::new(place), handle.shutdown.clone());
        let served = connection(stream, Arc::clone(&place));
        tasks.spawn(async move {
            tokio::select! {
                () = async {
                    ended.cancelled().await;
                    tokio::time::sleep(last_words).await;
                } => {}
                () = place.evicted.cancelled() => {}
                served = served => if let Err(error) = served {
                    tracing::debug!(%error, listener = name, "a client's connection ended");
                }
            }
        });
    }
}
