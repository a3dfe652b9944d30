//! One request and its redirects: where tokens go, and what an answer means.

use super::error::PullError;
use super::hash::is_sum;
use super::source::{Hosts, shown};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{RootCerts, TlsConfig};
use url::Url;

/// The most redirects of one request.
const REDIRECTS: usize = 10;

/// How long a name, a connection and a request may take.
const CONNECT: Duration = Duration::from_secs(30);

/// The largest answer of an API, in bytes.
const API_ANSWER: u64 = 4 << 20;

/// Asks, and reads answers.
pub(super) struct Client {
    agent: Agent,
    pub(super) hosts: Hosts,
}

/// What is asked for.
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    /// The first byte that is wanted.
    pub(super) from: u64,
    /// Only if the file is still the one with this validator (If-Range).
    pub(super) if_range: Option<&'a str>,
}

/// What a source tells of its file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Its SHA-256, by Hugging Face's or Civitai's word.
    pub(super) sum: Option<String>,
    /// Its size, by Hugging Face's word.
    pub(super) size: Option<u64>,
}

/// An answer with a body.
pub(super) struct Reply {
    /// 200, 206 or 416.
    pub(super) status: u16,
    /// The body's length.
    pub(super) length: Option<u64>,
    /// Content-Range: the first byte, and the whole size.
    pub(super) range: (Option<u64>, Option<u64>),
    /// What If-Range may be asked with: a strong ETag, else the date of the last change.
    pub(super) validator: Option<String>,
    /// What the source's own host told on the way.
    pub(super) told: Told,
    /// The bytes.
    pub(super) body: Box<dyn Read>,
}

/// Why there is no answer with a body.
pub(super) enum Fault {
    /// Trying again won't help.
    Final(PullError),
    /// It may.
    Again {
        /// Why, in words.
        why: String,
        /// Not before so long, by the server's word.
        after: Option<Duration>,
    },
}

impl From<PullError> for Fault {
    fn from(error: PullError) -> Self {
        Self::Final(error)
    }
}

impl Fault {
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self::Again {
            why: why.into(),
            after: None,
        }
    }
}

impl Client {
    /// `stall`: how long nothing may come. Proxies are those of the environment, certificates those of the machine.
    pub(super) fn new(hosts: Hosts, stall: Duration) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("fornax/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(CONNECT))
            .timeout_recv_response(Some(stall))
            .timeout_per_read(Some(stall))
            // A connection that has been broken once is not worth keeping.
            .max_idle_connections(0)
            .build();
        Self {
            agent: config.into(),
            hosts,
        }
    }

    /// Follows redirects to an answer with a body.
    pub(super) fn open(&self, ask: &Ask<'_>) -> Result<Reply, Fault> {
        let mut url = ask.url.clone();
        let mut told = Told::default();
        for _ in 0..=REDIRECTS {
            let response = self.request(&url, Some(ask))?;
            let status = response.status().as_u16();
            let headers = response.headers();
            // Only the repository's own host is believed: whoever it redirects to could announce what he likes.
            if self.hosts.is_face(&url) && told == Told::default() {
                told = linked(headers);
            }
            match status {
                200 | 206 | 416 => {
                    self.check_kind(ask.url, &url, headers)?;
                    return Ok(reply(status, told, response));
                }
                301 | 302 | 303 | 307 | 308 => url = next(&url, headers)?,
                _ => return Err(self.fault(ask.url, &url, status, headers)),
            }
        }
        Err(PullError::Redirect {
            url: shown(ask.url),
            what: "more than ten times",
        }
        .into())
    }

