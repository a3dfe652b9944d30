//! Reading a new job: JSON with its files in base64, or a form with its files as they are.

use super::super::app::App;
use super::super::gate::JOB_BODY;
use super::super::problem::Problem;
use super::spool::Spool;
use crate::core::job::JobLimits;
use crate::core::units::Millis;
use crate::core::workflow;
use crate::jobs::{self, NewJob, Webhook};
use axum::body::to_bytes;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::time::Duration;

/// The largest JSON text of a job, in bytes; files of a form come besides.
const JSON: usize = 16 << 20;
/// The longest key, and the longest name of a caller, in bytes.
const WORD: usize = 200;
/// Priorities.
const PRIORITIES: std::ops::RangeInclusive<i32> = -1000..=1000;

/// A job as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(alias = "prompt")]
    workflow: Box<RawValue>,
    #[serde(default)]
    inputs: Vec<Inline>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    caller: Option<String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    webhook: Option<Hook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inline {
    name: String,
    /// Base64.
    data: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    queue_seconds: Option<f64>,
    run_seconds: Option<f64>,
    stall_seconds: Option<f64>,
    attempts: Option<u32>,
    partial: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hook {
    url: String,
    #[serde(default)]
    secret: Option<String>,
}

/// Reads the body; its files lie in the store's folder then.
pub(super) async fn read(app: &App, request: Request) -> Result<NewJob, Problem> {
    let headers = request.headers().clone();
    let media = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_form = media.starts_with("multipart/form-data");
    let id = uuid::Uuid::new_v4().to_string();
    let mut spool = Spool::new(app.jobs.folders().clone(), id);
    let wanted = if is_form {
        form(request, &mut spool).await?
    } else {
        let body = to_bytes(request.into_body(), JSON).await;
        let body = body.map_err(|error| Problem::Body(body_words(&error)))?;
        parse(&body)?
    };
    assemble(app, &headers, wanted, spool).await
}

fn body_words(error: &axum::Error) -> String {
    let words = error.to_string();
    if words.contains("length limit") {
        format!(
            "is larger than {JSON} bytes of JSON; send its files as parts of a form (multipart/form-data)"
        )
    } else {
        words
    }
}

fn parse(body: &[u8]) -> Result<Wanted, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| Problem::Body(format!("is no job: {error}")))
}

/// A form: the part `job` is the JSON, any other part a file of the name that it has.
async fn form(request: Request, spool: &mut Spool) -> Result<Wanted, Problem> {
    let broken = |error: &dyn std::fmt::Display| Problem::Body(format!("is no form: {error}"));
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|error| broken(&error))?;
    let mut wanted = None;
    loop {
        let part = parts.next_field().await.map_err(|error| broken(&error))?;
        let Some(mut part) = part else {
            break;
        };
        if part.name() == Some("job") {
            let mut text = Vec::new();
            while let Some(piece) = part.chunk().await.map_err(|error| broken(&error))? {
                if text.len() + piece.len() > JSON {
                    return Err(Problem::Large { limit: JSON as u64 });
                }
                text.extend_from_slice(&piece);
            }
            wanted = Some(parse(&text)?);
            continue;
        }
        let name = part
            .file_name()
            .or(part.name())
            .unwrap_or_default()
            .to_owned();
        spool.begin(&name).await?;
        while let Some(piece) = part.chunk().await.map_err(|error| broken(&error))? {
            spool.write(&piece).await?;
        }
        spool.end().await?;
    }
    wanted.ok_or_else(|| Problem::Body("has no part `job` with the job as JSON".to_owned()))
}

async fn assemble(
    app: &App,
    headers: &HeaderMap,
    wanted: Wanted,
    mut spool: Spool,
) -> Result<NewJob, Problem> {
    let graph: Value = serde_json::from_str(wanted.workflow.get())
        .map_err(|error| Problem::Body(format!("has a workflow that cannot be read: {error}")))?;
    workflow::check(&graph).map_err(|error| Problem::parameter("workflow", error.to_string()))?;
    if !PRIORITIES.contains(&wanted.priority) {
        return Err(Problem::parameter(
            "priority",
            "it is a whole number from -1000 to 1000",
        ));
    }
    let header = headers
        .get("idempotency-key")
        .and_then(|value| value.to_str().ok());
    let key = wanted.idempotency_key.or_else(|| header.map(str::to_owned));
    let key = key.map(|key| word("idempotency_key", key)).transpose()?;
    let caller = wanted
        .caller
        .map(|caller| word("caller", caller))
        .transpose()?;
    let webhook = wanted.webhook.map(|hook| webhook(app, hook)).transpose()?;
    let limits = limits(&wanted.limits)?;
    for input in wanted.inputs {
        let bytes = STANDARD.decode(input.data.as_bytes()).map_err(|error| {
            Problem::parameter(
                "inputs",
                format!("the data of `{}` is not base64: {error}", input.name),
            )
        })?;
        spool.begin(&input.name).await?;
        spool.write(&bytes).await?;
        spool.end().await?;
    }
    let digest = spool.digest(&workflow::canonical(&graph));
    let (id, inputs) = spool.keep();
    Ok(NewJob {
        id,
        key,
        caller: caller.unwrap_or_default(),
        priority: wanted.priority,
        limits,
        models: workflow::models(&graph),
        workflow: wanted.workflow.get().to_owned(),
        inputs,
        webhook,
        digest,
    })
}

fn word(name: &str, text: String) -> Result<String, Problem> {
    let fits = (1..=WORD).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits {
        Ok(text)
    } else {
        Err(Problem::parameter(
            name,
            format!("it has 1 to {WORD} bytes and no control characters"),
        ))
    }
}

fn webhook(app: &App, hook: Hook) -> Result<Webhook, Problem> {
    jobs::check_webhook(&hook.url, app.jobs.webhook_hosts())
        .map_err(|error| Problem::parameter("webhook.url", error.to_string()))?;
    if hook
        .secret
        .as_ref()
        .is_some_and(|secret| !(1..=1024).contains(&secret.len()))
    {
        return Err(Problem::parameter(
            "webhook.secret",
            "it has 1 to 1024 bytes",
        ));
    }
    Ok(Webhook {
        url: hook.url,
        secret: hook.secret,
    })
}

fn limits(wanted: &Limits) -> Result<JobLimits, Problem> {
    let default = JobLimits::default();
    let time = |name: &str, seconds: Option<f64>| match seconds {
        None => Ok(None),
        Some(seconds) if (0.1..=30.0 * 86_400.0).contains(&seconds) => {
            let millis = Duration::from_secs_f64(seconds).as_millis();
            Ok(Some(Millis(u64::try_from(millis).unwrap_or(u64::MAX))))
        }
        Some(_) => Err(Problem::parameter(
            name,
            "it is a number of seconds, from 0.1 to 30 days",
        )),
    };
    let attempts = wanted.attempts.unwrap_or(default.attempts);
    if !(1..=100).contains(&attempts) {
        return Err(Problem::parameter(
            "limits.attempts",
            "it is a number from 1 to 100",
        ));
    }
    Ok(JobLimits {
        queue: time("limits.queue_seconds", wanted.queue_seconds)?,
        run: time("limits.run_seconds", wanted.run_seconds)?,
        stall: time("limits.stall_seconds", wanted.stall_seconds)?.unwrap_or(default.stall),
        attempts,
        partial: wanted.partial,
    })
}

/// A form with its files may be as large as the gate lets in.
const _: () = assert!(JSON as u64 <= JOB_BODY);
