//! The thread that owns the connection, and the one that syncs: orders are taken in batches, each one transaction.

use super::error::StoreError;
use super::files::Folders;
use super::record::{Record, Webhook};
use super::schema;
use super::work;
use super::{Hook, Inserted, Retention};
use crate::core::job::JobState;
use rusqlite::Connection;
use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use tokio::sync::{mpsc, oneshot};

/// Orders carried out in one transaction.
const BATCH: usize = 256;
/// Syncs asked for while one is in progress; the store waits when there are more.
const SYNCS: usize = 64;

pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the store can be asked.
#[derive(Debug)]
pub(super) enum Order {
    Insert {
        record: Box<Record>,
        workflow: String,
        written: Answer<Inserted>,
        durable: Answer<()>,
    },
    Put {
        record: Box<Record>,
        hook: Option<(Webhook, String)>,
        written: Answer<()>,
        durable: Option<Answer<()>>,
    },
    Workflow {
        id: String,
        reply: Answer<Option<String>>,
    },
    Get {
        id: String,
        reply: Answer<Option<Record>>,
    },
    List {
        states: Vec<JobState>,
        before_ms: u64,
        limit: u32,
        reply: Answer<Vec<Record>>,
    },
    Unsettled(Answer<Vec<Record>>),
    Hooks {
        by_ms: u64,
        limit: u32,
        reply: Answer<(Vec<Hook>, Option<u64>)>,
    },
    HookTried {
        job: String,
        again_ms: Option<u64>,
        reply: Answer<()>,
    },
    Prune {
        retention: Retention,
        reply: Answer<Vec<String>>,
    },
}

/// A reply that is given once the transaction is committed, or has failed.
type Later = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Opens the database and starts both threads.
pub(super) fn start(folders: &Folders, inbox: mpsc::Receiver<Order>) -> Result<(), StoreError> {
    let connection = schema::open(&folders.database())?;
    let (syncs, to_sync) = std_mpsc::sync_channel(SYNCS);
    let log = folders.log();
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(512 << 10)
            .spawn(run)
            .map(drop)
            .map_err(|error| StoreError::Failed {
                what: "start its thread".to_owned(),
                why: error.to_string(),
            })
    };
    spawn("fornax-sync", Box::new(move || sync(log, &to_sync)))?;
    spawn(
        "fornax-store",
        Box::new(move || serve(connection, inbox, &syncs)),
    )
}

/// Carries orders out until nobody can give any.
fn serve(
    connection: Connection,
    mut inbox: mpsc::Receiver<Order>,
    syncs: &std_mpsc::SyncSender<Vec<Answer<()>>>,
) {
    while let Some(first) = inbox.blocking_recv() {
        let mut orders = vec![first];
        while orders.len() < BATCH {
            match inbox.try_recv() {
                Ok(order) => orders.push(order),
                Err(_) => break,
            }
        }
        let durable = batch(&connection, orders);
        if !durable.is_empty() && syncs.send(durable).is_err() {
            tracing::error!("the job store cannot sync any more");
        }
    }
}

