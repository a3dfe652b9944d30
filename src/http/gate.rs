//! Who may ask, and change: the method, the host that was asked for, the page that asks, the size of the body, and the token.

use super::answer::shown;
use super::problem::Problem;
use super::token::{LazyToken, Token};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, Version};
use std::net::{IpAddr, Ipv6Addr};

/// What an asker may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Full,
    /// One word of `/health` and `/ready`.
    Words,
}

/// The largest body of a change, in bytes.
const BODY: u64 = 64 << 10;
/// The largest body of a job: its workflow, and files to upload. In bytes.
pub(super) const JOB_BODY: u64 = 64 << 20;

/// Of whom the token is wanted.
#[derive(Debug)]
pub(super) enum Guard {
    /// Of everybody: other machines reach this listener.
    All(Token),
    /// Of whoever changes something: any user of this machine reaches this listener, and the daemon acts as its owner.
    Changes(LazyToken),
}

/// The rules of one listener.
#[derive(Debug)]
pub(super) struct Gate {
    /// Of whom the token is wanted.
    pub guard: Guard,
    /// Names that may be asked for besides loopback ones and the listener's own address.
    pub hosts: Vec<String>,
}

/// Whether a request only wants to be told something.
pub(super) fn only_asks(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// How long the body of this request may be, in bytes.
fn body_limit(request: &Parts) -> u64 {
    let is_job = request.method == Method::POST && request.uri.path() == "/jobs";
    if is_job { JOB_BODY } else { BODY }
}

impl Gate {
    /// Whether a request that came in at the address `local` is to be answered.
    pub async fn admit(&self, request: &Parts, local: IpAddr) -> Result<Access, Problem> {
        self.is_sound(request, local)?;
        let given = request.headers.get(AUTHORIZATION);
        let opens = |token: &Token| given.is_some_and(|given| token.is_in(given.as_bytes()));
        let asks = only_asks(&request.method);
        match &self.guard {
            Guard::All(token) if opens(token) => Ok(Access::Full),
            Guard::All(_) => {
                let words = asks && matches!(request.uri.path(), "/health" | "/ready");
                if words && given.is_none() {
                    Ok(Access::Words)
                } else {
                    Err(Problem::Token)
                }
            }
            Guard::Changes(_) if asks => Ok(Access::Full),
            Guard::Changes(token) => match token.get().await {
                Ok(token) if opens(token) => Ok(Access::Full),
                Ok(_) => Err(Problem::TokenToChange),
                Err(why) => Err(Problem::NoToken(why)),
            },
        }
    }

    /// What holds of every request, whoever asks.
    fn is_sound(&self, request: &Parts, local: IpAddr) -> Result<(), Problem> {
        match request.method {
            Method::GET | Method::HEAD => {}
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
                has_fair_body(request)?;
            }
            _ => {
                return Err(Problem::Method {
                    method: shown(request.method.as_str()),
                    nowhere: true,
                });
            }
        }
        // Where two programs may differ on where a body ends, a second request could be hidden in it (RFC 9112, 11.2).
        if request.headers.contains_key(TRANSFER_ENCODING) {
            return Err(Problem::Header {
                name: "transfer-encoding",
                why:
                    "it is not taken; leave it out, and tell the length of a body by content-length"
                        .to_owned(),
            });
        }
        let host = only(&request.headers, &HOST)?;
        // What stands in the request line counts before the header (RFC 9112, 3.2.2); both are looked at.
        let named = request.uri.authority().map(|authority| authority.as_str());
        if host.is_none() && named.is_none() && request.version > Version::HTTP_10 {
            return Err(Problem::Header {
                name: "host",
                why: "it must be given in HTTP/1.1".to_owned(),
            });
        }
        for asked in host.iter().copied().chain(named) {
            if !self.knows(asked, local) {
                return Err(Problem::Host { host: shown(asked) });
            }
        }
        if let Some(origin) = only(&request.headers, &ORIGIN)?
            && !is_same_site(origin, named.or(host))
        {
            return Err(Problem::Origin {
                origin: shown(origin),
            });
        }
        if is_part_of_another_page(&request.headers) {
            return Err(Problem::Embedded);
        }
        Ok(())
    }

    /// Whether `host` (with or without a port) is a name of ours. A page of another site that has its name resolved to this
    /// machine (DNS rebinding) comes with its own name.
    fn knows(&self, host: &str, local: IpAddr) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        if let Some(ip) = as_ip(name) {
            let ip = ip.to_canonical();
            if ip.is_loopback() || ip == local.to_canonical() {
                return true;
            }
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| {
                without_port(known).is_some_and(|known| known.eq_ignore_ascii_case(name))
            })
    }
}

