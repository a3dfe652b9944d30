//! The few lines that a worker runs before its script, so that it can end without failing a request (`drain.cjs`).

use crate::adapters::plan::RunPlan;
use crate::adapters::preload::Preload;
use std::path::Path;

const DRAIN: Preload = Preload {
    name: "fornax-drain.cjs",
    text: include_str!("drain.cjs"),
};

/// Makes a run one of Node's cluster workers: `cluster.isWorker` is true in it, and it asks us for its listeners. Our file is
/// loaded from this folder; without one it leaves as Node leaves, and may fail a request. Blocking.
pub fn as_worker(plan: &mut RunPlan, unique_id: u32, folder: Option<&Path>) {
    plan.env
        .insert("NODE_UNIQUE_ID".to_owned(), unique_id.to_string());
    let node = plan
        .program
        .rsplit('/')
        .next()
        .is_some_and(|name| name == "node" || name == "nodejs");
    // Bun takes no part of Node's internals.
    if let Some(folder) = folder.filter(|_| node) {
        DRAIN.require(folder, &mut plan.args);
    }
}
