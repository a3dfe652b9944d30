//! A request to port 9090: the first line is what is asked for (`/logs?limit=3`), each further one a header (`host: localhost`).
//! Without a `host` it is `localhost`.

use super::machine;
use super::rig::Rig;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use axum::response::Response;
use fornax::http::HttpOptions;
use fornax::http::direct;
use http_body_util::BodyExt;
use serde_json::Value;
use std::net::IpAddr;

/// Parameters of log routes.
const PARAMETERS: [&str; 6] = ["limit", "stream", "since", "grep", "format", "follow"];

pub fn check(data: &[u8]) {
    if let Some(request) = request(data) {
        machine::run(asked(request));
    }
}

/// `None`: no such request gets past hyper.
fn request(data: &[u8]) -> Option<Request<Body>> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let uri = Uri::try_from(lines.next()?).ok()?;
    uri.path().starts_with('/').then_some(())?;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    for line in lines.take(64) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        request.headers_mut().append(name, value);
    }
    if !request.headers().contains_key(HOST) {
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_static("localhost"));
    }
    Some(request)
}

async fn asked(request: Request<Body>) {
    let rig = Rig::new();
    rig.start("web").await;
    rig.start("bad api").await;
    let uri = request.uri().clone();
    let text = |name: HeaderName| {
        request
            .headers()
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let (host, origin) = (text(HOST), text(ORIGIN));
    let options = HttpOptions::default();
    let response = direct::answer(rig.handle.clone(), &options, request).await;
    let status = response.status();
    let refused = status.is_client_error();
    assert!(
        status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE || refused,
        "{uri}: {status}"
    );
    if !refused {
        assert!(is_ours(&host.unwrap()), "{uri}: answered to another name");
        assert!(
            origin.is_none_or(|origin| !origin.contains("evil")),
            "{uri}: answered to another site's page"
        );
        let odd = odd_parameter(&uri);
        assert_eq!(odd, None, "{uri}: not told");
    }
    told(&uri, response).await;
}

/// Whether a `Host` is this machine by name or number, said another way than the gate does.
fn is_ours(host: &str) -> bool {
    let bare = host.to_ascii_lowercase();
    let bare = bare
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or(bare.as_str(), |(name, _)| name);
    let number = bare
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    bare.trim_end_matches('.') == "localhost"
        || number.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A parameter of a log route that is none.
fn odd_parameter(uri: &Uri) -> Option<String> {
    let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (uri.path() == "/logs").then_some(())?;
    let names = uri
        .query()?
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split('=').next().unwrap_or_default());
    names
        .filter(plain)
        .find(|name| !PARAMETERS.contains(name))
        .map(str::to_owned)
}

async fn told(uri: &Uri, response: Response) {
    let status = response.status();
    let media_type = response.headers()[CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    if media_type == "text/event-stream" {
        // It has no end. Its beginning is there at once.
        let first = response
            .into_body()
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        assert!(first.starts_with(b"retry: "), "{first:?}");
        return;
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    if media_type != "application/json" {
        assert!(
            media_type.starts_with("text/plain") && status == StatusCode::OK,
            "{uri}: {media_type}"
        );
        return;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    if status.is_client_error() {
        let error = body["error"].as_str().unwrap();
        assert!(!error.is_empty() && error.len() < 4096, "{uri}: {error}");
    }
}
