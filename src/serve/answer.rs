//! From a request to its answer.

use super::listing;
use super::place::{self, BadPath, Place};
use super::range::{self, Wanted};
use super::settings::Settings;
use base64::Engine;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

/// What an answer carries.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes read of a file at once.
const CHUNK: usize = 64 << 10;
/// The most of a page of one's own for 404, in bytes.
const LONGEST_PAGE: u64 = 1 << 20;

/// What serves: the settings, and the folder, open.
#[derive(Debug)]
pub struct Site {
    settings: Settings,
    root: File,
    authorization: Option<String>,
}

impl Site {
    /// Opens the folder.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let root = File::open(&settings.root)?;
        if !root.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let authorization = settings.login.as_ref().map(|(name, password)| {
            let pair =
                base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
            format!("Basic {pair}")
        });
        Ok(Self {
            settings,
            root,
            authorization,
        })
    }

    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let Some(wanted) = &self.authorization else {
            return true;
        };
        let given = headers.get(header::AUTHORIZATION);
        given.is_some_and(|given| same(given.as_bytes(), wanted.as_bytes()))
    }
}

/// Whether both are the same, in a time that tells nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// What is found for a path.
enum Found {
    File(File, Metadata, String),
    Listing(String),
    /// The same with a slash behind it.
    Redirect,
    Closed,
    Nothing(Option<String>),
}

/// Answers.
pub async fn answer(site: Arc<Site>, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let path = request.uri().path().to_owned();
    let mut response = if !site.lets_in(&headers) {
        let mut response = words(StatusCode::UNAUTHORIZED, "401 Unauthorized");
        let realm = HeaderValue::from_static("Basic realm=\"Authentication service\"");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, realm);
        response
    } else if method == Method::OPTIONS {
        words(StatusCode::NO_CONTENT, "")
    } else if method != Method::GET && method != Method::HEAD {
        let mut response = words(StatusCode::METHOD_NOT_ALLOWED, "405 Method Not Allowed");
        let allowed = HeaderValue::from_static("GET, HEAD, OPTIONS");
        response.headers_mut().insert(header::ALLOW, allowed);
        response
    } else {
        found(&site, &path, &headers).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn found(site: &Arc<Site>, path: &str, headers: &HeaderMap) -> Response<Body> {
    let parts = match place::parts(path) {
        Ok(parts) => parts,
        Err(BadPath::Climbs) => return words(StatusCode::FORBIDDEN, "403 Forbidden"),
        Err(BadPath::Malformed) => return words(StatusCode::BAD_REQUEST, "400 Bad Request"),
    };
    let (looking, asked) = (Arc::clone(site), path.to_owned());
    let looked = tokio::task::spawn_blocking(move || look(&looking, &parts, &asked)).await;
    match looked.map_err(io::Error::other).and_then(|looked| looked) {
        Ok(Found::File(file, facts, name)) => send(file, &facts, &name, headers),
        Ok(Found::Listing(page)) => html(StatusCode::OK, page),
        Ok(Found::Redirect) => {
            let mut response = words(StatusCode::MOVED_PERMANENTLY, "301 Moved Permanently");
            // One slash: with two this would name another host.
            let to = format!("/{}/", path.trim_matches('/'));
            if let Ok(to) = HeaderValue::from_str(&to) {
                response.headers_mut().insert(header::LOCATION, to);
            }
            response
        }
        Ok(Found::Closed) => words(StatusCode::FORBIDDEN, "403 Forbidden"),
        Ok(Found::Nothing(Some(page))) => html(StatusCode::NOT_FOUND, page),
        Ok(Found::Nothing(None)) => words(StatusCode::NOT_FOUND, "404 Not Found"),
        Err(error) => {
            eprintln!("cannot serve {path:?}: {error}");
            words(
                StatusCode::INTERNAL_SERVER_ERROR,
                "500 Internal Server Error; the server's log tells why",
            )
        }
    }
}

fn look(site: &Site, parts: &[String], path: &str) -> io::Result<Found> {
    let settings = &site.settings;
    let nothing = || Ok(Found::Nothing(own_page(site)));
    if place::is_hidden(parts) {
        return nothing();
    }
    let home: Vec<String> = settings.homepage.split('/').map(str::to_owned).collect();
    if parts.is_empty() && !settings.listings {
        return match place::open(&site.root, &home)? {
            Place::File(file, facts) => Ok(Found::File(file, facts, settings.homepage.clone())),
            _ => nothing(),
        };
    }
    match place::open(&site.root, parts)? {
        Place::File(file, facts) => {
            let name = parts.last().cloned().unwrap_or_default();
            Ok(Found::File(file, facts, name))
        }
        Place::Folder(folder) => {
            if !path.ends_with('/') {
                return Ok(Found::Redirect);
            }
            let index = [parts, &["index.html".to_owned()]].concat();
            match place::open(&site.root, &index)? {
                Place::File(file, facts) => Ok(Found::File(file, facts, "index.html".to_owned())),
                _ if settings.listings => {
                    let shown: String = parts.iter().map(|part| format!("{part}/")).collect();
                    listing::page(&folder, &format!("/{shown}")).map(Found::Listing)
                }
                _ if settings.spa => single_page(site, &[]),
                _ => nothing(),
            }
        }
        Place::Nothing if settings.spa => single_page(site, parts),
        Place::Nothing => nothing(),
        Place::Closed => Ok(Found::Closed),
    }
}

/// A file of that name at the top, as PM2 does; else the homepage.
fn single_page(site: &Site, parts: &[String]) -> io::Result<Found> {
    if let Some(name) = parts.last()
        && let Place::File(file, facts) = place::open(&site.root, std::slice::from_ref(name))?
    {
        return Ok(Found::File(file, facts, name.clone()));
    }
    let homepage = &site.settings.homepage;
    let home: Vec<String> = homepage.split('/').map(str::to_owned).collect();
    match place::open(&site.root, &home)? {
        Place::File(file, facts) => Ok(Found::File(file, facts, homepage.clone())),
        _ => Ok(Found::Nothing(own_page(site))),
    }
}

/// The site's `404.html`.
fn own_page(site: &Site) -> Option<String> {
    match place::open(&site.root, &["404.html".to_owned()]).ok()? {
        Place::File(file, _) => {
            let mut page = Vec::new();
            file.take(LONGEST_PAGE).read_to_end(&mut page).ok()?;
            Some(String::from_utf8_lossy(&page).into_owned())
        }
        _ => None,
    }
}

/// The file, or the part of it that is wanted.
fn send(file: File, facts: &Metadata, name: &str, headers: &HeaderMap) -> Response<Body> {
    let length = facts.len();
    let changed = facts.modified().ok().map(whole_seconds);
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let since =
        text(header::IF_MODIFIED_SINCE).and_then(|text| httpdate::parse_http_date(text).ok());
    let mut response = Response::new(empty());
    let set = response.headers_mut();
    set.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(changed) = changed
        && let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(changed))
    {
        set.insert(header::LAST_MODIFIED, value);
    }
    if let (Some(since), Some(changed)) = (since, changed)
        && changed <= since
    {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    if let Ok(kind) = HeaderValue::from_str(&kind(name)) {
        set.insert(header::CONTENT_TYPE, kind);
    }
    // A range of another version of the file would be of no use.
    let same_version = text(header::IF_RANGE).is_none_or(|wanted| {
        httpdate::parse_http_date(wanted).is_ok_and(|wanted| Some(wanted) == changed)
    });
    let wanted = text(header::RANGE).filter(|_| same_version);
    let (from, count) = match range::read(wanted, length) {
        Wanted::Whole => (0, length),
        Wanted::Part(from, to) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{to}/{length}");
            if let Ok(range) = HeaderValue::from_str(&range) {
                response.headers_mut().insert(header::CONTENT_RANGE, range);
            }
            (from, to - from + 1)
        }
        Wanted::Impossible => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            if let Ok(range) = HeaderValue::from_str(&format!("bytes */{length}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, range);
            }
            return response;
        }
    };
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    *response.body_mut() = stream(file, from, count);
    response
}

