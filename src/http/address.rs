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
    /// Nowhere.
    Off,
    /// Here.
    At(SocketAddr),
}

/// Reads `off`, `PORT`, `:PORT`, `ADDRESS`, `ADDRESS:PORT` or `localhost[:PORT]`. Without an address it is 127.0.0.1, even
/// for `:PORT`: to be reached from elsewhere is asked for by name (`0.0.0.0:9090`).
pub(super) fn parse(text: &str) -> Result<Wanted, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("off") {
        return Ok(Wanted::Off);
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
    } else if text.eq_ignore_ascii_case("localhost") {
        Some(SocketAddr::new(local, PORT))
    } else {
        match text.rsplit_once(':') {
            None => port(text),
            Some((host, digits)) if host.is_empty() || host.eq_ignore_ascii_case("localhost") => {
                port(digits)
            }
            Some(_) => None,
        }
        .map(|port| SocketAddr::new(local, port))
    };
    address.map(Wanted::At).ok_or_else(|| {
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
            ("localhost", Some("127.0.0.1:9090")),
            ("LocalHost:7", Some("127.0.0.1:7")),
            (" 0 ", Some("127.0.0.1:0")),
            ("example.org:9090", None),
            ("127.0.0.1:99999", None),
            ("localhost:", None),
            ("", None),
            (":", None),
            ("-1", None),
        ] {
            let got = match parse(text) {
                Ok(Wanted::At(address)) => Some(address.to_string()),
                Ok(Wanted::Off) => panic!("{text:?} is off"),
                Err(error) => {
                    assert!(error.contains("FORNAX_HTTP"), "{error}");
                    None
                }
            };
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
        assert_eq!(parse("off"), Ok(Wanted::Off));
        assert_eq!(parse("OFF"), Ok(Wanted::Off));
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
