//! The websocket messages of one prompt, in ComfyUI's words, and the list of them that its history entry keeps.

use super::clients::Clients;
use super::jobs::Job;
use axum::extract::ws::Message;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Who runs where: what a client that reconnects in the middle of its prompt is told. A lock, not a message: the connection
/// needs it at once.
#[derive(Default)]
pub(super) struct Current(Mutex<Option<(String, String)>>);

impl Current {
    /// The node being executed for this client.
    pub(super) fn node_of(&self, client: &str) -> Option<String> {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current
            .as_ref()
            .filter(|(of, _)| of == client)
            .map(|(_, node)| node.clone())
    }

    fn set(&self, value: Option<(String, String)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

/// Tells of one prompt. Owner: the worker.
pub(super) struct Teller<'a> {
    clients: &'a Clients,
    current: &'a Current,
    job: Arc<Job>,
    progress: Map<String, Value>,
    kept: Vec<Value>,
}

impl<'a> Teller<'a> {
    /// A teller of this job.
    pub(super) fn new(clients: &'a Clients, current: &'a Current, job: Arc<Job>) -> Self {
        Self {
            clients,
            current,
            job,
            progress: Map::new(),
            kept: Vec::new(),
        }
    }

    /// An `execution_*` message, its data without the time: to the job's client if it has one, and into the history.
    pub(super) fn execution(&mut self, kind: &str, mut data: Value) {
        data["timestamp"] = json!(now_ms());
        self.to_client(&json!({"type": kind, "data": data}));
        self.kept.push(json!([kind, data]));
    }

    /// `progress_state` with this node in this state, and those before it.
    pub(super) fn state(&mut self, node: &str, value: Value, max: Value, state: &str) {
        let told = json!({
            "value": value, "max": max, "state": state, "node_id": node, "prompt_id": self.job.id,
            "display_node_id": node, "parent_node_id": null, "real_node_id": node,
        });
        self.progress.insert(node.to_owned(), told);
        let message = json!({"type": "progress_state", "data": {"prompt_id": self.job.id, "nodes": self.progress}});
        self.clients.send(self.job.client(), &message);
    }

    /// The steps a node has told of last, as the value and the maximum of its end.
    pub(super) fn last_steps(&self, node: &str) -> (Value, Value) {
        match self.progress.get(node) {
            Some(told) if told["max"] != json!(1.0) => (told["max"].clone(), told["max"].clone()),
            _ => (json!(1.0), json!(1.0)),
        }
    }

    /// `executing` a node.
    pub(super) fn executing(&self, node: &str) {
        if let Some(client) = self.job.client() {
            self.current.set(Some((client.to_owned(), node.to_owned())));
        }
        self.to_client(&json!({"type": "executing", "data": {"node": node, "display_node": node, "prompt_id": self.job.id}}));
    }

    /// One step of a node: the state of all, then `progress`.
    pub(super) fn step(&mut self, node: &str, value: u32, max: u32) {
        self.state(node, json!(value), json!(max), "running");
        let data = json!({"value": value, "max": max, "prompt_id": self.job.id, "node": node});
        self.clients.send(
            self.job.client(),
            &json!({"type": "progress", "data": data}),
        );
    }

    /// A preview of a node's picture, a PNG.
    pub(super) fn preview(&self, node: &str, png: &[u8]) {
        const PREVIEW: u32 = 1;
        const PREVIEW_WITH_METADATA: u32 = 4;
        const PNG: u32 = 2;
        let mut plain = [PREVIEW.to_be_bytes(), PNG.to_be_bytes()].concat();
        plain.extend_from_slice(png);
        let metadata = json!({
            "node_id": node, "prompt_id": self.job.id, "display_node_id": node, "parent_node_id": null, "real_node_id": node,
            "image_type": "image/png",
        })
        .to_string();
        let mut full = [
            PREVIEW_WITH_METADATA.to_be_bytes(),
            (metadata.len() as u32).to_be_bytes(),
        ]
        .concat();
        full.extend_from_slice(metadata.as_bytes());
        full.extend_from_slice(png);
        self.clients.send_preview(
            self.job.client(),
            &Message::binary(plain),
            &Message::binary(full),
        );
    }

    /// `executed`, with what an output node shows.
    pub(super) fn executed(&self, node: &str, output: &Value) {
        let data =
            json!({"node": node, "display_node": node, "output": output, "prompt_id": self.job.id});
        self.to_client(&json!({"type": "executed", "data": data}));
    }

    /// The very last message of a prompt: no node is being executed.
    pub(super) fn nothing_executing(&self) {
        self.current.set(None);
        self.to_client(
            &json!({"type": "executing", "data": {"node": null, "prompt_id": self.job.id}}),
        );
    }

    /// The `execution_*` messages so far, for the history.
    pub(super) fn take_kept(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.kept)
    }

    fn to_client(&self, message: &Value) {
        if let Some(client) = self.job.client() {
            self.clients.send_to(client, message);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
