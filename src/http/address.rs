//! What `--http` and `FORNAX_HTTP` may say, and in words why an address cannot be listened on.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port where none is named.
const PORT: u16 = 9090;
/// The remedy that every failure to listen names.
const REMEDY: &str =
    "choose another address with `--http ADDR` or FORNAX_HTTP, or switch HTTP off with `off`";

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Here.
    At(SocketAddr),
    /// On this port of 127.0.0.1, and of ::1 where there is one: a client may try either first.
    Localhost(u16),
}

impl Wanted {
    /// Its address, or one of them.
    pub fn ip(self) -> IpAddr {
        match self {
            Wanted::At(address) => address.ip(),
            Wanted::Localhost(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Its port.
    pub fn port(self) -> u16 {
        match self {
            Wanted::At(address) => address.port(),
            Wanted::Localhost(port) => port,
        }
    }
}

/// Reads `off`, `PORT`, `:PORT`, `ADDRESS`, `ADDRESS:PORT` or `localhost[:PORT]`. Without an address it is 127.0.0.1, even
/// for `:PORT`: to be reached from elsewhere is asked for by name (`0.0.0.0:9090`). `None`: nowhere.
pub(super) fn parse(text: &str) -> Result<Option<Wanted>, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = |digits: &str| digits.parse::<u16>().ok();
    let address = if let Ok(address) = text.parse::<SocketAddr>() {
        Some(address)
    } else if let Ok(ip) = text
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
    {
        Some(SocketAddr::new(ip, PORT))
    } else {
        let digits = match text.rsplit_once(':') {
            None if text.eq_ignore_ascii_case("localhost") => {
                return Ok(Some(Wanted::Localhost(PORT)));
            }
            None => Some(text),
            Some(("", digits)) => Some(digits),
            Some((host, digits)) if host.eq_ignore_ascii_case("localhost") => {
                if let Some(port) = port(digits) {
                    return Ok(Some(Wanted::Localhost(port)));
                }
                None
            }
            Some(_) => None,
        };
        digits
            .and_then(port)
            .map(|port| SocketAddr::new(local, port))
    };
    let wanted = address.map(|address| Some(Wanted::At(address)));
    wanted.ok_or_else(|| {
        let shown: String = text.chars().take(100).collect();
        format!(
            "`{shown}` is not an address to listen on; write `9090`, `127.0.0.1:9090`, `0.0.0.0:9090`, `[::1]:9090` or `off` in `--http` or FORNAX_HTTP"
        )
    })
}

/// Why it could not be listened on `address`, with the remedy.
pub(super) fn refusal(address: SocketAddr, error: &io::Error) -> String {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("port {port} of {ip} is already taken by another program; stop it, or {REMEDY}")
        }
        ErrorKind::PermissionDenied => {
            format!("this user may not listen on port {port}; {REMEDY}")
        }
        ErrorKind::AddrNotAvailable => format!("{ip} is not an address of this machine; {REMEDY}"),
        _ => format!("cannot listen on {address}: {error}; {REMEDY}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_form_and_nothing_else() {
        for (text, want) in [
            ("127.0.0.1:9090", Some("127.0.0.1:9090")),
            ("9091", Some("127.0.0.1:9091")),
            (":9092", Some("127.0.0.1:9092")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("[::1]:9090", Some("[::1]:9090")),
            ("[::1]", Some("[::1]:9090")),
            ("::1", Some("[::1]:9090")),
            ("10.0.0.7", Some("10.0.0.7:9090")),
            ("localhost", Some("localhost:9090")),
            ("LocalHost:7", Some("localhost:7")),
            (" 0 ", Some("127.0.0.1:0")),
            ("example.org:9090", None),
            ("127.0.0.1:99999", None),
            ("localhost:", None),
            ("", None),
            (":", None),
            ("-1", None),
        ] {
            let got = match parse(text) {
                Ok(Some(Wanted::At(address))) => Some(address.to_string()),
                Ok(Some(Wanted::Localhost(port))) => Some(format!("localhost:{port}")),
                Ok(None) => panic!("{text:?} is off"),
                Err(error) => {
                    assert!(error.contains("FORNAX_HTTP"), "{error}");
                    None
                }
            };
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
        assert_eq!(parse("off"), Ok(None));
        assert_eq!(parse("OFF"), Ok(None));
    }

    #[test]
    fn each_failure_names_the_remedy() {
        let address: SocketAddr = "127.0.0.1:9090".parse().unwrap();
        for kind in [
            ErrorKind::AddrInUse,
            ErrorKind::PermissionDenied,
            ErrorKind::AddrNotAvailable,
            ErrorKind::Other,
        ] {
            let words = refusal(address, &io::Error::from(kind));
            assert!(
                words.contains("--http") && words.contains("FORNAX_HTTP"),
                "{words}"
            );
        }
    }
}
