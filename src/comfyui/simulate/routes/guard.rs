//! What stands before every route: the fault `unavailable`, and ComfyUI's browser guard.

use crate::comfyui::simulate::fault::Fault;
use crate::comfyui::simulate::shared::Shared;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Request, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// Lets a request through, or answers it.
pub(super) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    if shared.has(&Fault::Unavailable) {
        return (StatusCode::SERVICE_UNAVAILABLE, "503: Service Unavailable").into_response();
    }
    if is_foreign(request.headers()) {
        shared
            .console
            .line("WARNING: request with non matching host and origin, returning 403");
        return StatusCode::FORBIDDEN.into_response();
    }
    next.run(request).await
}

/// True if a page of another host asks a loopback address: a browser was made to do it. Ports count only where both have one.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(host), Some(origin)) = (text(HOST), text(ORIGIN)) else {
        return false;
    };
    let (Ok(host), Ok(origin)) = (host.parse::<Authority>(), origin.parse::<Uri>()) else {
        return false;
    };
    // An opaque origin ("null") has no scheme, and ComfyUI lets it through.
    let Some(origin) = origin.authority().filter(|_| origin.scheme().is_some()) else {
        return false;
    };
    let same_host = host.host().eq_ignore_ascii_case(origin.host());
    let same_port = host.port_u16().is_none()
        || origin.port_u16().is_none()
        || host.port_u16() == origin.port_u16();
    is_loopback(host.host()) && !(same_host && same_port)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_foreign_page_on_a_loopback_host_is_refused() {
        for (host, origin, foreign) in [
            ("127.0.0.1:8188", "http://evil.example", true),
            ("localhost:8188", "http://evil.example:8188", true),
            ("[::1]:8188", "http://evil.example", true),
            ("127.0.0.1:8188", "http://127.0.0.1:9000", true),
            ("127.0.0.1:8188", "http://127.0.0.1:8188", false),
            ("127.0.0.1:8188", "http://127.0.0.1", false),
            ("machine.example:8188", "http://evil.example", false),
            ("127.0.0.1:8188", "null", false),
        ] {
            let headers = [(HOST, host), (ORIGIN, origin)]
                .map(|(name, value)| (name, value.parse().unwrap()))
                .into_iter()
                .collect();
            assert_eq!(is_foreign(&headers), foreign, "{host} {origin}");
        }
        assert!(!is_foreign(&HeaderMap::new()));
    }
}
