//! Request bodies, bounded; and the answers that aiohttp gives instead of a handler's.

use axum::Json;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};

/// Why a request is not answered as it wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// 500: ComfyUI's handler would have raised, as on a body that is no JSON.
    Broken,
    /// 413: the body is longer than this many bytes.
    TooLarge(usize),
    /// 400: a field is missing or wrong.
    BadRequest,
    /// 503: the queue takes no more. ComfyUI's has no bound.
    QueueFull,
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Denied::Broken => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "500 Internal Server Error\n\nServer got itself in trouble",
            )
                .into_response(),
            Denied::TooLarge(limit) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("Maximum request body size {limit} exceeded"),
            )
                .into_response(),
            Denied::BadRequest => StatusCode::BAD_REQUEST.into_response(),
            Denied::QueueFull => {
                let error = json!({
                    "type": "queue_full", "message": "The queue is full", "extra_info": {},
                    "details": "the simulator's queue is bounded; send again when GET /prompt shows a shorter one",
                });
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    Json(json!({"error": error, "node_errors": {}})),
                )
                    .into_response()
            }
        }
    }
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn bytes(request: Request<Body>, limit: usize) -> Result<bytes::Bytes, Denied> {
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Denied::TooLarge(limit));
    }
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Denied::TooLarge(limit)),
        Err(_) => Err(Denied::BadRequest),
    }
}

/// Reads a body as JSON, with its length in bytes.
pub(super) async fn json(request: Request<Body>, limit: usize) -> Result<(Value, usize), Denied> {
    let bytes = bytes(request, limit).await?;
    let value = serde_json::from_slice(&bytes).map_err(|_| Denied::Broken)?;
    Ok((value, bytes.len()))
}
