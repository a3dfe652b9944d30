//! `/health/comfyui` and what is below it: the ComfyUI instances, from the fleet's reports and the loop's views. A request
//! causes nothing.

use super::app::App;
use super::problem::Problem;
use super::services::{self, Service};
use super::{answer, installation as files, view};
use crate::core::monitor::cause::Cause;
use crate::core::service::ServiceStatus;
use crate::core::spec::fornax::Condition;
use crate::fleet::{Incident, Report, View};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The `fornax.type` of an instance.
const KIND: &str = "comfyui";

/// The instances, with their reports.
struct Instances {
    all: Vec<(Service, Option<Arc<Report>>)>,
    everything: Vec<Service>,
}

impl Instances {
    fn of(app: &App) -> Self {
        let everything = services::list(&app.handle.snapshot());
        let fleet: Arc<View> = app.fleet.view();
        let is_one = |service: &&Service| service.view.spec.fornax.kind.as_deref() == Some(KIND);
        let all = everything
            .iter()
            .filter(is_one)
            .map(|service| {
                let report = fleet.instances.get(&service.view.id).cloned();
                (service.clone(), report)
            })
            .collect();
        Self { all, everything }
    }

    fn count(&self, status: ServiceStatus) -> usize {
        let is = |(service, _): &&(Service, _)| service.status() == status;
        self.all.iter().filter(is).count()
    }

    fn healthy(&self) -> bool {
        let mut counting = self.all.iter().filter(|(service, _)| service.counts());
        counting.all(|(service, _)| service.is_healthy())
    }

    /// The state of all: that of the worst of those that count.
    fn status(&self) -> ServiceStatus {
        let order = [
            ServiceStatus::NotInstalled,
            ServiceStatus::Unhealthy,
            ServiceStatus::Stopped,
            ServiceStatus::Starting,
            ServiceStatus::Healthy,
        ];
        let has = |status: &ServiceStatus| {
            let mut all = self.all.iter();
            all.any(|(service, _)| service.counts() && service.status() == *status)
        };
        let worst = order.into_iter().find(has);
        worst.unwrap_or(ServiceStatus::NotConfigured)
    }

    fn message(&self) -> String {
        if self.all.is_empty() {
            return "no ComfyUI instance is registered; `fornax up` makes one for each GPU"
                .to_owned();
        }
        let bad: Vec<String> = self
            .all
            .iter()
            .filter(|(service, _)| service.counts() && !service.is_healthy())
            .map(|(service, _)| {
                let (status, why) = (service.status().as_str(), &service.view.service.message);
                format!("{} is {status}: {why}", service.name)
            })
            .take(10)
            .collect();
        match bad.is_empty() {
            true => format!("every instance is healthy ({})", self.all.len()),
            false => bad.join("; "),
        }
    }

    fn import_failures(&self) -> Vec<Value> {
        let mut told: Vec<(&str, &str)> = Vec::new();
        for report in self.all.iter().filter_map(|(_, report)| report.as_ref()) {
            for import in &report.import_failures {
                if !told.iter().any(|(name, _)| *name == import.name) {
                    told.push((&import.name, &import.why));
                }
            }
        }
        let told = told.into_iter();
        told.map(|(name, why)| json!({"name": name, "why": why}))
            .collect()
    }

    /// The one-shots that instances wait for: the installer.
    fn installers(&self) -> Vec<&Service> {
        let waited_for = |name: &str| {
            self.all.iter().any(|(service, _)| {
                let depends_on = &service.view.spec.fornax.depends_on;
                depends_on.get(name) == Some(&Condition::Completed)
            })
        };
        let all = self.everything.iter();
        all.filter(|service| waited_for(&service.view.spec.name))
            .collect()
    }
}

/// `GET /health/comfyui`.
pub(super) async fn summary(State(app): State<Arc<App>>) -> Response {
    let instances = Instances::of(&app);
    let count = |status| instances.count(status);
    let brief: Vec<Value> = instances
        .all
        .iter()
        .map(|(service, report)| {
            json!({
                "service": service.name,
                "gpu": gpu_index(service),
                "status": service.status(),
                "message": service.view.service.message,
                "cause": cause(report.as_deref()),
                "activity": activity(report.as_deref()),
                "queue": report.as_ref().map(|report| report.queue),
                "draining": service.view.spec.draining,
            })
        })
        .collect();
    let healthy = instances.healthy() && !instances.all.is_empty();
    let body = json!({
        "healthy": healthy,
        "status": instances.status(),
        "message": instances.message(),
        "installation": installation(&instances),
        "counts": {
            "total": instances.all.len(),
            "healthy": count(ServiceStatus::Healthy),
            "starting": count(ServiceStatus::Starting),
            "unhealthy": count(ServiceStatus::Unhealthy),
            "stopped": count(ServiceStatus::Stopped),
            "not_installed": count(ServiceStatus::NotInstalled),
        },
        "import_failures": instances.import_failures(),
        "instances": brief,
        "timestamp": answer::timestamp(),
    });
    answer::json(code(healthy), &body)
}

