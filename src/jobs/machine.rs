//! The ComfyUIs of this machine as the engine sees them, made from what the daemon publishes.

use super::link::Link;
use crate::comfyui::client::Client;
use crate::core::ids::{Generation, PmId};
use crate::core::placement::Candidate;
use crate::core::service::ServiceStatus;
use crate::core::status::Status;
use crate::daemon::snapshot::{InstanceView, Snapshot};
use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The type of services that take jobs.
const KIND: &str = "comfyui";
/// While its jobs take less than this, an instance is given more of them: it would be done with what it has before the next one
/// can come, and what it has is over before anybody could want it elsewhere.
const QUICK: Duration = Duration::from_millis(100);
/// So many times as many.
const MORE: u32 = 3;
/// Models remembered of one run; it cannot be asked which are loaded, so the latest ones count.
const MODELS: usize = 32;

/// Which run: never the same twice, also over daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunId {
    pub generation: Generation,
    pub pid: u32,
}

/// One ComfyUI that runs. Owner: the engine.
#[derive(Debug)]
pub(super) struct Machine {
    pub id: PmId,
    pub name: String,
    pub run: RunId,
    pub link: Link,
    pub healthy: bool,
    pub draining: bool,
    /// It is being stopped, or restarted, by somebody.
    pub stopping: bool,
    /// Prompts that we have given it and that have not ended.
    pub prompts: BTreeSet<String>,
    /// Of these, those that it has said to have ended: what became of them is being asked, and they hold up nothing there.
    ended: BTreeSet<String>,
    /// When it began with what it executes, and how long one takes lately.
    began: Option<Instant>,
    takes: Option<Duration>,
    /// What its websocket told last: prompts that wait or run, ours or not.
    pub remaining: u64,
    pub free_vram: u64,
    pub models: VecDeque<String>,
    pub last_used: u64,
    /// Its websocket is open.
    pub open: bool,
    pub since: Instant,
    pub asked_stats: Option<Instant>,
    /// Its run is over, since then; whether somebody stopped it. What it sent before may still be on its way to us.
    pub gone: Option<(Instant, bool)>,
}

/// What a view says of a ComfyUI that runs; `None` for anything else.
pub(super) struct Seen {
    pub id: PmId,
    pub name: String,
    pub run: RunId,
    pub address: SocketAddr,
    pub healthy: bool,
    pub stopping: bool,
    pub draining: bool,
    pub output: Option<PathBuf>,
}

impl Seen {
    fn of(view: &InstanceView, name: String) -> Option<Self> {
        let fornax = &view.spec.fornax;
        if fornax.kind.as_deref() != Some(KIND) || view.retiring {
            return None;
        }
        let port = fornax.port?;
        Some(Self {
            id: view.id,
            name,
            run: RunId {
                generation: view.generation,
                pid: view.pid?,
            },
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            healthy: view.service.status == ServiceStatus::Healthy,
            stopping: view.status != Status::Online,
            draining: view.spec.draining,
            output: output(&view.spec.args, &view.spec.cwd),
        })
    }
}

/// All that run; a name is that of the app, with the `pm_id` where it has several instances.
pub(super) fn seen(snapshot: &Snapshot) -> Vec<Seen> {
    let instances = &snapshot.instances;
    let several = |view: &InstanceView| {
        let same = |other: &&Arc<InstanceView>| other.spec.name == view.spec.name;
        instances.iter().filter(same).count() > 1
    };
    let name = |view: &InstanceView| {
        let app = &view.spec.name;
        if several(view) {
            format!("{app}:{}", view.id)
        } else {
            app.to_string()
        }
    };
    instances
        .iter()
        .filter_map(|view| Seen::of(view, name(view)))
        .collect()
}

/// Whether somebody has stopped it, or means to, so that its end is no crash.
pub(super) fn is_stopped(snapshot: &Snapshot, id: PmId) -> bool {
    snapshot
        .get(id)
        .is_none_or(|view| matches!(view.status, Status::Stopping | Status::Stopped))
}

