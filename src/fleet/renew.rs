//! One instance on its way to another build: no new jobs, the running one to its end, a restart, and healthy again.

use crate::comfyui::client::{Client, Limits};
use crate::core::exit::LastExit;
use crate::core::ids::{Generation, PmId};
use crate::core::service::ServiceStatus;
use crate::core::spec::app::DRAINING;
use crate::core::status::Status;
use crate::daemon::command::Command;
use crate::daemon::handle::Handle;
use crate::daemon::snapshot::InstanceView;
use serde_json::{Map, Value};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often an instance that is to be idle is asked, and how many answers in a row make it so: whoever gives jobs may have
/// looked just before it was told to give no more.
const ASKED: (Duration, u32) = (Duration::from_millis(200), 3);
/// How long an instance may take to come up: longer than its own limit, which ends it with a cause.
const UP_WITHIN: Duration = Duration::from_secs(20 * 60);

/// One instance, by its app's name: it may be given another id meanwhile.
pub(super) struct Renewal<'a> {
    pub handle: &'a Handle,
    pub name: &'a str,
}

impl Renewal<'_> {
    /// As it is now.
    pub fn view(&self) -> Result<Arc<InstanceView>, String> {
        let snapshot = self.handle.snapshot();
        let mut all = snapshot.instances.iter();
        let found = all.find(|view| &*view.spec.name == self.name && !view.retiring);
        found
            .cloned()
            .ok_or_else(|| format!("{} is gone", self.name))
    }

    /// To ask it something.
    pub fn client(&self) -> Result<Client, String> {
        let port = self.view()?.spec.fornax.port.unwrap_or(0);
        let limits = Limits {
            submit: Duration::from_secs(20),
            ..Limits::default()
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Client::with_limits(address, limits))
    }

    /// It takes no more jobs, or takes some again.
    pub async fn drain(&self, on: bool) -> Result<(), String> {
        let flag = Command::SetFlag {
            id: self.view()?.id,
            key: DRAINING,
            value: Value::from(on),
        };
        let told = self.handle.call(flag).await;
        told.map(drop).map_err(|error| error.to_string())
    }

    /// Waits until it has no job, at most for `limit`. One that is ill or down is not waited for: its jobs go nowhere.
    pub async fn idle(&self, limit: Duration, say: &mut impl FnMut(String)) -> Result<(), String> {
        let client = self.client()?;
        let until = Instant::now() + limit;
        let mut idle = 0;
        while idle < ASKED.1 {
            let view = self.view()?;
            if view.pid.is_none() || view.service.status != ServiceStatus::Healthy {
                return Ok(());
            }
            match client.remaining().await {
                Ok(0) => idle += 1,
                Ok(jobs) => {
                    idle = 0;
                    say(format!(
                        "{} has {jobs} jobs, which it ends first",
                        self.name
                    ));
                }
                // Its monitor finds out whether that means something.
                Err(_) => idle = 0,
            }
            if Instant::now() >= until && idle < ASKED.1 {
                return Err(format!(
                    "{} still has jobs after {} s",
                    self.name,
                    limit.as_secs()
                ));
            }
            tokio::time::sleep(ASKED.0).await;
        }
        Ok(())
    }

    /// Restarts it, or starts it.
    pub async fn restart(&self) -> Result<(PmId, Generation), String> {
        let view = self.view()?;
        let command = Command::Restart {
            id: view.id,
            env: Map::new(),
        };
        // Its answer comes when the restart has settled; the views tell the same, and what comes after.
        let begun = self.handle.begin(command).await;
        begun.map_err(|error| error.to_string())?;
        Ok((view.id, view.generation))
    }

    /// Waits until the run after `(id, generation)` is healthy; why it will not be.
    pub async fn healthy(
        &self,
        (id, before): (PmId, Generation),
        say: &mut impl FnMut(String),
    ) -> Result<(), String> {
        let mut snapshots = self.handle.snapshots.clone();
        let until = Instant::now() + UP_WITHIN;
        let mut first = None;
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let view = snapshot
                .get(id)
                .ok_or_else(|| format!("{} was deleted", self.name))?;
            if view.generation > before {
                let run = *first.get_or_insert(view.generation);
                match stands(view, run) {
                    Stands::Up => return Ok(()),
                    Stands::Down(why) => return Err(format!("{} {why}", self.name)),
                    Stands::Coming(message) => say(format!("{}: {message}", self.name)),
                }
            } else if view.status == Status::Stopped {
                return Err(format!("{} was stopped by somebody", self.name));
            }
            tokio::select! {
                changed = snapshots.changed() => {
                    changed.map_err(|_| "the daemon has ended".to_owned())?;
                }
                () = tokio::time::sleep_until(until) => {
                    return Err(format!("{} did not come up within {} s", self.name, UP_WITHIN.as_secs()));
                }
            }
        }
    }
}

/// How a new run stands.
enum Stands {
    Up,
    Coming(String),
    Down(String),
}

fn stands(view: &InstanceView, run: Generation) -> Stands {
    let ended = |exit: &LastExit| {
        let said = exit
            .stderr_tail
            .iter()
            .rev()
            .find(|line| !line.trim().is_empty());
        let said = said.map_or_else(String::new, |line| format!("; it said: {}", line.trim()));
        format!("has ended: {}{said}", exit.cause)
    };
    let message = || view.service.message.clone();
    if view.generation > run || matches!(view.status, Status::WaitingRestart | Status::Errored) {
        let last = view.last_exit.as_deref();
        return Stands::Down(last.map_or_else(|| format!("has ended: {}", message()), ended));
    }
    match (view.status, view.service.status) {
        (Status::Stopped | Status::Stopping, _) => {
            Stands::Down("was stopped by somebody".to_owned())
        }
        (_, ServiceStatus::Healthy) if view.pid.is_some() => Stands::Up,
        (_, ServiceStatus::Unhealthy) => Stands::Down(format!("is unhealthy: {}", message())),
        (_, ServiceStatus::NotInstalled) => {
            Stands::Down(format!("is not installed: {}", message()))
        }
        (_, ServiceStatus::NotConfigured) => Stands::Down("is switched off".to_owned()),
        (_, ServiceStatus::Stopped | ServiceStatus::Starting | ServiceStatus::Healthy) => {
            Stands::Coming(message())
        }
    }
}