/// `GET /health/comfyui/installation`.
pub(super) async fn installed(State(app): State<Arc<App>>) -> Response {
    let instances = Instances::of(&app);
    let mut body = installation(&instances);
    let good = body["status"] == "installed";
    files::tell_build(&app.fleet.view(), &mut body);
    body["timestamp"] = answer::timestamp();
    answer::json(code(good), &body)
}

/// `GET /health/comfyui/instances`.
pub(super) async fn instances(State(app): State<Arc<App>>) -> Response {
    let instances = Instances::of(&app);
    let now_ms = answer::now_ms();
    let told: Vec<Value> = instances
        .all
        .iter()
        .map(|(service, report)| Value::Object(instance(&app, service, report.as_deref(), now_ms)))
        .collect();
    let healthy = instances.healthy() && !told.is_empty();
    let body = json!({
        "healthy": healthy,
        "count": told.len(),
        "instances": told,
        "timestamp": answer::iso(now_ms),
    });
    answer::json(code(healthy), &body)
}

/// `GET /health/comfyui/instances/{gpu}`: by the GPU's index or UUID, or by the service's name.
pub(super) async fn one(
    State(app): State<Arc<App>>,
    gpu: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let wanted = gpu
        .map(|Path(gpu)| gpu)
        .map_err(|rejection| Problem::parameter("gpu", rejection.body_text()))?;
    let instances = Instances::of(&app);
    let (service, report) = find(&instances, &wanted)?;
    let now_ms = answer::now_ms();
    let mut body = instance(&app, service, report.as_deref(), now_ms);
    body.insert("timestamp".to_owned(), Value::from(answer::iso(now_ms)));
    let healthy = service.is_healthy();
    Ok(answer::json(code(healthy), &Value::Object(body)))
}

/// `GET /health/comfyui/models`: which models are there and which come, and what is loaded where, as far as the instances have told.
pub(super) async fn models(State(app): State<Arc<App>>) -> Response {
    let instances = Instances::of(&app);
    let told: Vec<Value> = instances
        .all
        .iter()
        .map(|(service, report)| {
            let devices = report.as_ref().and_then(|report| report.devices.as_ref());
            json!({
                "service": service.name,
                "gpu": gpu_index(service),
                "status": service.status(),
                "loaded": report.as_ref().map(|report| &report.loaded),
                "vram_total": devices.map(|devices| devices.vram_total),
                "vram_free": devices.map(|devices| devices.vram_free),
            })
        })
        .collect();
    let downloads: Vec<Value> = instances
        .installers()
        .into_iter()
        .map(|service| json!({"service": service.name, "status": service.status(), "progress": service.view.axm.monitor}))
        .collect();
    let body = json!({
        "store": files::models(&app.fleet.view()),
        "instances": told,
        "installers": downloads,
        "timestamp": answer::timestamp(),
    });
    answer::json(StatusCode::OK, &body)
}

fn code(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn find<'a>(
    instances: &'a Instances,
    wanted: &str,
) -> Result<&'a (Service, Option<Arc<Report>>), Problem> {
    let by_gpu = |(service, _): &&(Service, Option<Arc<Report>>)| {
        let gpu = service.view.spec.fornax.gpu.as_ref();
        gpu_index(service).is_some_and(|index| index.to_string() == wanted)
            || gpu.is_some_and(|gpu| gpu.uuid.as_deref() == Some(wanted))
            || service.name == wanted
    };
    instances.all.iter().find(by_gpu).ok_or_else(|| {
        let known = |(service, _): &(Service, _)| match gpu_index(service) {
            Some(index) => index.to_string(),
            None => service.name.clone(),
        };
        Problem::Service {
            name: answer::shown(wanted),
            nearest: None,
            known: instances.all.iter().take(100).map(known).collect(),
        }
    })
}

/// The index of its GPU; on a processor the number that its name ends with.
pub(super) fn gpu_index(service: &Service) -> Option<u32> {
    let fornax = &service.view.spec.fornax;
    let of_name = || {
        let (_, number) = service.view.spec.name.rsplit_once("gpu")?;
        number.parse().ok()
    };
    fornax.gpu.as_ref().map(|gpu| gpu.index).or_else(of_name)
}