/// The one value of a header; several, or one that is no text, are an error.
fn only<'a>(headers: &'a HeaderMap, name: &'static HeaderName) -> Result<Option<&'a str>, Problem> {
    let wrong = |why: &str| Problem::Header {
        name: name.as_str(),
        why: why.to_owned(),
    };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(wrong("it must be given once"));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| wrong("it must be ASCII text"))
}

/// The body of a change is as long as it says, and not longer than is taken there.
fn has_fair_body(request: &Parts) -> Result<(), Problem> {
    let Some(length) = only(&request.headers, &CONTENT_LENGTH)? else {
        return Ok(());
    };
    let limit = body_limit(request);
    match length.parse::<u64>() {
        Ok(length) if length <= limit => Ok(()),
        Ok(_) => Err(Problem::Large { limit }),
        Err(_) => Err(Problem::Header {
            name: "content-length",
            why: "it must be a number of bytes".to_owned(),
        }),
    }
}

/// `name`, `name:port`, `[v6]`, `[v6]:port` less the port; a v6 address keeps its brackets. `None` if it is none of these.
fn without_port(host: &str) -> Option<&str> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => {
            let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let is_port = is_digits && port.parse::<u16>().is_ok();
            is_port.then_some(name)?
        }
        _ => host,
    };
    (!name.is_empty()).then_some(name)
}

fn as_ip(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')?
            .parse::<Ipv6Addr>()
            .ok()
            .map(IpAddr::V6),
        None => name.parse().ok(),
    }
}

/// Whether a browser asks for the sake of another site's page: a picture or a frame of it comes without an origin, and could take
/// every follower's seat. Following a link is the person's own wish (W3C, Fetch Metadata Request Headers).
fn is_part_of_another_page(headers: &HeaderMap) -> bool {
    let says = |name: &str, words: &[&str]| {
        headers
            .get(name)
            .is_some_and(|value| words.iter().any(|word| value.as_bytes() == word.as_bytes()))
    };
    let linked = says("sec-fetch-mode", &["navigate"]) && says("sec-fetch-dest", &["document"]);
    says("sec-fetch-site", &["cross-site", "same-site"]) && !linked
}

