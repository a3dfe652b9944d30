//! Request bodies: bounded, and JSON or the answer that aiohttp gives.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// Reads a body of at most `limit` bytes.
pub(super) async fn bytes(request: Request<Body>, limit: usize) -> Result<bytes::Bytes, Response> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let limited = http_body_util::Limited::new(request.into_body(), limit);
    match http_body_util::BodyExt::collect(limited).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err((StatusCode::BAD_REQUEST, "400: Bad Request").into_response()),
    }
}

/// Reads a body as JSON, with its length in bytes. Text that is no JSON is answered 500, as ComfyUI does.
pub(super) async fn json(request: Request<Body>, limit: usize) -> Result<(Value, usize), Response> {
    let bytes = bytes(request, limit).await?;
    let value = serde_json::from_slice(&bytes).map_err(|_| broken())?;
    Ok((value, bytes.len()))
}

/// What aiohttp answers where a handler raised.
pub(super) fn broken() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n\nServer got itself in trouble").into_response()
}

/// What aiohttp answers to a body past the limit.
pub(super) fn too_large(limit: usize) -> Response {
    (StatusCode::PAYLOAD_TOO_LARGE, format!("Maximum request body size {limit} exceeded")).into_response()
}
