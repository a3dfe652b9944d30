//! The sockets that workers ask for, made as libuv makes them: bound, listening where the daemon accepts, non-blocking.

use super::query::Query;
use crate::core::cluster::{Family, Sched};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike,
    SockaddrStorage, UnixAddr, bind, getsockname, listen, setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A bound socket.
#[derive(Debug)]
pub(super) struct Bound {
    pub fd: OwnedFd,
    /// What `server.address()` is to say; `Null` for a path.
    pub sockname: Value,
    /// The file to remove when it is closed.
    pub path: Option<PathBuf>,
}

/// Binds what is asked for. The error is what the worker is told, and raises.
pub(super) fn open(query: &Query, sched: Sched) -> Result<Bound, Errno> {
    if query.key.fd.is_some() {
        // The number means a descriptor of the primary's: ours are not for apps.
        return Err(Errno::EBADF);
    }
    let listens = !query.key.family.is_udp() && sched == Sched::RoundRobin;
    let address = query.key.address.as_deref();
    let port = match query.key.family {
        Family::Unix => 0,
        _ => u16::try_from(query.key.port).map_err(|_| Errno::EINVAL)?,
    };
    let bound = match (query.key.family, address) {
        (Family::Unix, Some(path)) => unix(query, path)?,
        (Family::Unix, None) => return Err(Errno::EINVAL),
        // Both families, or the old one where there is no other.
        (Family::Tcp4, None) => match v6(query, Ipv6Addr::UNSPECIFIED, 0, port) {
            Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
                v4(query, Ipv4Addr::UNSPECIFIED, port)?
            }
            other => other?,
        },
        (Family::Tcp4 | Family::Udp4, Some(text)) => v4(query, parse(text)?, port)?,
        (Family::Udp4, None) => v4(query, Ipv4Addr::UNSPECIFIED, port)?,
        (Family::Tcp6 | Family::Udp6, Some(text)) => {
            let (address, zone) = zoned(text)?;
            v6(query, address, zone, port)?
        }
        (Family::Tcp6 | Family::Udp6, None) => v6(query, Ipv6Addr::UNSPECIFIED, 0, port)?,
    };
    if listens {
        let most = i32::from(Backlog::MAXCONN);
        listen(&bound, Backlog::new(query.backlog.min(most))?)?;
    }
    Ok(Bound {
        sockname: sockname(&bound),
        path: address
            .filter(|_| query.key.family == Family::Unix)
            .map(PathBuf::from),
        fd: bound,
    })
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Errno> {
    text.parse().map_err(|_| Errno::EINVAL)
}

/// `fe80::1%eth0`, say.
fn zoned(text: &str) -> Result<(Ipv6Addr, u32), Errno> {
    let Some((address, zone)) = text.split_once('%') else {
        return Ok((parse(text)?, 0));
    };
    let number = zone.parse().ok();
    let number = number.map_or_else(|| nix::net::if_::if_nametoindex(zone), Ok)?;
    Ok((parse(address)?, number))
}

fn make(query: &Query, family: AddressFamily) -> Result<OwnedFd, Errno> {
    let kind = if query.key.family.is_udp() {
        SockType::Datagram
    } else {
        SockType::Stream
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, kind, flags, None)?;
    if family != AddressFamily::Unix {
        setsockopt(&fd, sockopt::ReuseAddr, &query.reuse_address)?;
    }
    Ok(fd)
}

fn bound(fd: OwnedFd, address: &dyn SockaddrLike) -> Result<OwnedFd, Errno> {
    bind(fd.as_raw_fd(), address).map(|()| fd)
}

fn v4(query: &Query, address: Ipv4Addr, port: u16) -> Result<OwnedFd, Errno> {
    let fd = make(query, AddressFamily::Inet)?;
    bound(fd, &SockaddrIn::from(SocketAddrV4::new(address, port)))
}

fn v6(query: &Query, address: Ipv6Addr, zone: u32, port: u16) -> Result<OwnedFd, Errno> {
    let fd = make(query, AddressFamily::Inet6)?;
    setsockopt(&fd, sockopt::Ipv6V6Only, &query.ipv6_only)?;
    let address = SocketAddrV6::new(address, port, 0, zone);
    bound(fd, &SockaddrIn6::from(address))
}

