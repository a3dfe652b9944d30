//! Events for whoever listens on `pub.sock`: made only when somebody does, dropped for who is too slow.

use std::sync::Arc;
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
#[derive(Debug, Clone)]
pub struct Bus {
    sender: broadcast::Sender<BusEvent>,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(QUEUE),
        }
    }
}

impl Bus {
    /// Publishes what `payload` makes, which is not called when nobody listens.
    pub fn publish(&self, topic: &str, payload: impl FnOnce() -> String) {
        if self.sender.receiver_count() > 0 {
            // An error means that the last listener has just gone.
            let _ = self.sender.send(BusEvent {
                topic: topic.into(),
                payload: payload().into(),
            });
        }
    }

    /// A new listener, from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<BusEvent> {
        self.sender.subscribe()
    }
}
