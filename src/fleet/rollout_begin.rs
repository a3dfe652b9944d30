//! How a rollout begins: because somebody asks for it, or because a daemon before this one was in the middle of one.

use super::book::{Book, now_ms};
use super::rollout::{Rolling, workspace_of};
use super::rollout_file::{Place, RollError, Wanted};
use crate::core::rollout::Rollout;
use crate::daemon::handle::Handle;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often, and how many times, the installer's lock is asked for by a rollout that is to go on: another may be at work.
const LOCKED: (Duration, u32) = (Duration::from_secs(2), 900);

/// Checks what is asked for, answers, and rolls.
pub(super) async fn begun(
    handle: Handle,
    book: Book,
    wanted: Wanted,
    reply: oneshot::Sender<Result<Rollout, RollError>>,
) {
    let begin = move || {
        let nobody = || RollError::Nobody(wanted.workspace.clone());
        let place = Place::new(&wanted.workspace).ok_or_else(nobody)?;
        let snapshot = handle.snapshot();
        let mut roots = snapshot
            .instances
            .iter()
            .filter_map(|view| workspace_of(view));
        if !roots.any(|root| place.is(&root)) {
            return Err(nobody());
        }
        let state = place.planned(&wanted, now_ms())?;
        let rolling = Rolling::begin(handle, book, place.clone(), state.clone());
        let rolling = rolling.map_err(RollError::Refused)?;
        let written = place.write(&state);
        written
            .map_err(|error| RollError::Refused(format!("its state cannot be written: {error}")))?;
        Ok((rolling, state))
    };
    let begun = tokio::task::spawn_blocking(begin).await;
    // Whoever asked may have gone; what was asked for is done all the same.
    match begun {
        Ok(Ok((rolling, state))) => {
            let _ = reply.send(Ok(state));
            rolling.run().await;
        }
        Ok(Err(error)) => drop(reply.send(Err(error))),
        Err(_) => drop(reply.send(Err(RollError::Later))),
    }
}

/// Goes on with what a daemon before this one was at, in this workspace.
pub(super) async fn resume(handle: Handle, book: Book, root: PathBuf) {
    let read = move || {
        let place = Place::new(&root)?;
        let state = place.read()?;
        Some((place, state))
    };
    let Ok(Some((place, state))) = tokio::task::spawn_blocking(read).await else {
        return;
    };
    book.rollout(&state);
    if state.phase.is_over() {
        return;
    }
    for _ in 0..LOCKED.1 {
        let (handle, book) = (handle.clone(), book.clone());
        let (place, state) = (place.clone(), state.clone());
        let begin = move || {
            let can = place.can_go_on(&state);
            Rolling::begin(handle, book, place, state).map(|rolling| (rolling, can))
        };
        match tokio::task::spawn_blocking(begin).await {
            Ok(Ok((rolling, true))) => {
                tracing::info!("goes on with the rollout that a daemon before this one has begun");
                return rolling.run().await;
            }
            Ok(Ok((rolling, false))) => return rolling.abandon().await,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(LOCKED.0).await,
        }
    }
}
