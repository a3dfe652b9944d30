//! What can be wrong with a request: one table of status codes and words.

use super::answer;
use super::token::TokenError;
use crate::adapters::logs::LogError;
use crate::jobs::{Refused, StoreError};
use axum::http::header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The routes, as an answer lists them.
pub(super) const ROUTES: [&str; 27] = [
    "/health",
    "/ready",
    "/services",
    "/services/{name}/health",
    "/services/{name}/logs",
    "/services/{name}/drain",
    "/jobs",
    "/jobs/{id}",
    "/jobs/{id}/events",
    "/jobs/{id}/outputs/{name}",
    "/events",
    "/logs",
    "/status",
    "/version",
    "/metrics",
    "/health/comfyui",
    "/health/comfyui/installation",
    "/health/comfyui/instances",
    "/health/comfyui/instances/{gpu}",
    "/health/comfyui/models",
    "/comfyui/rollout",
    "/pm2/list",
    "/pm2/logs",
    "/comfyui/logs",
    "/restart/service",
    "/restart/machine",
    "/refresh-status",
];

/// Why a request is refused. The words tell how to mend it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// 400.
    #[error("parameter `{name}`: {why}")]
    Parameter {
        /// Which.
        name: String,
        /// What is wrong with it, and what is right.
        why: String,
    },
    /// 400.
    #[error("header `{name}`: {why}")]
    Header {
        /// Which.
        name: &'static str,
        /// What is wrong with it, and what is right.
        why: String,
    },
    /// 404.
    #[error("no service is called `{name}`{}", hint(nearest.as_deref(), known))]
    Service {
        /// What was asked for.
        name: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// The services there are.
        known: Vec<String>,
    },
    /// 404.
    #[error("nothing is at `{path}`; the routes are {}", ROUTES.join(", "))]
    Route {
        /// What was asked for.
        path: String,
    },
    /// 405.
    #[error(
        "{method} is not served {}", if *nowhere { "on this port" } else { "at this path; the header `allow` tells what is" }
    )]
    Method {
        /// What was asked for.
        method: String,
        /// At no path.
        nowhere: bool,
    },
    /// 413.
    #[error("the body is larger than the {limit} bytes that are taken here")]
    Large {
        /// In bytes.
        limit: u64,
    },
    /// 403.
    #[error(
        "host `{host}` is not known here; ask by a loopback name or the address it listens on, or list the name in FORNAX_HTTP_HOSTS and restart the daemon"
    )]
    Host {
        /// What was said.
        host: String,
    },
    /// 403.
    #[error(
        "pages of `{origin}` may not ask this port; ask from a program, or through a proxy of that site"
    )]
    Origin {
        /// What was said.
        origin: String,
    },
    /// 403.
    #[error(
        "parts of another site's page may not be fetched from this port; open it in a tab of its own, or ask from a program"
    )]
    Embedded,
    /// 401.
    #[error(
        "this port is open to other machines and wants `Authorization: Bearer TOKEN`; the token is FORNAX_HTTP_TOKEN, or stands in `http.token` in the daemon's home folder"
    )]
    Token,
    /// 401.
    #[error(
        "a change wants `Authorization: Bearer TOKEN`; the token is FORNAX_HTTP_TOKEN, or stands in `http.token` in the daemon's home folder (PM2_HOME), which its owner can read"
    )]
    TokenToChange,
    /// 503.
    #[error("nothing can be changed over this port: {0}")]
    NoToken(TokenError),
    /// 400.
    #[error("the body {0}")]
    Body(String),
    /// 404.
    #[error(
        "there is no job `{id}`; it may have been forgotten: settled jobs are kept for a while only (FORNAX_JOBS_KEEP)"
    )]
    Job {
        /// What was asked for.
        id: String,
    },
    /// 404.
    #[error("job {id} has no output `{name}`; GET /jobs/{id} lists what it has")]
    Output {
        /// Of which job.
        id: String,
        /// What was asked for.
        name: String,
    },
    /// 409, 429, 503 or 507.
    #[error(transparent)]
    NotAccepted(#[from] Refused),
    /// 503 or 507.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// 507.
    #[error("the files of a job cannot be kept: {0}")]
    Disk(String),
    /// 404.
    #[error("{0}")]
    Nobody(String),
    /// 409.
    #[error("{0}")]
    Refused(String),
    /// 503.
    #[error("too many requests for logs at once; try again in a second")]
    Busy,
    /// 503.
    #[error("logs cannot be read: {0}")]
    Logs(#[from] LogError),
}

fn hint(nearest: Option<&str>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None if known.is_empty() => {
            "; there are none yet: register one with `fornax start`".to_owned()
        }
        None => format!("; there are {}", known.join(", ")),
    }
}

impl Problem {
    /// A bad parameter.
    pub fn parameter(name: &str, why: impl Into<String>) -> Self {
        Problem::Parameter {
            name: answer::shown(name),
            why: why.into(),
        }
    }

    /// Its status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Problem::Parameter { .. } | Problem::Header { .. } => StatusCode::BAD_REQUEST,
            Problem::Large { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Problem::Token | Problem::TokenToChange => StatusCode::UNAUTHORIZED,
            Problem::Host { .. } | Problem::Origin { .. } | Problem::Embedded => {
                StatusCode::FORBIDDEN
            }
            Problem::Service { .. } | Problem::Route { .. } => StatusCode::NOT_FOUND,
            Problem::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Body(_) => StatusCode::BAD_REQUEST,
            Problem::Job { .. } | Problem::Output { .. } | Problem::Nobody(_) => {
                StatusCode::NOT_FOUND
            }
            Problem::NotAccepted(refused) => match refused {
                Refused::Full(_) => StatusCode::TOO_MANY_REQUESTS,
                Refused::OtherJob(_) => StatusCode::CONFLICT,
                Refused::Store(error) => store_status(error),
                Refused::Ending => StatusCode::SERVICE_UNAVAILABLE,
            },
            Problem::Store(error) => store_status(error),
            Problem::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
            Problem::Refused(_) => StatusCode::CONFLICT,
            Problem::Busy | Problem::Logs(_) | Problem::NoToken(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

fn store_status(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Failed { .. } | StoreError::Later { .. } | StoreError::Ended => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({"error": self.to_string(), "timestamp": answer::timestamp()});
        if let Problem::Service { nearest, known, .. } = &self {
            body["did_you_mean"] = Value::from(nearest.as_deref());
            body["services"] = Value::from(known.as_slice());
        }
        let mut response = answer::json(self.status(), &body);
        let header = match self {
            // At a path that is served, the router tells what is.
            Problem::Method { nowhere: true, .. } => {
                Some((ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE"))
            }
            Problem::Token | Problem::TokenToChange => Some((WWW_AUTHENTICATE, "Bearer")),
            Problem::Busy => Some((RETRY_AFTER, "1")),
            Problem::NotAccepted(Refused::Full(_)) => Some((RETRY_AFTER, "5")),
            // Where its body ends is not to be guessed, or not to be waited for.
            Problem::Header {
                name: "transfer-encoding" | "content-length",
                ..
            }
            | Problem::Large { .. } => Some((CONNECTION, "close")),
            _ => None,
        };
        if let Some((name, value)) = header {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
