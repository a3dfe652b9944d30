//! What all requests share, and the table of routes.

use super::problem::Problem;
use super::{answer, classic, comfyui, gate::Access, health, jobs, logs, metrics, rollout, status};
use crate::daemon::handle::Handle;
use crate::fleet::Fleet;
use crate::jobs::Jobs;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::routing::{get, post};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Logs read back from disk at once; further requests wait a while and are then refused.
const READERS: usize = 2;
/// Jobs read at once; each may hold its JSON in memory.
const INTAKE: usize = 4;
/// Followers at once; further ones are refused, so that connections are left for everything else.
const FOLLOWERS: usize = 64;

/// What the daemon's environment says about HTTP.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// `FORNAX_HTTP_HOSTS`: further names, separated by commas, that may be asked for in the `Host` header.
    pub hosts: Vec<String>,
    /// `FORNAX_HTTP_TOKEN`: the token wanted of changes, and on an address that other machines reach; by default one is made and
    /// kept in `http.token` in the home folder.
    pub token: Option<String>,
    /// `MACHINE_ID`: how this machine calls itself; by default its host name.
    pub machine_id: Option<String>,
}

impl HttpOptions {
    /// From this process's environment. Empty variables count as not set.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let hosts = text("FORNAX_HTTP_HOSTS").unwrap_or_default();
        Self {
            hosts: hosts
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
            token: text("FORNAX_HTTP_TOKEN"),
            machine_id: text("MACHINE_ID"),
        }
    }
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct App {
    /// The daemon.
    pub handle: Handle,
    /// What runs ComfyUI.
    pub fleet: Fleet,
    /// Work for ComfyUI.
    pub jobs: Jobs,
    /// How this machine calls itself.
    pub machine_id: String,
    /// It runs in a container.
    pub container: bool,
    /// Jobs that are being read.
    pub intake: Semaphore,
    /// Readers of logs.
    pub readers: Arc<Semaphore>,
    /// Followers of logs.
    pub followers: Arc<Semaphore>,
}

impl App {
    /// Looks at the machine once.
    pub fn new(handle: Handle, fleet: Fleet, jobs: Jobs, options: &HttpOptions) -> Self {
        let host = || {
            nix::unistd::gethostname().map_or_else(
                |_| "unknown".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            )
        };
        let exists = |path: &str| std::path::Path::new(path).exists();
        Self {
            handle,
            fleet,
            jobs,
            intake: Semaphore::new(INTAKE),
            machine_id: options.machine_id.clone().unwrap_or_else(host),
            container: exists("/.dockerenv")
                || exists("/run/.containerenv")
                || std::env::var_os("container").is_some()
                || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            readers: Arc::new(Semaphore::new(READERS)),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    /// How long the daemon has run, in milliseconds.
    pub fn uptime_ms(&self) -> u64 {
        answer::now_ms().saturating_sub(self.handle.info.started_at_ms)
    }
}

/// Who asks; goes with each request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// What may be seen.
    pub access: Access,
    /// Cancelled when the listener that the request came by is closed.
    pub closing: CancellationToken,
}

/// The routes, as [`super::problem::ROUTES`] lists them.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/services", get(status::services))
        .route("/services/{name}/health", get(health::service))
        .route("/services/{name}/logs", get(logs::of_service))
        .route(
            "/services/{name}/drain",
            post(jobs::drain).delete(jobs::undrain),
        )
        // How large a body may be is the gate's business.
        .route(
            "/jobs",
            get(jobs::list)
                .post(jobs::submit)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/jobs/{id}", get(jobs::one).delete(jobs::cancel))
        .route("/jobs/{id}/events", get(jobs::of_job))
        .route("/jobs/{id}/outputs/{name}", get(jobs::output))
        .route("/events", get(jobs::of_machine))
        .route("/logs", get(logs::of_all))
        .route("/health/comfyui", get(comfyui::summary))
        .route("/health/comfyui/installation", get(comfyui::installed))
        .route("/health/comfyui/instances", get(comfyui::instances))
        .route("/health/comfyui/instances/{gpu}", get(comfyui::one))
        .route("/health/comfyui/models", get(comfyui::models))
        .route("/comfyui/rollout", get(rollout::state).post(rollout::begin))
        .route("/pm2/list", get(classic::list))
        .route("/pm2/logs", get(classic::service_logs))
        .route("/comfyui/logs", get(classic::comfyui_logs))
        .route("/restart/service", post(classic::restart_service))
        .route("/restart/machine", post(classic::restart_machine))
        .route(
            "/refresh-status",
            get(classic::refresh).post(classic::refresh),
        )
        .route("/status", get(status::status))
        .route("/version", get(status::version))
        .route("/metrics", get(metrics::metrics))
        .method_not_allowed_fallback(|request: Request| async move {
            Problem::Method {
                method: answer::shown(request.method().as_str()),
                nowhere: false,
            }
        })
        .fallback(|request: Request| async move {
            Problem::Route {
                path: answer::shown(request.uri().path()),
            }
        })
        .with_state(app)
}
