//! `GET /metrics`: what Prometheus scrapes, in OpenMetrics text. Made from what is in memory, as every answer: a scrape causes no
//! probe. Units are Prometheus's base units: seconds, bytes, ratios.

use super::answer;
use super::app::App;
use super::comfyui::gpu_index;
use super::openmetrics::{self, COUNTER, Family, GAUGE, Labels};
use super::services::{self, Service};
use super::status;
use crate::adapters::logs::PlaneStats;
use crate::core::service::ServiceStatus;
use crate::fleet::Report;
use crate::jobs::EngineStatus;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// The engine of the jobs is left out if it takes longer than this.
const ENGINE_WITHIN: Duration = Duration::from_millis(100);
/// Metrics of its own that are told of one app.
const OF_AN_APP: usize = 100;

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = openmetrics::text(collect(&app).await);
    answer::with_type(StatusCode::OK, openmetrics::MEDIA_TYPE, text)
}

async fn collect(app: &App) -> Vec<Family> {
    let logs = status::counters(app).await;
    let jobs = match app.jobs.has_store() {
        true => tokio::time::timeout(ENGINE_WITHIN, app.jobs.status()).await,
        false => Ok(None),
    };
    let services = services::list(&app.handle.snapshot());
    let mut families = of_daemon(app);
    families.extend(of_services(app, &services));
    families.extend(of_comfyui(app, &services));
    families.extend(jobs.ok().flatten().iter().flat_map(of_jobs));
    families.extend(logs.iter().flat_map(of_logs));
    families.push(of_apps(&services));
    families
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn of_daemon(app: &App) -> Vec<Family> {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    vec![
        Family::new(
            ("fornax_build_info", "The program that runs", GAUGE),
            [(version, 1.0)],
        ),
        Family::one(
            (
                "fornax_start_time_seconds",
                "When the daemon began, since the Unix epoch",
                GAUGE,
            ),
            seconds(app.handle.info.started_at_ms),
        ),
    ]
}

fn named(service: &Service) -> Labels {
    vec![
        ("service", service.name.clone()),
        ("app", service.view.spec.name.to_string()),
    ]
}

fn of_services(app: &App, services: &[Service]) -> Vec<Family> {
    let of_each = |describing, value: &dyn Fn(&Service) -> Option<f64>| {
        let told = services
            .iter()
            .filter_map(|service| Some((named(service), value(service)?)));
        Family::new(describing, told)
    };
    let running = |service: &Service| service.view.pid.is_some();
    let states = services.iter().flat_map(|service| {
        ServiceStatus::ALL.into_iter().map(|status| {
            let mut labels = named(service);
            labels.push(("status", status.as_str().to_owned()));
            (labels, truth(service.status() == status))
        })
    });
    vec![
        Family::new(
            (
                "fornax_service_status",
                "1 for the state that the service is in",
                GAUGE,
            ),
            states,
        ),
        of_each(
            (
                "fornax_service_enabled",
                "Whether the machine's health depends on it",
                GAUGE,
            ),
            &|service| Some(truth(service.counts())),
        ),
        of_each(
            (
                "fornax_service_status_since_seconds",
                "Since when it is in its state, since the Unix epoch",
                GAUGE,
            ),
            &|service| Some(seconds(service.view.service.since_ms)),
        ),
        of_each(
            (
                "fornax_service_restarts",
                "Restarts, by itself and by hand",
                COUNTER,
            ),
            &|service| Some(f64::from(service.view.restarts)),
        ),
        of_each(
            (
                "fornax_service_start_time_seconds",
                "When its run began, since the Unix epoch",
                GAUGE,
            ),
            &|service| running(service).then(|| seconds(service.view.started_at_ms)),
        ),
        of_each(
            (
                "fornax_service_memory_bytes",
                "Resident memory of its processes",
                GAUGE,
            ),
            &|service| running(service).then(|| app.handle.usage(&service.view).memory as f64),
        ),
        of_each(
            (
                "fornax_service_cpu_ratio",
                "Processor time of its processes: 1 is one core",
                GAUGE,
            ),
            &|service| running(service).then(|| app.handle.usage(&service.view).cpu / 100.0),
        ),
    ]
}

fn of_comfyui(app: &App, services: &[Service]) -> Vec<Family> {
    let fleet = app.fleet.view();
    let of_each = |describing, value: &dyn Fn(&Report) -> Option<f64>| {
        let told = services.iter().filter_map(|service| {
            let value = value(fleet.instances.get(&service.view.id)?)?;
            let mut labels = named(service);
            labels.extend(gpu_index(service).map(|index| ("gpu", index.to_string())));
            Some((labels, value))
        });
        Family::new(describing, told)
    };
    vec![
        of_each(
            (
                "fornax_comfyui_queue",
                "Prompts that wait or run in it",
                GAUGE,
            ),
            &|report| report.diagnosis.as_ref().map(|_| report.queue as f64),
        ),
        of_each(
            (
                "fornax_comfyui_quiet_seconds",
                "How long its job has shown no sign of life",
                GAUGE,
            ),
            &|report| report.quiet_ms.map(seconds),
        ),
        of_each(
            (
                "fornax_comfyui_answer_seconds",
                "How long its last answer took",
                GAUGE,
            ),
            &|report| report.answered_in_ms.map(seconds),
        ),
        of_each(
            (
                "fornax_comfyui_vram_total_bytes",
                "Its device's memory",
                GAUGE,
            ),
            &|report| report.devices.as_ref().map(|told| told.vram_total as f64),
        ),
        of_each(
            (
                "fornax_comfyui_vram_free_bytes",
                "Free of its device's memory",
                GAUGE,
            ),
            &|report| report.devices.as_ref().map(|told| told.vram_free as f64),
        ),
        of_each(
            (
                "fornax_comfyui_restarts_left",
                "Restarts that are left to cure it",
                GAUGE,
            ),
            &|report| Some(f64::from(report.restarts_left)),
        ),
    ]
}

fn of_jobs(engine: &EngineStatus) -> Vec<Family> {
    let gauge = |name, help, value: usize| Family::one((name, help, GAUGE), value as f64);
    let placeable = engine.instances.iter().filter(|of| of.placeable).count();
    vec![
        gauge(
            "fornax_jobs_queued",
            "Jobs that wait for an instance",
            engine.queued,
        ),
        gauge("fornax_jobs_out", "Jobs that an instance has", engine.out),
        gauge(
            "fornax_jobs_unsettled_limit",
            "Jobs that may be unsettled at once",
            engine.most,
        ),
        gauge(
            "fornax_jobs_instances",
            "Instances that may be given jobs",
            placeable,
        ),
        Family::one(
            (
                "fornax_jobs_store_trouble",
                "1 while the store cannot be written",
                GAUGE,
            ),
            truth(engine.trouble.is_some()),
        ),
    ]
}

fn of_logs(plane: &PlaneStats) -> Vec<Family> {
    let counter = |name, help, value: u64| Family::one((name, help, COUNTER), value as f64);
    let trouble = plane.sinks.iter().filter(|sink| sink.trouble.is_some());
    vec![
        counter(
            "fornax_log_lines",
            "Lines written to log files",
            plane.total.lines,
        ),
        counter(
            "fornax_log_bytes",
            "Bytes written to log files",
            plane.total.bytes,
        ),
        counter(
            "fornax_log_dropped_lines",
            "Lines that no file could take",
            plane.total.dropped_lines,
        ),
        counter(
            "fornax_log_missed_lines",
            "Lines that slow followers missed",
            plane.missed_lines,
        ),
        Family::one(
            (
                "fornax_log_files_in_trouble",
                "Log files that cannot be written",
                GAUGE,
            ),
            trouble.count() as f64,
        ),
    ]
}

/// What apps tell of themselves (`axm:monitor`): Node's heap and event loop by the agent, and whatever an app adds.
fn of_apps(services: &[Service]) -> Family {
    let samples = services.iter().flat_map(|service| {
        numbers(&service.view.axm.monitor).map(|(name, value)| {
            let mut labels = named(service);
            labels.push(("metric", name.to_owned()));
            (labels, value)
        })
    });
    Family::new(
        (
            "fornax_app_metric",
            "What an app tells of itself, by its own name and in its own unit",
            GAUGE,
        ),
        samples,
    )
}

/// The values that are numbers: PM2's agents send some of them as text.
fn numbers(monitor: &Map<String, Value>) -> impl Iterator<Item = (&str, f64)> {
    let number = |told: &Value| match told.get("value").unwrap_or(told) {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|value: &f64| value.is_finite()),
        _ => None,
    };
    monitor
        .iter()
        .filter_map(move |(name, told)| Some((name.as_str(), number(told)?)))
        .take(OF_AN_APP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn of_what_apps_tell_the_numbers_count() {
        let Value::Object(monitor) = json!({
            "Heap Size": {"value": "12.50", "unit": "MiB"},
            "Users": {"value": 7},
            "bare": 3,
            "word": {"value": "many"},
            "endless": {"value": "inf"},
            "none": {"unit": "ms"},
            "list": [1],
        }) else {
            unreachable!("it is an object")
        };
        let told: Vec<(&str, f64)> = numbers(&monitor).collect();
        assert_eq!(told, [("Heap Size", 12.5), ("Users", 7.0), ("bare", 3.0)]);
    }
}