/// One transaction; returns who waits for it to be on disk. Nobody may wait for an answer any more: then it is dropped.
fn batch(connection: &Connection, orders: Vec<Order>) -> Vec<Answer<()>> {
    let (mut later, mut durable): (Vec<Later>, Vec<Answer<()>>) = (Vec::new(), Vec::new());
    let mut failed = connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(|error| StoreError::sqlite("begin a transaction", &error))
        .err();
    for order in orders {
        if let Some(error) = &failed {
            refuse(order, error);
            continue;
        }
        match order {
            Order::Insert {
                record,
                workflow,
                written,
                durable: on_disk,
            } => match work::insert(connection, &record, &workflow) {
                Ok(inserted) => {
                    later.push(Box::new(move |ok| {
                        drop(written.send(ok.map(|()| inserted)))
                    }));
                    durable.push(on_disk);
                }
                Err(error) => {
                    drop(written.send(Err(error.clone())));
                    drop(on_disk.send(Err(error.clone())));
                    failed = Some(error);
                }
            },
            Order::Put {
                record,
                hook,
                written,
                durable: on_disk,
            } => match work::put(connection, &record, hook.as_ref()) {
                Ok(()) => {
                    later.push(Box::new(move |ok| drop(written.send(ok))));
                    durable.extend(on_disk);
                }
                Err(error) => {
                    drop(written.send(Err(error.clone())));
                    drop(on_disk.map(|on_disk| on_disk.send(Err(error.clone()))));
                    failed = Some(error);
                }
            },
            Order::HookTried {
                job,
                again_ms,
                reply,
            } => match work::hook_tried(connection, &job, again_ms) {
                Ok(()) => later.push(Box::new(move |ok| drop(reply.send(ok)))),
                Err(error) => {
                    drop(reply.send(Err(error.clone())));
                    failed = Some(error);
                }
            },
            Order::Prune { retention, reply } => match work::prune(connection, retention) {
                Ok(pruned) => {
                    later.push(Box::new(move |ok| drop(reply.send(ok.map(|()| pruned)))));
                }
                Err(error) => {
                    drop(reply.send(Err(error.clone())));
                    failed = Some(error);
                }
            },
            Order::Workflow { id, reply } => drop(reply.send(work::workflow(connection, &id))),
            Order::Get { id, reply } => drop(reply.send(work::get(connection, &id))),
            Order::List {
                states,
                before_ms,
                limit,
                reply,
            } => {
                drop(reply.send(work::list(connection, &states, before_ms, limit)));
            }
            Order::Unsettled(reply) => drop(reply.send(work::unsettled(connection))),
            Order::Hooks {
                by_ms,
                limit,
                reply,
            } => {
                drop(reply.send(work::hooks(connection, by_ms, limit)));
            }
        }
    }
    let ended = match failed {
        None => connection
            .execute_batch("COMMIT")
            .map_err(|error| StoreError::sqlite("commit", &error)),
        Some(error) => Err(error),
    };
    if let Err(error) = &ended {
        tracing::error!(%error, "the job store");
        // It may have been rolled back already.
        let _ = connection.execute_batch("ROLLBACK");
        for waiting in durable.drain(..) {
            drop(waiting.send(Err(error.clone())));
        }
    }
    for reply in later {
        reply(ended.clone());
    }
    durable
}

fn refuse(order: Order, error: &StoreError) {
    let error = error.clone();
    match order {
        Order::Insert {
            written, durable, ..
        } => {
            drop(written.send(Err(error.clone())));
            drop(durable.send(Err(error)));
        }
        Order::Put {
            written, durable, ..
        } => {
            drop(written.send(Err(error.clone())));
            drop(durable.map(|durable| durable.send(Err(error))));
        }
        Order::Workflow { reply, .. } => drop(reply.send(Err(error))),
        Order::Get { reply, .. } => drop(reply.send(Err(error))),
        Order::List { reply, .. } => drop(reply.send(Err(error))),
        Order::Unsettled(reply) => drop(reply.send(Err(error))),
        Order::Hooks { reply, .. } => drop(reply.send(Err(error))),
        Order::HookTried { reply, .. } => drop(reply.send(Err(error))),
        Order::Prune { reply, .. } => drop(reply.send(Err(error))),
    }
}

/// Brings SQLite's log to the disk; whoever has asked meanwhile shares the next time.
fn sync(log: PathBuf, waiting: &std_mpsc::Receiver<Vec<Answer<()>>>) {
    let mut file: Option<File> = None;
    while let Ok(mut all) = waiting.recv() {
        while let Ok(more) = waiting.try_recv() {
            all.extend(more);
        }
        let synced = match &file {
            Some(file) => file.sync_data(),
            None => File::open(&log).and_then(|opened| {
                let synced = opened.sync_data();
                file = Some(opened);
                synced
            }),
        };
        let synced = synced.map_err(|error| StoreError::io("sync", &log, &error));
        for reply in all {
            drop(reply.send(synced.clone()));
        }
    }
}
