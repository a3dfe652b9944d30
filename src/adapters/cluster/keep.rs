//! What of a listener outlives the daemon: its socket, and in a memory file what it is, both held by the keeper.

use super::legacy::ListenerState;
use crate::adapters::keeper::{Inheritance, Keeper};
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{Held, Key};
use crate::sys::memory;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest description read, in bytes: far more than a listener with all workers that an app may have.
const LONGEST: u64 = 1 << 20;

fn socket_key(number: u64) -> Key {
    Key::run(Held::Listener, PmId(0), Generation(number))
}

fn description_key(number: u64) -> Key {
    Key::run(Held::Listener, PmId(1), Generation(number))
}

/// Has a new listener held.
pub(super) fn hold(keeper: &Keeper, number: u64, socket: BorrowedFd<'_>) {
    if let Err(error) = keeper.hold(&[(socket_key(number), socket)]) {
        tracing::error!(%error, "the keeper does not hold a listener; it would not outlive this daemon");
    }
}

/// Has it held what has become of it.
pub(super) fn describe(keeper: &Keeper, state: &ListenerState) {
    let written = memory::file(c"fornax-listener").and_then(|mut file| {
        file.write_all(&serde_json::to_vec(state)?)?;
        keeper.hold(&[(description_key(state.number), file.as_fd())])
    });
    if let Err(error) = written {
        tracing::error!(listener = %state.key, %error, "the keeper does not know a listener");
    }
}

/// It is closed.
pub(super) fn release(keeper: &Keeper, number: u64) {
    keeper.release(description_key(number));
    keeper.release(socket_key(number));
}

/// All that were held.
pub(super) fn inherited(all: &mut Inheritance) -> Vec<(ListenerState, OwnedFd)> {
    let described: Vec<(Key, OwnedFd)> = all
        .extract_if(|key, _| key.held == Held::Listener && key.id == PmId(1))
        .collect();
    let mut found = Vec::new();
    for (key, description) in described {
        match read(description) {
            Ok(state) => {
                if let Some(socket) = all.remove(&socket_key(key.generation.0)) {
                    found.push((state, socket));
                }
            }
            Err(error) => {
                tracing::error!(%error, "what the keeper knows of a listener cannot be read");
            }
        }
    }
    found
}

fn read(description: OwnedFd) -> io::Result<ListenerState> {
    let (mut file, mut text) = (File::from(description), Vec::new());
    // The copies of a descriptor share its place in the file.
    file.rewind()?;
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
