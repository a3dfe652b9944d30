//! Making pipes and socket pairs, always close-on-exec.

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A pipe whose reading end is non-blocking and whose writing end blocks, as a child expects: `(read, write)`.
///
/// The writing end can be read too, if /proc lets us open it so: with a reader of its own it never breaks, and its writer
/// waits when everybody else has gone.
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    set_nonblocking(&read)?;
    let both = std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", write.as_raw_fd()));
    Ok((read, both.map_or(write, OwnedFd::from)))
}

/// What a child's standard input is: `(its, ours)`. Its end blocks, as it expects, and ours does not. A socket, as Node makes it, and
/// no pipe: bash that finds one there reads `~/.bashrc` first, and apps of PM2 rely on what it sets.
pub fn input_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = channel_pair()?;
    Ok((theirs, ours))
}

/// A stream socket pair for Node's IPC channel: ours is non-blocking, the child's is as Node makes it: `(ours, theirs)`.
pub fn channel_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    set_nonblocking(&ours)?;
    Ok((ours, theirs))
}

/// Whether it is a socket.
pub fn is_socket(fd: &OwnedFd) -> bool {
    let kind = |mode: u32| mode & libc::S_IFMT == libc::S_IFSOCK;
    nix::sys::stat::fstat(fd).is_ok_and(|stat| kind(stat.st_mode))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// A descriptor known by its number only: one that was left open for us across exec.
///
/// It must be open, and stay so while this is used; with a number that is not, calls fail with `EBADF`.
pub fn known(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: only -1 is forbidden by the type; the kernel refuses a number that is not open.
    unsafe { BorrowedFd::borrow_raw(number.max(0)) }
}

/// Takes over a descriptor that was left open for us across exec, and makes it close-on-exec. Once for each number: who calls
/// this says that nobody else owns it.
pub fn take_over(number: RawFd) -> io::Result<OwnedFd> {
    nix::fcntl::fcntl(
        known(number),
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    // SAFETY: it is open, or the call above had failed; that it has no other owner is the caller's word.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