    /// What Civitai tells of a version's file, as far as it can be had.
    pub(super) fn civitai(&self, version: u64) -> Result<Told, Fault> {
        let url = self.hosts.civitai_facts(version);
        let mut response = self.request(&url, None)?;
        match response.status().as_u16() {
            200 => {}
            404 => {
                return Err(PullError::NotFound {
                    url: shown(&url),
                    status: 404,
                }
                .into());
            }
            // The download itself will tell of what is wrong.
            _ => return Ok(Told::default()),
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(API_ANSWER)
            .read_to_string();
        let value: serde_json::Value = text
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let files = value["files"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        // The address without further words loads the primary file.
        let file = files
            .iter()
            .find(|file| file["primary"] == true)
            .or_else(|| files.first());
        let sum = file
            .and_then(|file| file["hashes"]["SHA256"].as_str())
            .map(str::to_ascii_lowercase);
        Ok(Told {
            sum: sum.filter(|sum| is_sum(sum)),
            size: None,
        })
    }

    fn request(&self, url: &Url, ask: Option<&Ask<'_>>) -> Result<Response<ureq::Body>, Fault> {
        let mut request = self
            .agent
            .get(url.as_str())
            .header("Accept-Encoding", "identity");
        if let Some(token) = self.hosts.token(url) {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(ask) = ask.filter(|ask| ask.from > 0) {
            request = request.header("Range", format!("bytes={}-", ask.from));
            if let Some(validator) = ask.if_range {
                request = request.header("If-Range", validator);
            }
        }
        request.call().map_err(|error| Fault::again(words(&error)))
    }

    fn check_kind(&self, first: &Url, url: &Url, headers: &HeaderMap) -> Result<(), Fault> {
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_ascii_lowercase()
        };
        // Civitai, and portals of networks, answer who is not logged in with a page for people.
        if header("content-type").starts_with("text/html") {
            return Err(PullError::WebPage {
                url: shown(url),
                mend: self.hosts.mend_refusal(first),
            }
            .into());
        }
        if !matches!(header("content-encoding").as_str(), "" | "identity") {
            return Err(Fault::again(
                "it sent the file in a packed form that was not asked for",
            ));
        }
        Ok(())
    }

    /// What a status means that brings no file.
    fn fault(&self, first: &Url, url: &Url, status: u16, headers: &HeaderMap) -> Fault {
        let signed = first.origin() != url.origin();
        match status {
            404 | 410 => PullError::NotFound {
                url: shown(url),
                status,
            }
            .into(),
            // A signed address that has expired: the first one gives another.
            401 | 403 if signed => Fault::again(format!(
                "{} refuses the address that it was redirected to (HTTP {status})",
                shown(url)
            )),
            401 | 403 => PullError::Refused {
                url: shown(url),
                status,
                mend: self.hosts.mend_refusal(first),
            }
            .into(),
            408 | 425 | 429 | 500..=599 => {
                let after = headers
                    .get("retry-after")
                    .and_then(|value| value.to_str().ok()?.trim().parse().ok());
                Fault::Again {
                    why: format!("it answered HTTP {status}"),
                    after: after.map(Duration::from_secs),
                }
            }
            _ => PullError::Status {
                url: shown(url),
                status,
            }
            .into(),
        }
    }
}

/// ureq's words for a failure, without addresses.
pub(super) fn words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => "its address cannot be asked".to_owned(),
        ureq::Error::Timeout(_) => "nothing came for too long".to_owned(),
        ureq::Error::Io(error) => error.to_string(),
        other => match other.to_string() {
            words if words.contains("certificate") => {
                format!(
                    "{words} (the machine's certificates are those of the package ca-certificates, or of SSL_CERT_FILE)"
                )
            }
            words => words,
        },
    }
}

fn reply(status: u16, told: Told, response: Response<ureq::Body>) -> Reply {
    let text = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    // A weak ETag may not be asked with (RFC 9110, 13.1.5).
    let etag = text("etag").filter(|etag| etag.starts_with('"'));
    let validator = etag.or_else(|| text("last-modified")).map(str::to_owned);
    Reply {
        status,
        length: text("content-length").and_then(|text| text.parse().ok()),
        range: text("content-range").map_or((None, None), content_range),
        validator,
        told,
        body: Box::new(response.into_body().into_reader()),
    }
}

/// `bytes 5-9/10` and `bytes */10` (RFC 9110, 14.4).
fn content_range(text: &str) -> (Option<u64>, Option<u64>) {
    let inner = || {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        Some((
            range.split('-').next()?.trim().parse().ok(),
            total.trim().parse().ok(),
        ))
    };
    inner().unwrap_or((None, None))
}

/// Hugging Face's words about a file of its large file storage.
fn linked(headers: &HeaderMap) -> Told {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let sum = text("x-linked-etag").map(|sum| sum.trim().trim_matches('"').to_ascii_lowercase());
    Told {
        sum: sum.filter(|sum| is_sum(sum)),
        size: text("x-linked-size").and_then(|size| size.trim().parse().ok()),
    }
}

fn next(url: &Url, headers: &HeaderMap) -> Result<Url, Fault> {
    let wrong = |what| {
        Fault::Final(PullError::Redirect {
            url: shown(url),
            what,
        })
    };
    let location = headers
        .get("location")
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| wrong("to nowhere"))?;
    let next = url
        .join(location)
        .map_err(|_| wrong("to something that is no address"))?;
    match (url.scheme(), next.scheme()) {
        ("https", "https") | ("http", "http" | "https") => Ok(next),
        ("https", "http") => Err(wrong(
            "from https to http, where anybody on the way could change the file",
        )),
        _ => Err(wrong("to something that is no http address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_nonsense_is_not() {
        assert_eq!(content_range("bytes 5-9/10"), (Some(5), Some(10)));
        assert_eq!(content_range("bytes */10"), (None, Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), (Some(5), None));
        assert_eq!(content_range("lines 1-2/3"), (None, None));
        let sum = "a".repeat(64);
        let headers = |list: &[(&'static str, &str)]| {
            list.iter()
                .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        let told = linked(&headers(&[
            ("x-linked-etag", &format!("\"{sum}\"")),
            ("x-linked-size", "7"),
        ]));
        assert_eq!(
            told,
            Told {
                sum: Some(sum),
                size: Some(7)
            }
        );
        assert_eq!(
            linked(&headers(&[("x-linked-etag", "\"abc\"")])),
            Told::default()
        );
        let url = Url::parse("https://h/a/b?x=secret").unwrap();
        assert_eq!(
            next(&url, &headers(&[("location", "../c")]))
                .ok()
                .unwrap()
                .as_str(),
            "https://h/c"
        );
        for bad in ["http://h/c", "file:///etc/passwd", "https://["] {
            assert!(next(&url, &headers(&[("location", bad)])).is_err(), "{bad}");
        }
    }
}