fn unix(query: &Query, path: &str) -> Result<OwnedFd, Errno> {
    // libuv's answers: a leading NUL is Linux's abstract name, a path too long an error of its own.
    let address = match path.strip_prefix('\0') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(Path::new(path))?,
    };
    let fd = bound(make(query, AddressFamily::Unix)?, &address)?;
    let more = u32::from(query.readable_all) * 0o444 + u32::from(query.writable_all) * 0o222;
    if more != 0
        && let Ok(known) = std::fs::metadata(path)
    {
        let mode = known.permissions().mode() | more;
        let wider = std::fs::Permissions::from_mode(mode);
        if let Err(error) = std::fs::set_permissions(path, wider) {
            // As it failed half way, nothing of it is left.
            let _ = std::fs::remove_file(path);
            return Err(error.raw_os_error().map_or(Errno::EPERM, Errno::from_raw));
        }
    }
    Ok(fd)
}

/// The address as Node's `getsockname` tells it.
pub(super) fn sockname(fd: &OwnedFd) -> Value {
    let Ok(name) = getsockname::<SockaddrStorage>(fd.as_raw_fd()) else {
        return Value::Null;
    };
    if let Some(name) = name.as_sockaddr_in() {
        json!({"address": name.ip().to_string(), "family": "IPv4", "port": name.port()})
    } else if let Some(name) = name.as_sockaddr_in6() {
        json!({"address": name.ip().to_string(), "family": "IPv6", "port": name.port()})
    } else {
        Value::Null
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(message: Value) -> Query {
        Query::read("web", &message).unwrap()
    }

    fn asked(message: Value) -> Result<Bound, Errno> {
        open(&query(message), Sched::RoundRobin)
    }

    #[test]
    fn a_port_the_kernel_chose_is_told_and_taken() {
        let first = asked(json!({"address": "127.0.0.1", "port": 0, "addressType": 4})).unwrap();
        assert_eq!(first.sockname["address"], "127.0.0.1");
        let port = &first.sockname["port"];
        let again = asked(json!({"address": "127.0.0.1", "port": port, "addressType": 4}));
        assert_eq!(again.unwrap_err(), Errno::EADDRINUSE);
        std::net::TcpStream::connect(("127.0.0.1", port.as_u64().unwrap() as u16)).unwrap();
    }

    #[test]
    fn datagrams_and_shared_listeners_are_bound_only() {
        let udp = asked(json!({"address": "0.0.0.0", "port": 0, "addressType": "udp4"})).unwrap();
        assert_ne!(udp.sockname["port"], 0);
        let shared = query(json!({"address": "127.0.0.1", "port": 0, "addressType": 4}));
        let shared = open(&shared, Sched::Shared).unwrap();
        let port = shared.sockname["port"].as_u64().unwrap() as u16;
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[test]
    fn a_path_gets_the_rights_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let message = json!({"address": path, "port": -1, "addressType": -1, "writableAll": true});
        let bound = asked(message.clone()).unwrap();
        assert_eq!(
            (bound.path.as_deref(), &bound.sockname),
            (Some(&*path), &Value::Null)
        );
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0o222);
        assert_eq!(asked(message).unwrap_err(), Errno::EADDRINUSE);
    }

    #[test]
    fn what_cannot_be_bound_is_an_error_of_the_kernels() {
        for (message, want) in [
            (
                json!({"port": -1, "addressType": null, "fd": 3}),
                Errno::EBADF,
            ),
            (
                json!({"address": "x", "port": 1, "addressType": 4}),
                Errno::EINVAL,
            ),
            (
                json!({"address": "127.0.0.1", "port": 70_000, "addressType": 4}),
                Errno::EINVAL,
            ),
            (
                json!({"address": "192.0.2.1", "port": 0, "addressType": 4}),
                Errno::EADDRNOTAVAIL,
            ),
            (
                json!({"address": "/no/such/folder/s", "port": -1, "addressType": -1}),
                Errno::ENOENT,
            ),
        ] {
            assert_eq!(asked(message.clone()).unwrap_err(), want, "{message}");
        }
    }
}
