//! Bytes with a descriptor over a unix socket (unix(7), SCM_RIGHTS), and accepting connections as descriptors.

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The most descriptors that one message can carry (unix(7), `SCM_MAX_FD`): with room for all, none is lost track of.
const FDS: usize = 253;

/// Sends bytes, and with the first of them a descriptor. How many bytes went; `WouldBlock` if none could.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let raw = fd.map(|fd| [fd.as_raw_fd()]);
    let rights: Vec<ControlMessage<'_>> = raw
        .iter()
        .map(|fds| ControlMessage::ScmRights(fds))
        .collect();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &rights,
        flags,
        None,
    )?)
}

/// Receives bytes and the descriptors that came with them, close-on-exec. No bytes: the other end has closed.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([i32; FDS]);
    let mut into = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    Ok((message.bytes, fds))
}

/// Accepts a connection, non-blocking and close-on-exec. `WouldBlock` if none waits.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4 has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_descriptor_arrives_with_its_bytes() {
        let (ours, theirs) = crate::sys::fds::channel_pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        assert_eq!(
            send(ours.as_fd(), b"hello", Some(write.as_fd())).unwrap(),
            5
        );
        drop(write);
        let mut buffer = [0; 16];
        let (length, mut fds) = receive(theirs.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"hello"[..], 1));
        nix::unistd::write(fds.pop().unwrap(), b"x").unwrap();
        assert_eq!(nix::unistd::read(&read, &mut buffer).unwrap(), 1);
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut buffer).unwrap().0, 0);
    }
}
