//! Why a simulated instance could not start or go on, and the exit code ComfyUI gives for it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A start or a run that failed.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The port is taken, or the address is not this machine's. The text is asyncio's, which supervisors look for.
    #[error("OSError: [Errno {}] error while attempting to bind on address ('{}', {}): {}", errno(source), address.ip(), address.port(), words(source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An `--extra-model-paths-config` file does not exist.
    #[error("FileNotFoundError: [Errno 2] No such file or directory: '{}'; give --extra-model-paths-config a file that exists", path.display())]
    ModelPathsMissing {
        /// The file asked for.
        path: PathBuf,
    },
    /// `--user-directory` is not a directory.
    #[error("argument --user-directory: invalid directory value: '{}'; create it first", path.display())]
    UserDirectory {
        /// The directory asked for.
        path: PathBuf,
    },
    /// A directory could not be made or cleared.
    #[error("cannot {action} {}: {source}; check its permissions and that its disk has room", path.display())]
    Directory {
        /// `create` or `clear`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no driver (the fault `no-driver`). torch's words.
    #[error(
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
    )]
    NoDriver,
    /// The runtime or the signal handler could not be set up.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The server ended without being asked to.
    #[error("the server ended: {source}")]
    Server {
        /// Why.
        source: io::Error,
    },
}

impl SimulateError {
    /// The exit code that ComfyUI 0.3.64 gives: 2 for a usage error, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            SimulateError::UserDirectory { .. } => 2,
            SimulateError::Bind { .. }
            | SimulateError::NoDriver
            | SimulateError::ModelPathsMissing { .. }
            | SimulateError::Directory { .. }
            | SimulateError::Setup { .. }
            | SimulateError::Server { .. } => 1,
        }
    }
}

/// The number of the system's error; 0 where there is none.
fn errno(source: &io::Error) -> i32 {
    source.raw_os_error().unwrap_or(0)
}

/// The system's words as Python's asyncio prints them.
fn words(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => source.to_string(),
    }
}
