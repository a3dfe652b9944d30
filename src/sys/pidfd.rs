//! Process descriptors: signalling and waiting that can never hit a recycled pid (pidfd_open(2), pidfd_send_signal(2)).

use crate::core::exit::ExitCause;
use crate::core::keeping::Standing;
use crate::core::signal::Signal;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Opens a descriptor for a running process. `ESRCH` when there is none.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours; it returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor (close-on-exec by definition) and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Sends a signal. `Ok(false)` when the process has ended already.
pub fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<bool> {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open for the call's duration; a null siginfo asks for the default one.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal.0,
            no_info,
            0,
        )
    };
    if outcome == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ESRCH) {
        Ok(false)
    } else {
        Err(error)
    }
}

/// Reaps our child behind the descriptor, if it has ended: `None` while it runs.
pub fn try_wait(pidfd: &OwnedFd) -> io::Result<Option<ExitCause>> {
    match waitid(
        Id::PIDFd(pidfd.as_fd()),
        WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
    )? {
        WaitStatus::Exited(_, code) => Ok(Some(ExitCause::Code(code))),
        WaitStatus::Signaled(_, signal, _) => Ok(Some(ExitCause::Signal(Signal(signal as i32)))),
        _ => Ok(None),
    }
}

/// How one of our children stands; it stays to be asked again, or to be reaped.
pub fn peek(pid: u32) -> Standing {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let id = Id::Pid(nix::unistd::Pid::from_raw(pid as i32));
    match waitid(id, flags) {
        Ok(WaitStatus::Exited(_, code)) => Standing::Ended(ExitCause::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            Standing::Ended(ExitCause::Signal(Signal(signal as i32)))
        }
        Ok(_) => Standing::Alive,
        Err(_) => Standing::Unknown,
    }
}

/// The kernel's `struct pidfd_info`, as it was first (Linux 6.13; the exit code came with 6.15).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// How a process has ended that is not our child, once its parent has reaped it. `None`: not yet, or the kernel does not tell
/// (before Linux 6.15).
pub fn exit_of_stranger(pidfd: &OwnedFd) -> Option<ExitCause> {
    const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;
    const EXIT: u64 = 1 << 3;
    let mut info = Info {
        mask: EXIT,
        ..Info::default()
    };
    // SAFETY: the kernel writes at most the 64 bytes that the request's number names, which `Info` has.
    let outcome = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    if outcome != 0 || info.mask & EXIT == 0 {
        return None;
    }
    let status = info.exit_code;
    Some(if libc::WIFEXITED(status) {
        ExitCause::Code(libc::WEXITSTATUS(status))
    } else {
        ExitCause::Signal(Signal(libc::WTERMSIG(status)))
    })
}

/// Waits until the process has ended, at most so long. `false`: it has not.
pub fn wait_readable(pidfd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(nix::poll::poll(&mut fds, limit)? > 0)
}

/// Makes this process the one that orphaned descendants are given to (PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    Ok(())
}

/// Reaps one ended child by pid, if it is ours and has ended. `true` when one was reaped.
pub fn reap(pid: u32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    let id = Id::Pid(nix::unistd::Pid::from_raw(pid as i32));
    !matches!(waitid(id, flags), Err(_) | Ok(WaitStatus::StillAlive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_peeked_at_until_it_is_reaped_and_told_of_afterwards_by_new_kernels() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exit 9"])
            .spawn()
            .unwrap();
        let pidfd = open(child.id()).unwrap();
        assert!(wait_readable(&pidfd, Duration::from_secs(10)).unwrap());
        for _ in 0..2 {
            let ended = Standing::Ended(ExitCause::Code(9));
            assert_eq!(peek(child.id()), ended);
        }
        assert_eq!(size_of::<Info>(), 64);
        assert_eq!(exit_of_stranger(&pidfd), None, "not reaped yet");
        child.wait().unwrap();
        assert_eq!(peek(child.id()), Standing::Unknown);
        match exit_of_stranger(&pidfd) {
            Some(cause) => assert_eq!(cause, ExitCause::Code(9)),
            None => println!("this kernel does not tell how a reaped process has ended"),
        }
    }
}
