//! The websocket clients by id: who gets which message, and who is dropped for not reading.

use axum::extract::ws::Message;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages that may wait for one client. A client that lets it fill is dropped, so that it cannot hold memory.
const WAITING_MESSAGES: usize = 1024;
/// Bytes that may wait for one client; past that it is dropped too.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// All connected clients. A lock, not a message: a send must be in order with the state change it tells of.
#[derive(Default)]
pub(super) struct Clients {
    by_id: Mutex<HashMap<String, Client>>,
}

struct Client {
    out: mpsc::Sender<Message>,
    waiting: Arc<AtomicUsize>,
    dropped: CancellationToken,
    preview_metadata: bool,
    logs: bool,
}

/// The connection's end of one client.
pub(super) struct Outbox {
    /// What is to be written.
    pub messages: mpsc::Receiver<Message>,
    /// Ends when the client was dropped for not reading.
    pub dropped: CancellationToken,
    waiting: Arc<AtomicUsize>,
}

impl Outbox {
    /// Tells that this message has left the queue.
    pub(super) fn taken(&self, message: &Message) {
        self.waiting.fetch_sub(weight(message), Ordering::Relaxed);
    }
}

impl Clients {
    /// Registers a connection under this id and queues its first message. An older connection with the id gets nothing more.
    pub(super) fn connect(&self, id: &str, first: &Value) -> Outbox {
        let (out, messages) = mpsc::channel(WAITING_MESSAGES);
        let (waiting, dropped) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let client = Client {
            out,
            waiting: waiting.clone(),
            dropped: dropped.clone(),
            preview_metadata: false,
            logs: false,
        };
        let mut clients = self.lock();
        offer(&client, text(first));
        clients.insert(id.to_owned(), client);
        Outbox {
            messages,
            dropped,
            waiting,
        }
    }

    /// Forgets the id, even if a newer connection has taken it over meanwhile: ComfyUI 0.3.64 does the same, and the newer one
    /// goes silent.
    pub(super) fn disconnect(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Sends to the one with this id, if it is there.
    pub(super) fn send_to(&self, id: &str, message: &Value) {
        self.deliver(Some(id), |_| text(message));
    }

    /// Sends to everyone.
    pub(super) fn broadcast(&self, message: &Value) {
        let message = text(message);
        self.deliver(None, |_| message.clone());
    }

    /// Sends to the one with this id, or to everyone where a prompt came without one.
    pub(super) fn send(&self, id: Option<&str>, message: &Value) {
        let message = text(message);
        self.deliver(id, |_| message.clone());
    }

    /// Sends a preview, in the form that each receiver negotiated: with metadata, or plain.
    pub(super) fn send_preview(&self, id: Option<&str>, plain: &Message, with_metadata: &Message) {
        self.deliver(id, |client| {
            if client.preview_metadata {
                with_metadata.clone()
            } else {
                plain.clone()
            }
        });
    }

    /// Sends to those that follow the log.
    pub(super) fn send_logs(&self, message: &Value) {
        let message = text(message);
        self.lock()
            .retain(|_, client| !client.logs || offer(client, message.clone()));
    }

    /// True if anyone follows the log.
    pub(super) fn has_log_followers(&self) -> bool {
        self.lock().values().any(|client| client.logs)
    }

    /// Makes this client follow the log, or no longer.
    pub(super) fn follow_logs(&self, id: &str, follow: bool) {
        if let Some(client) = self.lock().get_mut(id) {
            client.logs = follow;
        }
    }

    /// Notes that this client takes previews with metadata.
    pub(super) fn takes_preview_metadata(&self, id: &str) {
        if let Some(client) = self.lock().get_mut(id) {
            client.preview_metadata = true;
        }
    }

    /// Tells everyone how many prompts are queued or running.
    pub(super) fn broadcast_status(&self, remaining: usize) {
        self.broadcast(&json!({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": remaining}}}}));
    }

    fn deliver(&self, id: Option<&str>, message: impl Fn(&Client) -> Message) {
        let mut clients = self.lock();
        match id {
            Some(id) => {
                if clients
                    .get(id)
                    .is_some_and(|client| !offer(client, message(client)))
                {
                    clients.remove(id);
                }
            }
            None => clients.retain(|_, client| offer(client, message(client))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Client>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues a message. False if the client does not read and is now dropped.
fn offer(client: &Client, message: Message) -> bool {
    let weight = weight(&message);
    let before = client.waiting.fetch_add(weight, Ordering::Relaxed);
    let taken =
        (before == 0 || before + weight <= WAITING_BYTES) && client.out.try_send(message).is_ok();
    if !taken {
        client.dropped.cancel();
    }
    taken
}

fn text(message: &Value) -> Message {
    Message::text(message.to_string())
}

fn weight(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
        Message::Close(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_does_not_read_is_dropped_and_the_others_go_on() {
        let clients = Clients::default();
        let slow = clients.connect("slow", &json!("hello"));
        let mut quick = clients.connect("quick", &json!("hello"));
        for number in 0..WAITING_MESSAGES {
            clients.broadcast(&json!(number));
            while let Ok(message) = quick.messages.try_recv() {
                quick.taken(&message);
            }
        }
        assert!(slow.dropped.is_cancelled());
        assert!(!quick.dropped.is_cancelled());
        clients.send_to("slow", &json!("lost"));
        clients.send_to("quick", &json!("kept"));
        assert_eq!(
            quick.messages.try_recv().unwrap().to_text().unwrap(),
            "\"kept\""
        );
    }

    #[test]
    fn a_client_with_too_many_waiting_bytes_is_dropped() {
        let clients = Clients::default();
        let slow = clients.connect("slow", &json!(""));
        let megabyte = json!("x".repeat(1 << 20));
        for _ in 0..17 {
            clients.broadcast(&megabyte);
        }
        assert!(slow.dropped.is_cancelled());
    }

    #[test]
    fn the_older_of_two_connections_with_one_id_silences_the_newer_by_closing() {
        let clients = Clients::default();
        let _older = clients.connect("same", &json!(0));
        let mut newer = clients.connect("same", &json!(1));
        clients.send_to("same", &json!("to the newer"));
        assert_eq!(newer.messages.try_recv().unwrap().to_text().unwrap(), "1");
        assert_eq!(
            newer.messages.try_recv().unwrap().to_text().unwrap(),
            "\"to the newer\""
        );
        clients.disconnect("same");
        clients.send_to("same", &json!("nobody"));
        assert!(newer.messages.try_recv().is_err());
    }
}
