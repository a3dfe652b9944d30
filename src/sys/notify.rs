//! What a service tells systemd: sd_notify(3)'s protocol, a datagram of `KEY=value` lines to the socket of `NOTIFY_SOCKET`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The variables by which systemd tells a service where it listens. No program that a service starts is to have them.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The way to systemd.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    /// Within this time after the last word systemd takes us for dead, if it watches at all.
    pub watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says; `None` when nobody listens.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> io::Result<Option<Self>> {
        let Some(path) = env("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // systemd reads at once; should it not, we must not hang for it.
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        let meant = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = env("WATCHDOG_USEC")
            .filter(|_| meant)
            .and_then(|text| text.parse().ok())
            .filter(|micros| *micros > 0)
            .map(Duration::from_micros);
        Ok(Some(Self { socket, watchdog }))
    }

    /// Says `KEY=value` lines.
    pub fn say(&self, lines: &str) -> io::Result<()> {
        self.socket.send(lines.as_bytes()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_is_told_where_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let abstract_name = format!("fornax-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let other = UnixDatagram::bind_addr(&address).unwrap();
        for (name, listener) in [
            (path.to_str().unwrap().to_owned(), systemd),
            (format!("@{abstract_name}"), other),
        ] {
            let env = move |key: &str| match key {
                "NOTIFY_SOCKET" => Some(name.clone()),
                "WATCHDOG_USEC" => Some("3000000".to_owned()),
                _ => None,
            };
            let notifier = Notifier::from_env(&env).unwrap().unwrap();
            assert_eq!(notifier.watchdog, Some(Duration::from_secs(3)));
            notifier.say("READY=1\nSTATUS=here").unwrap();
            let mut buffer = [0; 64];
            let length = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1\nSTATUS=here");
        }
    }

    #[test]
    fn nobody_who_listens_is_no_error_and_another_processs_watchdog_is_not_ours() {
        assert!(Notifier::from_env(&|_| None).unwrap().is_none());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _systemd = UnixDatagram::bind(&path).unwrap();
        let env = |key: &str| match key {
            "NOTIFY_SOCKET" => Some(path.to_str().unwrap().to_owned()),
            "WATCHDOG_USEC" => Some("1".to_owned()),
            "WATCHDOG_PID" => Some("1".to_owned()),
            _ => None,
        };
        assert_eq!(Notifier::from_env(&env).unwrap().unwrap().watchdog, None);
        assert!(Notifier::from_env(&|_| Some("/nowhere/notify".to_owned())).is_err());
    }
}
