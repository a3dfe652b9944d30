//! Events for whoever listens on `pub.sock`: made only when somebody does, dropped for who is too slow.

use std::sync::{Arc, OnceLock};
use tokio::sync::broadcast;

/// Events kept for a slow listener; the oldest are dropped and counted.
const QUEUE: usize = 1024;

/// One event as it goes over the wire.
#[derive(Debug, Clone)]
pub struct BusEvent {
    /// PM2's topic, `process:event` for example.
    pub topic: Arc<str>,
    /// Its payload as JSON.
    pub payload: Arc<str>,
}

/// The sending side. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Bus {
    /// Made for the first listener: the queue is 57 kB, and most daemons never have one.
    sender: Arc<OnceLock<broadcast::Sender<BusEvent>>>,
}

impl Bus {
    /// Publishes what `payload` makes, which is not called when nobody listens.
    pub fn publish(&self, topic: &str, payload: impl FnOnce() -> String) {
        let sender = self.sender.get();
        if let Some(sender) = sender.filter(|sender| sender.receiver_count() > 0) {
            // An error means that the last listener has just gone.
            let _ = sender.send(BusEvent {
                topic: topic.into(),
                payload: payload().into(),
            });
        }
    }

    /// A new listener, from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<BusEvent> {
        self.sender
            .get_or_init(|| broadcast::Sender::new(QUEUE))
            .subscribe()
    }
}
