//! Whether somebody is at home behind a socket: a call may take as long as an app takes to stop, but a ping is answered at once.

use crate::pm2::amp;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A call that is not answered for so long makes its client ask whether the daemon lives, again and again.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A ping must be answered within this time, however busy the machine is.
const PING_LIMIT: Duration = Duration::from_secs(10);

/// Connects, and waits no longer than a ping may take where the daemon accepts nobody any more.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let socket = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let limit = TimeVal::new(PING_LIMIT.as_secs() as i64, 0);
    socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    socket::connect(socket.as_raw_fd(), &address)?;
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether the daemon answers a ping, on a connection of its own: on the caller's, a large call may stand before it.
pub(super) fn answers(path: &Path) -> bool {
    let ask = || -> io::Result<()> {
        let mut stream = connect(path)?;
        stream.set_read_timeout(Some(PING_LIMIT))?;
        let call = amp::json(r#"{"type":"call","method":"ping","args":[{}]}"#);
        stream.write_all(&amp::encode(&[&call, &amp::text("alive:0")]))?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}

/// What is known of the daemon's process, and what may help.
pub(super) fn state(socket: &Path) -> String {
    let pid = socket
        .parent()
        .and_then(|home| std::fs::read_to_string(home.join("pm2.pid")).ok())
        .and_then(|text| text.trim().parse::<u32>().ok());
    let Some(pid) = pid else {
        return "see pm2.log in PM2_HOME".to_owned();
    };
    // The state is the first word after the name, which may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .trim()
        .chars()
        .next()
    {
        Some('T' | 't') => {
            format!("its process {pid} is stopped by a signal; let it go on with: kill -CONT {pid}")
        }
        Some(_) => {
            format!("its process is {pid}; see pm2.log in PM2_HOME, or end it with: kill -9 {pid}")
        }
        None => {
            format!("pm2.pid names process {pid}, which does not exist; see pm2.log in PM2_HOME")
        }
    }
}

/// Whether an error only says that a time limit has passed.
pub(super) fn timed_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
