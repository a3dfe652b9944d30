//! What another daemon has left: read from the keeper's memory file and from the processes that live.

use super::super::run::Legacy;
use super::super::settings::Settings;
use super::super::state::{StateError, TableState};
use super::super::table::Table;
use super::super::telemetry;
use crate::adapters::keeper::{Inheritance, Keeper};
use crate::adapters::logs::Journal;
use crate::adapters::records::{self, RecordsError};
use crate::adapters::runner::MARKER;
use crate::adapters::tree::Roots;
use crate::core::ids::{Generation, PmId};
use crate::core::keeping::{self, Held, Key};
use crate::core::units::Millis;
use crate::sys::{clock, procfs};
use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the answer of a program begins that can go on with a table.
pub const CHECKED: &str = "fornax can go on";

/// How long a child may take from its birth to its exec, on a machine that is busy.
const BORN_WITHIN: Duration = Duration::from_millis(150);
/// How soon it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Why a table can't be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum LegacyError {
    /// Its file.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// What is in it.
    #[error(transparent)]
    State(#[from] StateError),
}

/// All that another daemon has left but its runs' descriptors; for the first of all daemons, a beginning.
pub struct Estate {
    /// What marks the processes of its runs.
    pub mark: Arc<str>,
    /// In which life it was.
    pub life: Option<u64>,
    /// Its table.
    pub legacy: Option<Legacy>,
    /// Its listeners of HTTP.
    pub http: Vec<OwnedFd>,
}

/// The journal of the logs, and whether another daemon has numbered its lines. Without one, which is told, a kill may cost
/// lines.
pub fn journal(inherited: &mut Inheritance, keeper: &Keeper) -> (Option<Journal>, bool) {
    let left = inherited.remove(&Key::own(Held::Logs)).map(Journal::adopt);
    let (journal, numbered) = match left {
        Some(Ok(journal)) => return (Some(journal), true),
        Some(Err(error)) => {
            tracing::error!(%error, "the log journal cannot be gone on with; log lines may be lost");
            (Journal::create(), false)
        }
        None => (Journal::create(), false),
    };
    let journal = journal.and_then(|journal| {
        keeper.hold(&[(Key::own(Held::Logs), journal.fd())])?;
        Ok(journal)
    });
    let journal = journal.inspect_err(
        |error| tracing::warn!(%error, "there is no log journal: a kill of the daemon may cost log lines"),
    );
    (journal.ok(), numbered)
}

/// Takes it out of what was inherited. What can't be read is told.
pub fn take(inherited: &mut Inheritance, settings: &Settings, roots: &Roots) -> Estate {
    let mut http: Vec<(Key, OwnedFd)> = inherited
        .extract_if(|key, _| key.held == Held::Http)
        .collect();
    http.sort_by_key(|(key, _)| *key);
    let state = inherited
        .remove(&Key::own(Held::Table))
        .and_then(|table| read(table).map_err(lost).ok());
    let mark = state.as_ref().and_then(|state| state.daemon.as_deref());
    Estate {
        mark: mark.map_or_else(
            || uuid::Uuid::new_v4().simple().to_string().into(),
            Into::into,
        ),
        life: state.as_ref().and_then(|state| state.life),
        legacy: state.and_then(|state| restore(state, settings, roots).map_err(lost).ok()),
        http: http.into_iter().map(|(_, listener)| listener).collect(),
    }
}

/// The table in the memory file, whatever version has written it.
fn read(table: OwnedFd) -> Result<TableState, LegacyError> {
    let entries = records::read(table)?;
    Ok(TableState::from_entries(entries.iter().map(Vec::as_slice))?)
}

/// The same, ready to go on with.
fn restore(state: TableState, settings: &Settings, roots: &Roots) -> Result<Legacy, LegacyError> {
    let now = clock::monotonic_ms();
    let epoch_ms = state
        .epoch_ms
        .unwrap_or_else(|| now.saturating_sub(state.mono.0));
    let found = state
        .daemon
        .as_deref()
        .map(|daemon| running(daemon, roots))
        .unwrap_or_default();
    let table = Table::restore(state, settings.defaults, telemetry::wall_ms())?;
    Ok(Legacy {
        table,
        epoch_ms,
        mono: Millis(now.saturating_sub(epoch_ms)),
        found,
    })
}

/// Root processes that this daemon's runs have, by the mark in their environment: a root leads its own session, what it has
/// started and left behind does not. One that the daemon had made when it was killed, and that still has the daemon's own
/// environment, is waited for.
fn running(daemon: &str, roots: &Roots) -> HashMap<(PmId, Generation), u32> {
    let until = Instant::now() + BORN_WITHIN;
    loop {
        let (found, unborn) = look(daemon, roots);
        if !unborn || Instant::now() >= until {
            return found;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Those that are found now, and whether there is one before its exec.
fn look(daemon: &str, roots: &Roots) -> (HashMap<(PmId, Generation), u32>, bool) {
    let own = std::process::id();
    // The kernel may leave one out while another one ends (proc(5)): asked twice.
    let children: BTreeSet<u32> = [roots.children(), roots.children()]
        .into_iter()
        .flatten()
        .flatten()
        .filter(|pid| *pid != own)
        .collect();
    let leads = |pid: u32| {
        procfs::stat(pid).is_some_and(|process| process.session == pid && !process.is_dead())
    };
    let run = |marker: &str| {
        let (id, generation) = marker
            .strip_prefix(daemon)?
            .strip_prefix(':')?
            .split_once(':')?;
        Some((PmId(id.parse().ok()?), Generation(generation.parse().ok()?)))
    };
    let (mut found, mut unborn) = (HashMap::new(), false);
    for pid in children {
        match procfs::environ_value(pid, MARKER) {
            Some(marker) => {
                if let Some(run) = run(&marker).filter(|_| leads(pid)) {
                    found.insert(run, pid);
                }
            }
            None => unborn |= procfs::environ_value(pid, keeping::SOCKET_VARIABLE).is_some(),
        }
    }
    (found, unborn)
}

/// Whether a daemon of this program could go on with the table in the memory file; what it would go on with.
pub fn check(table: OwnedFd) -> Result<String, String> {
    let state = read(table).map_err(|error| error.to_string())?;
    let instances = state.instances.len();
    Table::restore(state, Settings::load(None, |_| None).defaults, 0)
        .map_err(|error| error.to_string())?;
    Ok(format!("{CHECKED}: {instances} instances"))
}

fn lost(error: LegacyError) -> LegacyError {
    tracing::error!(%error, "what the former daemon knew cannot be read: its apps live on unsupervised; see `ps` for FORNAX_INSTANCE");
    error
}
