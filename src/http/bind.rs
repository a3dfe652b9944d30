//! Binds what is to be listened on: one address, or both of `localhost`.

use super::address::{self, Wanted};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream};

/// How often another port is tried where any port will do and only one of the two addresses has it free.
const TRIES: usize = 16;

/// The sockets of one listener.
#[derive(Debug)]
pub(super) struct Bound {
    sockets: Vec<TcpListener>,
    /// The first one's address, with the port that it has got.
    pub address: SocketAddr,
}

/// Why it could not be listened.
#[derive(Debug)]
pub(super) struct Refused {
    /// Something has the port already.
    pub taken: bool,
    /// In words, with the remedy.
    pub words: String,
}

impl Refused {
    fn of(address: SocketAddr, error: &io::Error) -> Self {
        Self {
            taken: error.kind() == ErrorKind::AddrInUse,
            words: address::refusal(address, error),
        }
    }
}

impl Bound {
    async fn at(address: SocketAddr) -> Result<Self, Refused> {
        let refused = |error| Refused::of(address, &error);
        let socket = TcpListener::bind(address).await.map_err(refused)?;
        let address = socket.local_addr().map_err(refused)?;
        Ok(Self {
            sockets: vec![socket],
            address,
        })
    }

    /// Binds it.
    pub async fn to(wanted: Wanted) -> Result<Self, Refused> {
        match wanted {
            Wanted::At(address) => Self::at(address).await,
            Wanted::Localhost(port) => Self::localhost(port).await,
        }
    }

    async fn localhost(port: u16) -> Result<Self, Refused> {
        for _ in 0..TRIES {
            let mut bound = Self::at((IpAddr::V4(Ipv4Addr::LOCALHOST), port).into()).await?;
            let second = (IpAddr::V6(Ipv6Addr::LOCALHOST), bound.address.port()).into();
            match TcpListener::bind(second).await {
                Ok(socket) => bound.sockets.push(socket),
                Err(error) if error.kind() == ErrorKind::AddrInUse && port == 0 => continue,
                // A client that tries ::1 first would reach the other program.
                Err(error) if error.kind() == ErrorKind::AddrInUse => {
                    return Err(Refused::of(second, &error));
                }
                Err(error) => tracing::debug!(%error, "no ::1 on this machine"),
            }
            return Ok(bound);
        }
        let error = io::Error::from(ErrorKind::AddrInUse);
        Err(Refused::of(
            (IpAddr::V6(Ipv6Addr::LOCALHOST), port).into(),
            &error,
        ))
    }

    /// The sockets that a daemon before this one has left. `None`: there are none that listen.
    pub fn inherited(left: Vec<OwnedFd>) -> Option<Self> {
        let sockets: Vec<TcpListener> = left
            .into_iter()
            .filter_map(|socket| TcpListener::from_std(socket.into()).ok())
            .collect();
        let address = sockets.first()?.local_addr().ok()?;
        Some(Self { sockets, address })
    }

    /// Its sockets, to be left to a daemon after this one.
    pub fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd).collect()
    }

    /// Whether it listens where `wanted` says.
    pub fn is(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::At(address) => self.sockets.len() == 1 && self.address == address,
            Wanted::Localhost(port) => self.sockets.len() == 2 && self.address.port() == port,
        }
    }

    /// What to ask for to listen there again.
    pub fn wanted(&self) -> Wanted {
        match self.sockets.len() {
            2 => Wanted::Localhost(self.address.port()),
            _ => Wanted::At(self.address),
        }
    }

    /// The next connection.
    pub fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        for socket in &self.sockets {
            if let Poll::Ready(accepted) = socket.poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}
