//! The server itself: a runtime of one thread, a bounded number of connections, and an orderly end.

use super::answer::{Site, answer};
use super::settings::Settings;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Connections at once; further ones wait in the kernel's backlog.
const CONNECTIONS: usize = 512;
/// How long a request's head may take, and a connection be idle.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// How long requests in flight may go on once a signal has come: less than the 1.6 s after which PM2 kills.
const LAST_ANSWERS: Duration = Duration::from_millis(1_200);
/// How soon accepting is tried again when descriptors have run out.
const AGAIN: Duration = Duration::from_millis(50);
/// Threads that read files.
const READERS: usize = 8;

/// Serves by the environment until SIGINT or SIGTERM.
pub fn run() -> ExitCode {
    let outcome = Settings::from_env(&|name| std::env::var(name).ok()).and_then(|settings| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READERS)
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        let served = runtime.block_on(serve(settings));
        runtime.shutdown_background();
        served
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("static server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<(), String> {
    let root = settings.root.display().to_string();
    let address = (settings.host.clone(), settings.port);
    let site = Site::open(settings).map_err(|error| format!("cannot serve {root}: {error}"))?;
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate)] = signals else {
        return Err("cannot handle signals".to_owned());
    };
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {}:{}: {error}", address.0, address.1))?;
    if let Ok(at) = listener.local_addr() {
        println!("Exposing {root} directory on {at}");
    }
    let (site, room) = (Arc::new(site), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = accept(&listener, &site, &room) => {}
        }
    }
    drop(listener);
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    // Idle connections are not waited for longer than this, as slow ones are not.
    let _ = tokio::time::timeout(LAST_ANSWERS, room.acquire_many(all)).await;
    Ok(())
}

async fn accept(listener: &TcpListener, site: &Arc<Site>, room: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(room).acquire_owned().await else {
        return;
    };
    let stream = match listener.accept().await {
        Ok((stream, _)) => stream,
        Err(error) => {
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted) {
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(AGAIN).await;
            }
            return;
        }
    };
    let site = Arc::clone(site);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let site = Arc::clone(&site);
            async move { Ok::<_, Infallible>(answer(site, request).await) }
        });
        // A client that breaks off is no news.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        drop(place);
    });
}
