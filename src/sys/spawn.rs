//! Starting a child: clone(2), a session of its own, default signals, then exec.
//!
//! Between clone and exec the child makes only raw system calls: other threads of ours may hold locks that will never be
//! released in the copy (signal-safety(7)). Mostly there is no copy: the child borrows our memory until exec while the thread
//! that made it waits (CLONE_VM and CLONE_VFORK, as posix_spawn does), which spares the kernel our page tables. There is one
//! where the user changes, since that would change our memory's owner.

mod clone;

use self::clone::{Prepared, Stage, clone_child};
use std::cell::Cell;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Everything that a child is made of.
#[derive(Debug)]
pub struct SpawnPlan {
    /// The program, an absolute path (or relative to `cwd` with a slash in it).
    pub program: CString,
    /// Its arguments, the name it is called under first.
    pub args: Vec<CString>,
    /// Its whole environment, `NAME=value` each.
    pub env: Vec<CString>,
    /// Its working directory.
    pub cwd: CString,
    /// Its standard input, output and error.
    pub stdio: [OwnedFd; 3],
    /// Its descriptor 3, Node's IPC channel.
    pub channel: Option<OwnedFd>,
    /// Whose rights it runs with.
    pub user: Option<UserIds>,
    /// The open folder of the cgroup it is born in.
    pub cgroup: Option<OwnedFd>,
    /// It is our parent's child from birth (CLONE_PARENT): our parent waits for it, not we.
    pub sibling: bool,
}

/// The ids to change to before exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A child that has been exec'ed.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, also its session and process group.
    pub pid: u32,
    /// Its process descriptor.
    pub pidfd: OwnedFd,
    /// It was born in the plan's cgroup (the kernel may refuse).
    pub in_cgroup: bool,
}

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A NUL byte in an argument, a variable or a path.
    #[error("cannot pass {what} to the program: it contains a NUL byte")]
    Nul {
        /// What held it.
        what: &'static str,
        /// Where.
        #[source]
        source: NulError,
    },
    /// The kernel refused a new process.
    #[error(
        "cannot create a process: {source}; the limit of processes or memory may be reached (ulimit -u, pids.max)"
    )]
    Clone {
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The working directory can't be entered.
    #[error("cannot enter the working directory {}: {source}", path.display())]
    Chdir {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The user or group can't be taken on.
    #[error("cannot change to the user or group: {source}; only root may use uid and gid")]
    User {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program can't be executed.
    #[error("cannot execute {}: {source}{}", path.display(), exec_hint(source))]
    Exec {
        /// The program.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something else between clone and exec.
    #[error("cannot set up the process: {source}{}", setup_hint(source))]
    Setup {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn setup_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "; the limit of open files may be reached (ulimit -n)",
        _ => "",
    }
}

fn exec_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) => "; make it executable (chmod +x), or name an interpreter",
        Some(libc::ENOENT) => "; the file, or the interpreter in its first line, does not exist",
        Some(libc::ENOEXEC) => "; it has no `#!` line and is no program: name an interpreter",
        _ => "",
    }
}

/// Makes a C string of an argument.
pub fn c_string(what: &'static str, text: impl Into<Vec<u8>>) -> Result<CString, SpawnError> {
    CString::new(text).map_err(|source| SpawnError::Nul { what, source })
}

/// Makes a C string of a path.
pub fn c_path(what: &'static str, path: &Path) -> Result<CString, SpawnError> {
    c_string(what, path.as_os_str().as_bytes())
}

