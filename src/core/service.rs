//! The six states that port 9090 tells, and what a service view holds.

use serde::{Deserialize, Serialize};

/// The state of a service as port 9090 tells it (comfyui-facts 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    /// Listed, but switched off (`fornax.enabled: false`).
    NotConfigured,
    /// Something it needs to run does not exist (`fornax.install`).
    NotInstalled,
    /// Not running: stopped by a person, not started, or given up.
    Stopped,
    /// On its way: waiting for a dependency, spawning, or starting up within its start-up limit.
    Starting,
    /// Running and failing its probe, or crashing.
    Unhealthy,
    /// Running and passing its probe; or, for a one-shot, completed.
    Healthy,
}

impl ServiceStatus {
    /// Every state, in the order of the contract.
    pub const ALL: [ServiceStatus; 6] = [
        ServiceStatus::NotConfigured,
        ServiceStatus::NotInstalled,
        ServiceStatus::Stopped,
        ServiceStatus::Starting,
        ServiceStatus::Unhealthy,
        ServiceStatus::Healthy,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceStatus::NotConfigured => "not_configured",
            ServiceStatus::NotInstalled => "not_installed",
            ServiceStatus::Stopped => "stopped",
            ServiceStatus::Starting => "starting",
            ServiceStatus::Unhealthy => "unhealthy",
            ServiceStatus::Healthy => "healthy",
        }
    }
}

/// A dependency of a service and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The name of the app depended on.
    pub name: String,
    /// `started`, `healthy` or `completed`: what is waited for.
    pub condition: super::spec::fornax::Condition,
    /// How that app stands now; `None` when no such app is known.
    pub status: Option<ServiceStatus>,
    /// The condition holds.
    pub met: bool,
}

/// What is told of a service besides the process figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// One of the six.
    pub status: ServiceStatus,
    /// Why, in one sentence.
    pub message: String,
    /// Since when it has had this status, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// A one-shot that ended with code 0: done, and not to be run again by itself.
    pub completed: bool,
}
