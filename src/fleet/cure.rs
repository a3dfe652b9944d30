//! Applying a cure.

use crate::comfyui::client::Client;
use crate::core::monitor::cures::Cure;

/// Applies a mild cure; what was done, in words. A restart is the loop's.
pub(super) async fn apply(cure: Cure, client: &Client) -> String {
    match cure {
        Cure::Interrupt => {
            // By name, so that the next job is not hit.
            let running = client.queue().await.ok();
            let id = running.and_then(|queue| queue.running.into_iter().next());
            match client.interrupt(id.as_deref()).await {
                Ok(()) => match id {
                    Some(id) => format!("interrupted prompt {id}"),
                    None => "interrupted what runs".to_owned(),
                },
                Err(error) => format!("could not interrupt: {error}"),
            }
        }
        Cure::Free => match client.free(true, true).await {
            Ok(()) => "asked it to unload its models and free its memory".to_owned(),
            Err(error) => format!("could not ask it to free its memory: {error}"),
        },
        Cure::Restart => "is being restarted".to_owned(),
    }
}
