//! One request answered without a socket: for property tests and fuzzing.

use super::app::{App, HttpOptions, router};
use super::connection::respond;
use super::gate::{Gate, Guard};
use super::token::LazyToken;
use crate::daemon::handle::Handle;
use crate::jobs::{JobSettings, Jobs};
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper_util::service::TowerToHyperService;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What a listener on 127.0.0.1 would answer.
pub async fn answer(handle: Handle, options: &HttpOptions, request: Request<Body>) -> Response {
    let gate = Gate {
        guard: Guard::Changes(LazyToken::new(
            options.token.clone(),
            handle.info.home.clone(),
        )),
        hosts: options.hosts.clone(),
    };
    let home = handle.info.home.clone();
    let routes = TowerToHyperService::new(router(Arc::new(App::new(
        handle,
        crate::fleet::open().0,
        Jobs::new(JobSettings::from_env(&home, |_| None)).0,
        options,
    ))));
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    respond(request, &routes, &gate, local, CancellationToken::new()).await
}
