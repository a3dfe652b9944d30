//! The daemon as the keeper sees it: the program it is, and the process it runs as.

use crate::core::keeping;
use crate::sys::spawn::{self, SpawnError, SpawnPlan};
use crate::sys::{packets, pidfd, program};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is executed.
#[derive(Debug)]
pub enum Program {
    /// The program that the keeper itself is, even if its file has been replaced.
    Own,
    /// Another one, open.
    Other(OwnedFd),
}

impl Program {
    /// A path that leads to it, for exec.
    pub fn path(&self) -> PathBuf {
        match self {
            Program::Own => program::named(Path::new(program::OWN)),
            Program::Other(fd) => {
                program::named(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))
            }
        }
    }

    /// The name of its file, for messages.
    pub fn name(&self) -> String {
        let path = self.path();
        std::fs::read_link(&path)
            .unwrap_or(path)
            .display()
            .to_string()
    }
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// Its pid.
    pub pid: u32,
    /// Our end of the socket to it.
    pub socket: OwnedFd,
    /// It is our child; not so one that outlived another keeper.
    pub is_child: bool,
    /// It has said that it works.
    pub ready: bool,
    /// It has said that its end is wanted.
    pub leaving: bool,
    /// Since when.
    pub since: Instant,
    pidfd: Option<OwnedFd>,
}

/// How a daemon is started.
#[derive(Debug)]
pub struct Start<'a> {
    /// What it is called in the list of processes.
    pub title: &'a str,
    /// What is executed.
    pub program: &'a Program,
    /// Its standard input: whoever waits for its first word, or nothing.
    pub input: OwnedFd,
    /// How the one before it ended; empty for the first.
    pub predecessor: &'a str,
}

impl Daemon {
    /// One that lives already and talks to us on `socket`.
    pub fn orphan(pid: u32, socket: OwnedFd) -> Self {
        Self {
            pid,
            socket,
            is_child: false,
            ready: true,
            leaving: false,
            since: Instant::now(),
            pidfd: pidfd::open(pid).ok(),
        }
    }

    /// Starts one.
    pub fn start(start: Start<'_>) -> Result<Self, SpawnError> {
        let setup = |source: io::Error| SpawnError::Setup { source };
        let (ours, theirs) = packets::pair().map_err(setup)?;
        let text = |text: &str| spawn::c_string("an argument", text);
        let (log, errors) = (io::stdout(), io::stderr());
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(setup);
        let plan = SpawnPlan {
            program: spawn::c_path("the program's path", &start.program.path())?,
            args: vec![text(start.title)?, text("daemon")?],
            env: environment(start.predecessor)?,
            cwd: text(".")?,
            stdio: [start.input, copy(log.as_fd())?, copy(errors.as_fd())?],
            // Descriptor 3, as the variable says.
            channel: Some(theirs),
            user: None,
            cgroup: None,
            sibling: false,
        };
        let spawned = spawn::spawn(plan)?;
        Ok(Self {
            pid: spawned.pid,
            socket: ours,
            is_child: true,
            ready: false,
            leaving: false,
            since: Instant::now(),
            pidfd: Some(spawned.pidfd),
        })
    }

    /// Sends it a signal, if it lives.
    pub fn signal(&self, signal: crate::core::signal::Signal) {
        if let Some(pidfd) = &self.pidfd {
            // It may have ended in this moment.
            let _ = pidfd::signal(pidfd.as_fd(), signal);
        }
    }
}

/// Ours, less what is about ourselves.
fn environment(predecessor: &str) -> Result<Vec<std::ffi::CString>, SpawnError> {
    const OURS: [&str; 5] = [
        keeping::ORPHAN_PID_VARIABLE,
        keeping::SOCKET_VARIABLE,
        keeping::ORPHAN_VARIABLE,
        keeping::MEMORY_VARIABLE,
        keeping::PREDECESSOR_VARIABLE,
    ];
    let entry = |name: &str, value: OsString| {
        let mut entry = OsString::from(name);
        entry.push("=");
        entry.push(value);
        spawn::c_string("an environment variable", entry.into_vec())
    };
    let mut entries = Vec::new();
    for (name, value) in std::env::vars_os() {
        let known = name
            .to_str()
            .is_some_and(|name| OURS.contains(&name) || name == "FORNAX_READY_FD");
        if !known || (name == "FORNAX_READY_FD" && predecessor.is_empty()) {
            let mut line = name.into_vec();
            line.push(b'=');
            line.extend(value.as_bytes());
            entries.push(spawn::c_string("an environment variable", line)?);
        }
    }
    entries.push(entry(keeping::SOCKET_VARIABLE, "3".into())?);
    if !predecessor.is_empty() {
        entries.push(entry(keeping::PREDECESSOR_VARIABLE, predecessor.into())?);
    }
    Ok(entries)
}

/// A standard input that has ended.
pub fn nothing() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
