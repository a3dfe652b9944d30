//! When jobs run: from the first one on, or from the start of a daemon that finds a store.

use super::engine::{self, now_ms};
use super::handle::{Inbox, Jobs, Refused, Request};
use super::store::{Store, StoreError};
use super::webhook;
use crate::daemon::handle::Handle;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc;

/// How often settled jobs that are not to be kept are forgotten.
const PRUNE: Duration = Duration::from_secs(60);

/// Serves jobs until the daemon ends. Costs nothing before there is one: then a thread of its own is started.
pub async fn serve(daemon: Handle, jobs: Jobs, inbox: Inbox) {
    let mut inbox = inbox.0;
    let first = if jobs.has_store() {
        None
    } else {
        tokio::select! {
            () = daemon.shutdown.cancelled() => return,
            first = inbox.recv() => match first {
                Some(first) => Some(first),
                None => return,
            },
        }
    };
    let shutdown = daemon.shutdown.clone();
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    let spawned = std::thread::Builder::new()
        .name("fornax-jobs".to_owned())
        .spawn(move || {
            run(daemon, jobs, inbox, first);
            // Whoever waits may have gone.
            let _ = done.send(());
        });
    if let Err(error) = spawned {
        tracing::error!(%error, "cannot start the thread for jobs");
        return;
    }
    drop(ended.await);
    shutdown.cancelled().await;
}

/// The thread: its own runtime, so that files and graphs hold up nobody else.
fn run(daemon: Handle, jobs: Jobs, mut inbox: mpsc::Receiver<Request>, first: Option<Request>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_stack_size(256 << 10)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime for jobs");
            return;
        }
    };
    runtime.block_on(async {
        let mut first = first;
        let store = loop {
            match Store::open(&jobs.settings.folders) {
                Ok(store) => break store,
                Err(error) => {
                    tracing::error!(%error, "jobs cannot be kept");
                    if let Some(request) = first.take() {
                        refuse(request, &error);
                    }
                    // Whoever asks next tries again.
                    tokio::select! {
                        () = daemon.shutdown.cancelled() => return,
                        next = inbox.recv() => match next {
                            Some(next) => first = Some(next),
                            None => return,
                        },
                    }
                }
            }
        };
        if let Some(request) = first {
            // We hold the receiver's end, so there is room for one that was just taken out; a sender that was quicker is behind it.
            let requests = jobs.requests.clone();
            tokio::spawn(async move { drop(requests.send(request).await) });
        }
        let hooks = Arc::new(Notify::new());
        let hooking = webhook::run(
            store.clone(),
            Arc::clone(&jobs.settings),
            Arc::clone(&hooks),
            daemon.shutdown.clone(),
        );
        tokio::join!(
            engine::run(
                store.clone(),
                jobs.clone(),
                daemon.clone(),
                &mut inbox,
                hooks
            ),
            hooking,
            prune(store.clone(), jobs.clone(), daemon.clone()),
        );
    });
    // Uploads and downloads in progress are no reason to wait: they are begun anew.
    runtime.shutdown_background();
}

async fn prune(store: Store, jobs: Jobs, daemon: Handle) {
    if let Ok(left) = store.unsettled().await {
        let ids = left.into_iter().map(|record| record.id).collect();
        let folders = jobs.settings.folders.clone();
        drop(tokio::task::spawn_blocking(move || folders.sweep(&ids)).await);
    }
    loop {
        let gone = match store.prune(jobs.settings.retention(now_ms())).await {
            Ok(gone) => gone,
            Err(error) => {
                tracing::warn!(%error, "old jobs cannot be forgotten");
                Vec::new()
            }
        };
        let more = !gone.is_empty();
        let folders = jobs.settings.folders.clone();
        let removed = tokio::task::spawn_blocking(move || {
            for id in gone {
                folders.remove(&id);
            }
        });
        drop(removed.await);
        let wait = if more { Duration::from_secs(1) } else { PRUNE };
        tokio::select! {
            () = daemon.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Whoever asked may have gone.
fn refuse(request: Request, error: &StoreError) {
    let error = error.clone();
    match request {
        Request::Submit(_, reply) => drop(reply.send(Err(Refused::Store(error)))),
        Request::Get(_, reply) => drop(reply.send(Err(error))),
        Request::List { reply, .. } => drop(reply.send(Err(error))),
        Request::Cancel(_, reply) => drop(reply.send(Err(error))),
        Request::Watch(_, _, reply) => drop(reply.send(Err(error))),
        Request::Status(reply) => drop(reply),
        Request::Since(_, reply) => drop(reply),
    }
}
