//! Starting a child: clone3(2) straight into its cgroup, a session of its own, default signals, then exec.
//!
//! Between clone and exec the child makes only raw system calls: other threads of ours may hold locks that will never be
//! released in the copy (signal-safety(7)).

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
    #[error("cannot set up the process: {source}")]
    Setup {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
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

/// clone3(2); the libc crate's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where the child failed, as it tells us through the error pipe.
#[repr(u8)]
#[derive(Clone, Copy)]
enum Stage {
    Setup = 1,
    Chdir = 2,
    User = 3,
    Exec = 4,
}

/// What the child needs, in a form that takes no allocation to use.
struct Prepared<'a> {
    program: *const libc::c_char,
    argv: &'a [*const libc::c_char],
    envp: &'a [*const libc::c_char],
    cwd: *const libc::c_char,
    fds: [RawFd; 3],
    channel: RawFd,
    user: Option<&'a UserIds>,
    report: RawFd,
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
    // It has told why and is about to _exit: reap it, it never was a run.
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

fn dup_high(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// clone3 into the cgroup; without the cgroup if the kernel refuses that; plain fork where clone3 itself is forbidden.
fn clone_child(
    prepared: &Prepared<'_>,
    cgroup: Option<&OwnedFd>,
) -> io::Result<(u32, OwnedFd, bool)> {
    if let Some(cgroup) = cgroup
        && let Ok((pid, pidfd)) = clone3(prepared, Some(cgroup))
    {
        return Ok((pid, pidfd, true));
    }
    match clone3(prepared, None) {
        Ok((pid, pidfd)) => Ok((pid, pidfd, false)),
        // Containers with an old seccomp profile answer ENOSYS or EPERM to clone3.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            // SAFETY: the child runs `child_main` only, which makes raw system calls and never returns.
            let pid = unsafe { libc::fork() };
            match pid {
                0 => child_main(prepared),
                -1 => Err(io::Error::last_os_error()),
                pid => Ok((pid as u32, super::pidfd::open(pid as u32)?, false)),
            }
        }
        Err(error) => Err(error),
    }
}

fn clone3(prepared: &Prepared<'_>, cgroup: Option<&OwnedFd>) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    let into_cgroup = if cgroup.is_some() {
        CLONE_INTO_CGROUP
    } else {
        0
    };
    // SAFETY: all-zero is a valid clone_args; the fields used are set below.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64 | into_cgroup;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.map_or(0, |fd| fd.as_raw_fd() as u64);
    // SAFETY: without CLONE_VM the child works on a copy of memory; it runs `child_main` only, which never returns.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        0 => child_main(prepared),
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has stored a new, close-on-exec descriptor there, and nobody else knows it.
        pid => Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// The child, from clone to exec. Never returns, allocates nothing, takes no lock.
fn child_main(prepared: &Prepared<'_>) -> ! {
    let failed = match child_setup(prepared) {
        Ok(()) => {
            // SAFETY: the pointers come from live C strings and null-ended arrays of them.
            unsafe {
                libc::execve(
                    prepared.program,
                    prepared.argv.as_ptr(),
                    prepared.envp.as_ptr(),
                )
            };
            Stage::Exec
        }
        Err(stage) => stage,
    };
    let errno = nix::errno::Errno::last_raw().to_ne_bytes();
    let report = [failed as u8, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: five readable bytes and an open pipe; _exit ends the child without running anything of ours.
    unsafe {
        libc::write(prepared.report, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

fn child_setup(prepared: &Prepared<'_>) -> Result<(), Stage> {
    // SAFETY: raw calls on integers and on pointers that live in the copied memory; see the module's note.
    unsafe {
        check(libc::setsid(), Stage::Setup)?;
        reset_signals();
        for (target, source) in prepared.fds.iter().enumerate() {
            check(libc::dup2(*source, target as RawFd), Stage::Setup)?;
        }
        if prepared.channel >= 0 {
            check(libc::dup2(prepared.channel, 3), Stage::Setup)?;
        }
        check(libc::chdir(prepared.cwd), Stage::Chdir)?;
    }
    prepared.user.map_or(Ok(()), take_user)
}

/// A child must not inherit that its parent ignored SIGINT: Python installs no handler then (comfyui-facts 4.7).
fn reset_signals() {
    // The kernel's sigaction, no larger than this on any architecture; all zero is SIG_DFL with no flags.
    let default = [0_u64; 4];
    // SAFETY: the array outlives the calls, which read it only; the mask is initialised before use.
    unsafe {
        for signal in 1..=64 {
            // By system call: the C library refuses 32 and 33, which a parent may have ignored. KILL and STOP can't be set.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                8_usize,
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// By system call, not by the C library, whose versions talk to all threads of a process, and here are none.
fn take_user(user: &UserIds) -> Result<(), Stage> {
    // SAFETY: integers, and one array with its length.
    unsafe {
        check(
            libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr())
                as libc::c_int,
            Stage::User,
        )?;
        check(
            libc::syscall(libc::SYS_setgid, user.gid) as libc::c_int,
            Stage::User,
        )?;
        check(
            libc::syscall(libc::SYS_setuid, user.uid) as libc::c_int,
            Stage::User,
        )
    }
}

fn check(outcome: libc::c_int, stage: Stage) -> Result<(), Stage> {
    if outcome < 0 { Err(stage) } else { Ok(()) }
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