/// HTTP's dates have no fractions.
fn whole_seconds(at: SystemTime) -> SystemTime {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(at, |since| {
            SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
        })
}

/// The content type of a name; `text/plain` for an unknown one, as PM2 says.
fn kind(name: &str) -> String {
    let kind = mime_guess::from_path(name)
        .first_raw()
        .unwrap_or("text/plain");
    let textual = kind.starts_with("text/")
        || matches!(
            kind,
            "application/javascript" | "application/json" | "image/svg+xml"
        );
    match textual {
        true => format!("{kind}; charset=utf-8"),
        false => kind.to_owned(),
    }
}

/// The bytes of a file, a chunk at a time, each read when the one before it has been taken.
fn stream(file: File, from: u64, count: u64) -> Body {
    let chunks = futures_util::stream::unfold(Some((file, from, count)), |rest| async move {
        let (file, from, left) = rest.filter(|(_, _, left)| *left > 0)?;
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
            let length = file.read_at(&mut chunk, from)?;
            chunk.truncate(length);
            match length {
                // It was promised longer, and has been cut meanwhile.
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                _ => Ok((file, chunk)),
            }
        });
        Some(
            match read.await.map_err(io::Error::other).and_then(|read| read) {
                Ok((file, chunk)) => {
                    let length = chunk.len() as u64;
                    let frame = Ok(Frame::data(Bytes::from(chunk)));
                    (frame, Some((file, from + length, left - length)))
                }
                Err(error) => (Err(error), None),
            },
        )
    });
    StreamBody::new(Box::pin(chunks)).boxed_unsync()
}

fn empty() -> Body {
    text("")
}

fn text(words: impl Into<Bytes>) -> Body {
    Full::new(words.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn words(status: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(text(words));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn html(status: StatusCode, page: String) -> Response<Body> {
    let mut response = Response::new(text(page));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
