//! One connection: its requests and their answers, in bounded memory, and its place among the others.

use super::app::Caller;
use super::gate::{Gate, only_asks};
use crate::daemon::crowd::{Place, Work};
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// A client that has not sent its request's head by then is cut off; so is one that is silent between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(3);
/// A client that takes nothing of what is sent for so long is cut off.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// The largest head of a request, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// The most headers of a request.
const HEADERS: usize = 64;
/// The body of a change may take so long, and longer by its size.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// At least so much of it comes in a second, in bytes.
const SLOWEST: u64 = 256 << 10;
/// How long requests in flight may take when their listener closes.
const GRACE: Duration = Duration::from_secs(2);
/// What the kernel may keep for a client, in bytes (it doubles that for its own use, socket(7)).
const SEND_BUFFER: usize = 256 << 10;
/// A body is handed over in pieces of this size, so that it counts as unsent until nearly all of it is sent. In bytes.
const PIECE: usize = 64 << 10;

/// Serves one connection until it ends, has to make room, or its listener closes.
pub(super) async fn serve(
    stream: TcpStream,
    routes: Router,
    gate: Arc<Gate>,
    closing: CancellationToken,
    place: Arc<Place>,
) {
    let Ok(local) = stream.local_addr().map(|address| address.ip()) else {
        return;
    };
    // A line of a followed log goes out at once. Without it, it goes out a little later.
    let _ = stream.set_nodelay(true);
    // The kernel would keep megabytes for one that does not read. A refusal leaves its default.
    let _ = setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER);
    let routes = TowerToHyperService::new(routes);
    let (caller_closing, caller_place) = (closing.clone(), Arc::clone(&place));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (routes, gate, closing) = (routes.clone(), Arc::clone(&gate), caller_closing.clone());
        let work = caller_place.work();
        async move {
            let response = respond(request, &routes, &gate, local, closing).await;
            Ok::<Response, Infallible>(response.map(|body| Body::new(Tracked::new(body, work))))
        }
    });
    let stream = Watched {
        stream,
        place: Arc::clone(&place),
        stalled: None,
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = place.evicted.cancelled() => Ok(()),
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            // One that is not done by then is cut off.
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an http connection ended");
    }
}

/// The body of a question is never read: the connection ends after the answer to one that has more than a little. The body of a
/// change is read by whoever answers it, and has to come in time.
pub(super) async fn respond<B>(
    request: hyper::Request<B>,
    routes: &TowerToHyperService<Router>,
    gate: &Gate,
    local: IpAddr,
    closing: CancellationToken,
) -> Response
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    match gate.admit(&parts, local).await {
        Ok(access) => {
            let body = if only_asks(&parts.method) {
                Body::new(body)
            } else {
                Body::new(InTime::new(body))
            };
            let mut request = hyper::Request::from_parts(parts, body);
            request.extensions_mut().insert(Caller { access, closing });
            routes
                .call(request)
                .await
                .unwrap_or_else(|never: Infallible| match never {})
        }
        Err(problem) => problem.into_response(),
    }
}

/// The body of a change, which comes at [`SLOWEST`] or is given up.
struct InTime<B> {
    inner: Pin<Box<B>>,
    limit: Pin<Box<Sleep>>,
}

impl<B: HttpBody> InTime<B> {
    fn new(inner: B) -> Self {
        let bytes = inner.size_hint().exact().unwrap_or(0);
        let limit = BODY_WITHIN + Duration::from_secs(bytes / SLOWEST);
        Self {
            inner: Box::pin(inner),
            limit: Box::pin(tokio::time::sleep(limit)),
        }
    }
}

impl<B> HttpBody for InTime<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = self.inner.as_mut().poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.limit.as_mut().poll(context));
        Poll::Ready(Some(Err("did not come in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer: its request is in progress, and its bytes are unsent, as long as it exists.
struct Tracked {
    inner: Body,
    rest: Bytes,
    _work: Work,
}

impl Tracked {
    fn new(inner: Body, mut work: Work) -> Self {
        let bytes = inner.size_hint().exact().unwrap_or(0);
        work.answers(usize::try_from(bytes).unwrap_or(usize::MAX));
        Self {
            inner,
            rest: Bytes::new(),
            _work: work,
        }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// A stream that tells when its client does not read, and gives it up after a while.
struct Watched {
    stream: TcpStream,
    place: Arc<Place>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn watch<T>(
        &mut self,
        wrote: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            if self.stalled.take().is_some() {
                self.place.stalled(false);
            }
            return wrote;
        }
        let place = &self.place;
        let limit = self.stalled.get_or_insert_with(|| {
            place.stalled(true);
            Box::pin(tokio::time::sleep(READ_WITHIN))
        });
        ready!(limit.as_mut().poll(context));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
        Poll::Ready(Err(error))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(wrote, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
