//! Services by name: one per instance. An app of several instances is told one by one as `NAME:PM_ID`, and found as a whole
//! by its own name.

use super::answer::shown;
use super::nearest::nearest;
use super::problem::Problem;
use crate::core::service::ServiceStatus;
use crate::daemon::snapshot::{InstanceView, Snapshot};
use std::collections::HashMap;
use std::sync::Arc;

/// At most so many names are told to whoever asked for a wrong one.
const NAMES: usize = 100;

/// One instance under its name on this port.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// Its app's name, or `NAME:PM_ID` where the app has several instances. No two services have the same.
    pub name: String,
    /// The instance.
    pub view: Arc<InstanceView>,
}

impl Service {
    /// Whether the machine's health depends on it.
    pub fn counts(&self) -> bool {
        self.view.spec.fornax.enabled && self.status() != ServiceStatus::NotConfigured
    }

    /// Its state.
    pub fn status(&self) -> ServiceStatus {
        self.view.service.status
    }

    /// Passing its probe, or completed.
    pub fn is_healthy(&self) -> bool {
        self.status() == ServiceStatus::Healthy
    }
}

/// What was asked for by name.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The name to answer with.
    pub name: String,
    /// The app that was named as a whole; `None`: one instance was.
    pub app: Option<Arc<str>>,
    /// Its instances, one or more.
    pub services: Vec<Service>,
}

/// All services, by ascending id.
pub(super) fn list(snapshot: &Snapshot) -> Vec<Service> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for view in &snapshot.instances {
        *counts.entry(&view.spec.name).or_default() += 1;
    }
    let name = |view: &InstanceView| {
        let app = &*view.spec.name;
        if counts.get(app) == Some(&1) {
            return app.to_owned();
        }
        let mut name = format!("{app}:{}", view.id);
        // An app may be called like that itself.
        while counts.contains_key(name.as_str()) {
            name.push_str(&format!(":{}", view.id));
        }
        name
    };
    let service = |view: &Arc<InstanceView>| Service {
        name: name(view),
        view: Arc::clone(view),
    };
    snapshot.instances.iter().map(service).collect()
}

/// The services of an app's name, of a service's name, or of a `pm_id`, in this order.
pub(super) fn find(snapshot: &Snapshot, wanted: &str) -> Result<Found, Problem> {
    let all = list(snapshot);
    let of_app: Vec<Service> = all
        .iter()
        .filter(|service| &*service.view.spec.name == wanted)
        .cloned()
        .collect();
    if let Some(first) = of_app.first() {
        return Ok(Found {
            name: wanted.to_owned(),
            app: Some(Arc::clone(&first.view.spec.name)),
            services: of_app,
        });
    }
    let id = wanted.parse::<u32>().ok();
    let one = all
        .iter()
        .find(|service| service.name == wanted)
        .or_else(|| all.iter().find(|service| Some(service.view.id.0) == id));
    match one {
        Some(service) => Ok(Found {
            name: service.name.clone(),
            app: None,
            services: vec![service.clone()],
        }),
        None => {
            let known: Vec<String> = all.into_iter().map(|service| service.name).collect();
            Err(Problem::Service {
                name: shown(wanted),
                nearest: nearest(wanted, known.iter().map(String::as_str)).map(str::to_owned),
                known: known.into_iter().take(NAMES).collect(),
            })
        }
    }
}

impl Found {
    /// The instance in the worst state; those that don't count matter only where none does.
    pub fn worst(&self) -> Option<&Service> {
        let worst = |counting: bool| {
            let matter = self
                .services
                .iter()
                .filter(|service| !counting || service.counts());
            matter.min_by_key(|service| goodness(service.status()))
        };
        worst(true).or_else(|| worst(false))
    }
}

/// The better the higher.
fn goodness(status: ServiceStatus) -> u8 {
    match status {
        ServiceStatus::NotConfigured => 0,
        ServiceStatus::NotInstalled => 1,
        ServiceStatus::Stopped => 2,
        ServiceStatus::Unhealthy => 3,
        ServiceStatus::Starting => 4,
        ServiceStatus::Healthy => 5,
    }
}
