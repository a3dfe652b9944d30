//! The canary job: one pixel, to prove that the thread that runs prompts is alive (comfyui-facts 4.9).

use super::book::now_ms;
use super::view::CanaryReport;
use crate::comfyui::client::{Client, Outcome, Submission, Submitted};
use crate::core::monitor::facts::Event;
use serde_json::json;
use serde_json::value::to_raw_value;
use std::time::Duration;
use tokio::time::Instant;

/// How long it may take. It takes 8 ms on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);
/// The pause between two looks at its history, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// What came of it.
pub(super) struct Ran {
    pub event: Event,
    pub report: CanaryReport,
    /// It ran alone.
    pub alone: bool,
}

/// Runs it, if nothing else runs, and takes it out of the history again.
pub(super) async fn run(client: &Client) -> Ran {
    let begun = Instant::now();
    let id = uuid::Uuid::new_v4().to_string();
    let outcome = tokio::time::timeout(LIMIT, attempt(client, &id)).await;
    let (event, why) = match outcome {
        Ok(Ok(())) => (Event::CanaryPassed, None),
        Ok(Err(Failed::Void(why))) => (Event::CanaryVoid, Some(why)),
        Ok(Err(Failed::Wrong(why))) => (Event::CanaryFailed(why.clone()), Some(why)),
        Err(_) => lost(client, &id).await,
    };
    let passed = event == Event::CanaryPassed;
    if passed || matches!(event, Event::CanaryFailed(_)) {
        // It is nobody's business; a history that keeps it costs a few bytes.
        let _ = client.forget(&[&id]).await;
    }
    Ran {
        alone: passed,
        event,
        report: CanaryReport {
            at_ms: now_ms(),
            took_ms: passed.then(|| begun.elapsed().as_millis() as u64),
            why,
        },
    }
}

enum Failed {
    /// Nothing is proven.
    Void(String),
    /// It ran, and failed.
    Wrong(String),
}

async fn attempt(client: &Client, id: &str) -> Result<(), Failed> {
    let void = |error: crate::comfyui::client::ClientError| Failed::Void(error.to_string());
    if client.remaining().await.map_err(void)? > 0 {
        return Err(Failed::Void("other jobs run".to_owned()));
    }
    // A new colour each time: ComfyUI does not execute what it has executed before.
    let colour = uuid::Uuid::new_v4().as_u128() as u32 & 0xff_ffff;
    let graph = json!({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "batch_size": 1, "color": colour}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    });
    let prompt = to_raw_value(&graph).map_err(|error| Failed::Void(error.to_string()))?;
    let submission = Submission {
        prompt: &prompt,
        prompt_id: id,
        client_id: id,
        front: false,
        extra_data: None,
    };
    match client.submit(&submission).await.map_err(void)? {
        Submitted::Accepted { .. } => {}
        Submitted::Partial { .. } | Submitted::Refused(_) => {
            return Err(Failed::Void(
                "this ComfyUI lacks EmptyImage or PreviewImage".to_owned(),
            ));
        }
    }
    let mut pause = PAUSE.0;
    loop {
        tokio::time::sleep(pause).await;
        // While it does not answer, there is nothing to be learnt; the limit ends it.
        if let Ok(Some(entry)) = client.history(id).await {
            return match entry.outcome() {
                Outcome::Success => Ok(()),
                Outcome::Interrupted => Err(Failed::Void("it was interrupted".to_owned())),
                Outcome::Failed {
                    node_type,
                    exception_type,
                    exception_message,
                    ..
                } => Err(Failed::Wrong(format!(
                    "{node_type}: {exception_type}: {exception_message}"
                ))),
            };
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// It has not ended: whether that is its own doing, or somebody's who was before it.
async fn lost(client: &Client, id: &str) -> (Event, Option<String>) {
    let void = |why: &str| (Event::CanaryVoid, Some(why.to_owned()));
    let Ok(queue) = client.queue().await else {
        return void("it did not answer any more");
    };
    if !queue.holds(id) {
        return void("it was taken out of the queue");
    }
    // It must not run later, when it would only be in the way.
    let _ = client.delete_pending(&[id]).await;
    if queue.running.iter().any(|running| running != id) {
        return void("another job came before it");
    }
    let why = format!("it did not end within {} s", LIMIT.as_secs());
    (Event::CanaryLost, Some(why))
}