/// Its folder of outputs, from its command line.
fn output(args: &[String], cwd: &str) -> Option<PathBuf> {
    const FLAG: &str = "--output-directory";
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == FLAG {
            return words.next().map(|path| Path::new(cwd).join(path));
        }
        if let Some(path) = word
            .strip_prefix(FLAG)
            .and_then(|rest| rest.strip_prefix('='))
        {
            return Some(Path::new(cwd).join(path));
        }
    }
    None
}

impl Machine {
    /// A run that has just been seen.
    pub fn new(seen: Seen, serial: u64, over: CancellationToken) -> Self {
        Self {
            id: seen.id,
            name: seen.name,
            run: seen.run,
            link: Link {
                serial,
                client: Arc::new(Client::new(seen.address)),
                client_id: uuid::Uuid::new_v4().to_string().into(),
                output: seen.output,
                over,
            },
            healthy: seen.healthy,
            draining: seen.draining,
            stopping: seen.stopping,
            prompts: BTreeSet::new(),
            ended: BTreeSet::new(),
            began: None,
            takes: None,
            remaining: 0,
            free_vram: 0,
            models: VecDeque::new(),
            last_used: 0,
            open: false,
            since: Instant::now(),
            asked_stats: None,
            gone: None,
        }
    }

    /// It may be given something.
    pub fn is_placeable(&self) -> bool {
        let heard = self.open || self.since.elapsed() >= super::settings::SOCKET_WITHIN;
        self.healthy && !self.stopping && heard && self.gone.is_none()
    }

    /// Prompts that wait or run there.
    pub fn depth(&self) -> u32 {
        let ours = (self.prompts.len() - self.ended.len()) as u64;
        u32::try_from(self.remaining.max(ours)).unwrap_or(u32::MAX)
    }

    /// So many prompts it may have, where one of usual length may have `depth`.
    pub fn most(&self, depth: u32) -> u32 {
        let quick = self.takes.is_some_and(|takes| takes < QUICK);
        if quick {
            depth.saturating_mul(MORE)
        } else {
            depth
        }
    }

    /// It says that it has begun with a prompt.
    pub fn has_begun(&mut self) {
        self.began = Some(Instant::now());
    }

    /// It says that a prompt has ended: the next one can be given to it, before anything else is known of this one.
    pub fn has_ended(&mut self, prompt_id: &str) {
        if !self.prompts.contains(prompt_id) {
            return;
        }
        self.ended.insert(prompt_id.to_owned());
        if let Some(took) = self.began.take().map(|began| began.elapsed()) {
            self.takes = Some(self.takes.map_or(took, |before| (before * 3 + took) / 4));
        }
    }

    /// It has nothing to do with a prompt any more.
    pub fn forgets(&mut self, prompt_id: &str) {
        self.prompts.remove(prompt_id);
        self.ended.remove(prompt_id);
    }

    /// All that it had.
    pub fn forgets_all(&mut self) -> BTreeSet<String> {
        self.ended.clear();
        std::mem::take(&mut self.prompts)
    }

    /// For placement of a job that names these models.
    pub fn candidate<'a>(&'a self, models: &[String], depth: u32) -> Candidate<'a> {
        let loaded = models.iter().filter(|model| self.models.contains(model));
        Candidate {
            name: &self.name,
            healthy: self.is_placeable(),
            draining: self.draining,
            depth: self.depth(),
            most: self.most(depth),
            loaded: u32::try_from(loaded.count()).unwrap_or(u32::MAX),
            free_vram: self.free_vram,
            last_used: self.last_used,
        }
    }

    /// It is given a job that names these models.
    pub fn takes(&mut self, prompt_id: &str, models: &[String], turn: u64) {
        self.prompts.insert(prompt_id.to_owned());
        self.last_used = turn;
        for model in models {
            self.models.retain(|known| known != model);
            self.models.push_back(model.clone());
        }
        while self.models.len() > MODELS {
            self.models.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_outputs_is_read_from_the_command_line() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = |text| output(&args(text), "/srv");
        assert_eq!(
            found("main.py --output-directory /data/out --port 1"),
            Some("/data/out".into())
        );
        assert_eq!(
            found("main.py --output-directory=out"),
            Some("/srv/out".into())
        );
        assert_eq!(found("main.py --output-directory"), None);
        assert_eq!(found("main.py --port 1"), None);
    }
}