/// Starts the child and waits until it has been exec'ed or has failed to be.
pub fn spawn(plan: SpawnPlan) -> Result<Spawned, SpawnError> {
    let setup = |source: io::Error| SpawnError::Setup { source };
    let (report_read, report_write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| setup(errno.into()))?;
    // Sources at 10 and above, so that no dup2 below overwrites one that is still needed.
    let mut high = Vec::with_capacity(5);
    for fd in plan
        .stdio
        .iter()
        .chain(plan.channel.iter())
        .chain([&report_write])
    {
        high.push(dup_high(fd).map_err(setup)?);
    }
    let pointers = |strings: &[CString]| {
        strings
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(&plan.args), pointers(&plan.env));
    let report = high.last().map_or(-1, AsRawFd::as_raw_fd);
    let prepared = Prepared {
        program: plan.program.as_ptr(),
        argv: &argv,
        envp: &envp,
        cwd: plan.cwd.as_ptr(),
        fds: [
            high[0].as_raw_fd(),
            high[1].as_raw_fd(),
            high[2].as_raw_fd(),
        ],
        channel: if plan.channel.is_some() {
            high[3].as_raw_fd()
        } else {
            -1
        },
        user: plan.user.as_ref(),
        sibling: plan.sibling,
        files: super::limits::for_children(),
        ignored: ignored_signals(),
        reset_all: Cell::new(false),
        report,
    };
    let (pid, pidfd, in_cgroup) = clone_child(&prepared, plan.cgroup.as_ref())
        .map_err(|source| SpawnError::Clone { source })?;
    drop(high);
    drop(report_write);
    let mut told = [0_u8; 5];
    match File::from(report_read).read(&mut told) {
        Ok(5) => {}
        // The end of the pipe: exec has closed it.
        _ => {
            return Ok(Spawned {
                pid,
                pidfd,
                in_cgroup,
            });
        }
    }
    // It has told why and is about to _exit: reap it, it never was a run. A sibling is our parent's to reap.
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid as i32), None);
    let source =
        io::Error::from_raw_os_error(i32::from_ne_bytes([told[1], told[2], told[3], told[4]]));
    let path_of = |text: &CString| PathBuf::from(std::ffi::OsStr::from_bytes(text.as_bytes()));
    Err(match told[0] {
        stage if stage == Stage::Chdir as u8 => SpawnError::Chdir {
            path: path_of(&plan.cwd),
            source,
        },
        stage if stage == Stage::User as u8 => SpawnError::User { source },
        stage if stage == Stage::Exec as u8 => SpawnError::Exec {
            path: path_of(&plan.program),
            source,
        },
        _ => SpawnError::Setup { source },
    })
}

/// The signals that this process ignores, a bit each, as it was at the first look: afterwards it ignores no more of them.
fn ignored_signals() -> u64 {
    static IGNORED: OnceLock<u64> = OnceLock::new();
    *IGNORED.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        // Not knowing, all of them are set.
        mask.unwrap_or(u64::MAX)
    })
}

fn dup_high(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::exit::ExitCause;
    use std::os::fd::AsFd;

    fn plan(program: &str, args: &[&str], cwd: &str) -> (SpawnPlan, OwnedFd) {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let null: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
            .into();
        let plan = SpawnPlan {
            program: c_string("program", program).unwrap(),
            args: args
                .iter()
                .map(|arg| c_string("argument", *arg).unwrap())
                .collect(),
            env: vec![c_string("variable", "PATH=/usr/bin:/bin").unwrap()],
            cwd: c_string("cwd", cwd).unwrap(),
            stdio: [null.try_clone().unwrap(), write, null],
            channel: None,
            user: None,
            cgroup: None,
            sibling: false,
        };
        (plan, read)
    }

    fn wait(spawned: &Spawned) -> ExitCause {
        let mut poll = [nix::poll::PollFd::new(
            spawned.pidfd.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        nix::poll::poll(&mut poll, 10_000_u16).unwrap();
        crate::sys::pidfd::try_wait(&spawned.pidfd)
            .unwrap()
            .expect("ended within the deadline")
    }

    #[test]
    fn a_child_has_its_own_session_and_default_signals() {
        let script = "echo $(ps -o sid= -p $$) $$; grep -E 'Sig(Blk|Ign)' /proc/self/status";
        let (plan, read) = plan("/bin/sh", &["sh", "-c", script], "/");
        let spawned = spawn(plan).unwrap();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(wait(&spawned), ExitCause::Code(0));
        let first: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(first, [spawned.pid.to_string(), spawned.pid.to_string()]);
        for line in text.lines().skip(1) {
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_executed_is_told_with_its_reason() {
        for (program, cwd, want) in [
            ("/no/such/program", "/", "cannot execute /no/such/program"),
            ("/etc/passwd", "/", "chmod +x"),
            (
                "/bin/sh",
                "/no/such/folder",
                "working directory /no/such/folder",
            ),
        ] {
            let (plan, _read) = plan(program, &["x"], cwd);
            let message = spawn(plan).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn an_exit_is_told_as_code_or_signal() {
        let (exits, _read) = plan("/bin/sh", &["sh", "-c", "exit 7"], "/");
        assert_eq!(wait(&spawn(exits).unwrap()), ExitCause::Code(7));
        let (killed, _read) = plan("/bin/sh", &["sh", "-c", "kill -9 $$"], "/");
        assert_eq!(
            wait(&spawn(killed).unwrap()),
            ExitCause::Signal(crate::core::signal::Signal::KILL)
        );
    }
}
