//! A pair of sockets that carry whole messages and descriptors (unix(7), SOCK_SEQPACKET).

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// The most descriptors in one message.
pub const MOST_FDS: usize = 4;

/// Both ends, close-on-exec; each message arrives whole or not at all.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Sends one message and never waits: `WouldBlock` while the other side does not read.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(message)],
        control,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Takes one message and never waits; its length (0: the other side has gone) and its descriptors, close-on-exec. A message
/// longer than the buffer is cut.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut [Option<OwnedFd>; MOST_FDS],
) -> io::Result<usize> {
    let mut space = cmsg_space!([RawFd; MOST_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut at = 0;
    for control in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(received) = control else {
            continue;
        };
        for raw in received {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(raw) };
            if let Some(slot) = fds.get_mut(at) {
                *slot = Some(fd);
                at += 1;
            }
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn messages_stay_whole_and_carry_descriptors() {
        let (ours, theirs) = pair().unwrap();
        let (mut read, write) = std::io::pipe().unwrap();
        send(ours.as_fd(), b"one", &[write.as_fd()]).unwrap();
        send(ours.as_fd(), b"second", &[]).unwrap();
        drop(write);
        let (mut buffer, mut fds) = ([0; 64], Default::default());
        let length = receive(theirs.as_fd(), &mut buffer, &mut fds).unwrap();
        assert_eq!(&buffer[..length], b"one");
        File::from(fds[0].take().unwrap()).write_all(b"x").unwrap();
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let length = receive(theirs.as_fd(), &mut buffer, &mut fds).unwrap();
        assert_eq!(
            (&buffer[..length], fds[0].is_none()),
            (&b"second"[..], true)
        );
        let empty = receive(theirs.as_fd(), &mut buffer, &mut fds).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut buffer, &mut fds).unwrap(), 0);
    }
}
