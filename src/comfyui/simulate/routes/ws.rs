//! `GET /ws?clientId=`: one task per websocket, between its outbox and its socket.

use super::system;
use crate::comfyui::simulate::clients::Outbox;
use crate::comfyui::simulate::shared::Shared;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// The largest message taken, in bytes; ComfyUI's clients send only a line of feature flags.
const LARGEST: usize = 1024 * 1024;

pub(super) async fn connect(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let id = query
        .get("clientId")
        .filter(|id| !id.is_empty())
        .cloned()
        .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    upgrade
        .max_message_size(LARGEST)
        .max_frame_size(LARGEST)
        .on_upgrade(async move |socket| talk(&shared, &id, socket).await)
}

/// Talks until the client goes, does not read, or the server ends. In the last two cases the socket is dropped without a close
/// frame: clients see 1006, as from ComfyUI.
async fn talk(shared: &Shared, id: &str, mut socket: WebSocket) {
    let status =
        json!({"status": {"exec_info": {"queue_remaining": shared.jobs.remaining()}}, "sid": id});
    let mut outbox = shared
        .clients
        .connect(id, &json!({"type": "status", "data": status}));
    if let Some(node) = shared.current.node_of(id) {
        shared
            .clients
            .send_to(id, &json!({"type": "executing", "data": {"node": node}}));
    }
    let (dropped, stop) = (outbox.dropped.clone(), shared.stop.clone());
    tokio::select! {
        () = exchange(shared, id, &mut socket, &mut outbox) => {}
        () = dropped.cancelled() => shared.console.line(format!("websocket client {id} does not read; dropped")),
        () = stop.cancelled() => {}
    }
    shared.clients.disconnect(id);
}

async fn exchange(shared: &Shared, id: &str, socket: &mut WebSocket, outbox: &mut Outbox) {
    let mut first = true;
    loop {
        tokio::select! {
            Some(message) = outbox.messages.recv() => {
                outbox.taken(&message);
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            received = socket.recv() => match received {
                Some(Ok(Message::Text(text))) => {
                    if std::mem::take(&mut first) {
                        greet(shared, id, &text);
                    }
                }
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        }
    }
}

/// Answers a first message that tells the client's features; anything else is ignored.
fn greet(shared: &Shared, id: &str, text: &str) {
    let Ok(message) = serde_json::from_str::<Value>(text) else {
        shared
            .console
            .line(format!("Invalid JSON received from client {id}"));
        return;
    };
    if message["type"] == "feature_flags" {
        if message["data"]["supports_preview_metadata"] == true {
            shared.clients.takes_preview_metadata(id);
        }
        shared.clients.send_to(
            id,
            &json!({"type": "feature_flags", "data": system::feature_flags(shared)}),
        );
    }
}