fn cause(report: Option<&Report>) -> Option<&'static str> {
    let report = report?;
    let now = report.diagnosis.as_ref().and_then(|told| told.cause);
    let ended = report.ended.as_ref().map(|ended| ended.cause);
    now.or(ended).map(Cause::as_str)
}

fn activity(report: Option<&Report>) -> Option<&'static str> {
    let activity = report?.activity.as_ref()?;
    Some(activity.as_str())
}

/// Whether it is installed, apart from whether it runs.
fn installation(instances: &Instances) -> Value {
    let installers = instances.installers();
    let missing = instances
        .all
        .iter()
        .find(|(service, _)| service.status() == ServiceStatus::NotInstalled);
    let at_work = installers
        .iter()
        .find(|service| service.status() == ServiceStatus::Starting || service.view.pid.is_some());
    let failed = installers
        .iter()
        .find(|service| service.counts() && service.status() == ServiceStatus::Unhealthy);
    let (status, message) = match (at_work, missing, failed) {
        _ if instances.all.is_empty() => (
            "not_configured",
            "no ComfyUI instance is registered".to_owned(),
        ),
        (Some(service), _, _) => ("installing", service.view.service.message.clone()),
        (None, _, Some(service)) => ("failed", service.view.service.message.clone()),
        (None, Some((service, _)), None) => ("not_installed", service.view.service.message.clone()),
        (None, None, None) => ("installed", "what the instances need is there".to_owned()),
    };
    let devices = instances
        .all
        .iter()
        .find_map(|(_, report)| report.as_ref()?.devices.clone());
    let told: Vec<Value> = installers
        .iter()
        .map(|service| {
            json!({
                "service": service.name,
                "status": service.status(),
                "completed": service.view.service.completed,
                "message": service.view.service.message,
                "progress": service.view.axm.monitor,
            })
        })
        .collect();
    json!({
        "status": status,
        "message": message,
        "comfyui_version": devices.as_ref().map(|devices| &devices.comfyui),
        "python_version": devices.as_ref().map(|devices| &devices.python),
        "torch_version": devices.as_ref().map(|devices| &devices.torch),
        "installers": told,
        "import_failures": instances.import_failures(),
    })
}

/// Everything about one instance.
fn instance(
    app: &App,
    service: &Service,
    report: Option<&Report>,
    now_ms: u64,
) -> Map<String, Value> {
    let mut told = view::service(service, &app.handle, now_ms);
    told.insert("healthy".to_owned(), Value::from(service.is_healthy()));
    told.insert("monitor".to_owned(), report.map_or(Value::Null, monitor));
    told
}

/// What the fleet knows of it.
fn monitor(report: &Report) -> Value {
    let diagnosis = report.diagnosis.as_ref();
    json!({
        "cause": cause(Some(report)),
        "meaning": diagnosis.and_then(|told| told.cause).or(report.ended.as_ref().map(|ended| ended.cause)).map(Cause::meaning),
        "message": diagnosis.map(|told| told.message.as_str()).or(report.ended.as_ref().map(|ended| ended.message.as_str())),
        "activity": activity(Some(report)),
        "queue": report.queue,
        "quiet_ms": report.quiet_ms,
        "quiet_limit_ms": report.quiet_limit_ms,
        "answered_in_ms": report.answered_in_ms,
        "looked_at": answer::iso(report.looked_at_ms),
        "draining": report.draining,
        "restarts_left": report.restarts_left,
        "import_failures": report.import_failures.iter().map(|import| json!({"name": import.name, "why": import.why})).collect::<Vec<_>>(),
        "loaded": report.loaded,
        "canary": report.canary.as_ref().map(|canary| json!({
            "at": answer::iso(canary.at_ms),
            "passed": canary.took_ms.is_some(),
            "took_ms": canary.took_ms,
            "why": canary.why,
        })),
        "device": report.devices.as_ref().map(|devices| json!({
            "name": devices.device,
            "type": devices.kind,
            "vram_total": devices.vram_total,
            "vram_free": devices.vram_free,
            "comfyui_version": devices.comfyui,
            "python_version": devices.python,
            "torch_version": devices.torch,
        })),
        "events": report.incidents.iter().rev().map(incident).collect::<Vec<_>>(),
    })
}

fn incident(incident: &Incident) -> Value {
    json!({
        "at": answer::iso(incident.at_ms),
        "generation": incident.generation.number(),
        "what": incident.kind.as_str(),
        "cause": incident.cause.map(Cause::as_str),
        "message": incident.message,
    })
}