/// Whether a page of `origin` is one of the host it asks.
fn is_same_site(origin: &str, host: Option<&str>) -> bool {
    let site = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    site.zip(host)
        .is_some_and(|(site, host)| site.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use futures_util::FutureExt;

    fn admit(gate: &Gate, request: axum::http::request::Builder) -> Result<Access, u16> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        // A token that is at hand is not waited for.
        let admitted = gate.admit(&parts, "10.0.0.7".parse().unwrap());
        admitted
            .now_or_never()
            .unwrap()
            .map_err(|problem| problem.status().as_u16())
    }

    /// The gate of a loopback address.
    fn local(hosts: &[&str]) -> Gate {
        Gate {
            guard: Guard::Changes(LazyToken::known("0123456789abcdef")),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        }
    }

    #[test]
    fn who_changes_something_brings_the_token_on_loopback_too() {
        let gate = local(&[]);
        let ask = |method: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder()
                .method(method)
                .uri("/jobs")
                .header("host", "localhost");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            admit(&gate, request)
        };
        let token = ("authorization", "Bearer 0123456789abcdef");
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert_eq!(ask(method, &[]), Err(401), "{method}");
            assert_eq!(
                ask(method, &[("authorization", "Bearer wrong-token-here")]),
                Err(401)
            );
            assert_eq!(ask(method, &[token]), Ok(Access::Full), "{method}");
            let foreign = [token, ("origin", "https://example.org")];
            assert_eq!(ask(method, &foreign), Err(403), "{method}");
        }
        for method in ["OPTIONS", "TRACE", "CONNECT", "FOO"] {
            assert_eq!(ask(method, &[token]), Err(405), "{method}");
        }
        assert_eq!(ask("GET", &[]), Ok(Access::Full));
        assert_eq!(
            ask("POST", &[token, ("transfer-encoding", "chunked")]),
            Err(400)
        );
        assert_eq!(
            ask("POST", &[token, ("content-length", "67108864")]),
            Ok(Access::Full)
        );
        assert_eq!(
            ask("POST", &[token, ("content-length", "67108865")]),
            Err(413)
        );
        assert_eq!(
            ask("DELETE", &[token, ("content-length", "65537")]),
            Err(413)
        );
        assert_eq!(ask("POST", &[token, ("content-length", "-1")]), Err(400));
    }

    #[test]
    fn only_names_of_ours_are_answered() {
        let gate = local(&["gpu.example.org", "box:9090"]);
        for (host, known) in [
            ("localhost", true),
            ("LOCALHOST:9090", true),
            ("localhost.:1", true),
            ("127.0.0.1:9090", true),
            ("127.9.9.9", true),
            ("[::1]:9090", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("10.0.0.7:80", true),
            ("10.0.0.8:80", false),
            ("gpu.example.org:443", true),
            ("box", true),
            ("evil.example.org", false),
            ("localhost.evil.org", false),
            ("evil.org:localhost", false),
            ("127.0.0.1.evil.org", false),
            ("[::1", false),
            ("", false),
            (":9090", false),
            ("[::1]:65535", true),
            ("[::1]:65536", false),
            ("[::1]:444444444444444444444444444444444444444480", false),
            ("localhost:+80", false),
        ] {
            let got = admit(&gate, Request::get("/health").header("host", host));
            assert_eq!(got.is_ok(), known, "{host:?}: {got:?}");
        }
        let twice = Request::get("/")
            .header("host", "localhost")
            .header("host", "evil.org");
        assert_eq!(admit(&gate, twice), Err(400));
        assert_eq!(admit(&gate, Request::get("/")), Err(400));
        let in_line = Request::get("http://evil.org/health").header("host", "localhost");
        assert_eq!(admit(&gate, in_line), Err(403));
        let old = Request::get("/health").version(Version::HTTP_10);
        assert_eq!(admit(&gate, old), Ok(Access::Full));
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let gate = local(&[]);
        for (origin, ok) in [
            ("http://localhost:9090", true),
            ("http://localhost:3000", false),
            ("https://evil.org", false),
            ("null", false),
            ("", false),
        ] {
            let request = Request::get("/health")
                .header("host", "localhost:9090")
                .header("origin", origin);
            assert_eq!(admit(&gate, request).is_ok(), ok, "{origin:?}");
        }
    }

    #[test]
    fn a_picture_in_another_sites_page_is_refused_and_a_link_is_followed() {
        let gate = local(&[]);
        for (site, mode, dest, ok) in [
            ("cross-site", "no-cors", "image", false),
            ("same-site", "no-cors", "script", false),
            ("cross-site", "navigate", "iframe", false),
            ("cross-site", "navigate", "document", true),
            ("same-origin", "cors", "empty", true),
            ("none", "navigate", "document", true),
        ] {
            let request = Request::get("/logs")
                .header("host", "localhost")
                .header("sec-fetch-site", site)
                .header("sec-fetch-mode", mode)
                .header("sec-fetch-dest", dest);
            assert_eq!(admit(&gate, request).is_ok(), ok, "{site} {mode} {dest}");
        }
    }

    #[test]
    fn an_open_port_wants_the_token_for_all_but_two_words() {
        let home = tempfile::tempdir().unwrap();
        let token = Token::obtain(Some("0123456789abcdef"), home.path()).unwrap();
        let gate = Gate {
            guard: Guard::All(token),
            hosts: Vec::new(),
        };
        let ask = |path: &str, token: Option<&str>| {
            let mut request = Request::get(path).header("host", "10.0.0.7:9090");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            admit(&gate, request)
        };
        let (right, wrong) = (Some("0123456789abcdef"), Some("0123456789abcdeX"));
        assert_eq!(ask("/services", None), Err(401));
        assert_eq!(ask("/services", wrong), Err(401));
        assert_eq!(ask("/services", right), Ok(Access::Full));
        assert_eq!(ask("/health", None), Ok(Access::Words));
        assert_eq!(ask("/ready", None), Ok(Access::Words));
        assert_eq!(ask("/health", right), Ok(Access::Full));
        assert_eq!(ask("/health", wrong), Err(401));
        assert_eq!(ask("/health/", None), Err(401));
    }
}
