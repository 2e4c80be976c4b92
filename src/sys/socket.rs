//! Unix sockets that keep message boundaries and carry descriptors, and who is at the other end.
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recvmsg, sendmsg, socket, socketpair,
};

/// Descriptors one packet may carry: a plan, a seccomp program and three standard streams are five.
const MAX_FDS: usize = 8;
/// Connections that may wait to be accepted; a shim has one daemon, and a few people looking.
const BACKLOG: i32 = 16;

/// Who is at the other end of a unix socket, as the kernel saw it at connect time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// SO_PEERCRED of a connected unix socket.
pub fn peer_cred(socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    let cred = getsockopt(&socket, PeerCredentials)?;
    Ok(PeerCred { pid: cred.pid(), uid: cred.uid(), gid: cred.gid() })
}

/// One message and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet {
    /// How many bytes of the buffer it filled; 0 with no descriptors means the peer has closed.
    pub len: usize,
    /// Close-on-exec, owned by the receiver.
    pub fds: Vec<OwnedFd>,
}

fn packet_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | flags, None)?)
}

/// A socket at `path` that accepts connections of packets. The path must not exist and fits 107 bytes.
pub fn listen_packet(path: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket(SockFlag::SOCK_NONBLOCK)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Connect to a [`listen_packet`] socket. The result does not block.
pub fn connect_packet(path: &Path) -> io::Result<OwnedFd> {
    let socket = packet_socket(SockFlag::SOCK_NONBLOCK)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Take the next waiting connection (`WouldBlock` if there is none). The result does not block.
pub fn accept_packet(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4 has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that does not block, for asynchronous use.
pub fn async_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd gives the same descriptor for as long as it lives, and the AsyncFd owns it until it is dropped.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(Into::into)
}

/// Two connected ends; neither blocks if `nonblocking`.
pub fn packet_pair(nonblocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = match nonblocking {
        true => SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        false => SockFlag::SOCK_CLOEXEC,
    };
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Send one message with descriptors. A closed peer is `EPIPE`, never a signal.
pub fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None);
        match sent {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()), // packets are sent whole or not at all
        }
    }
}

/// Receive one message. One that is longer than `buffer` is refused with `EMSGSIZE`.
pub fn recv_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut space = cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => continue,
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has installed these descriptors in this process for this message alone.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(Packet { len: message.bytes, fds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_packet_keeps_its_bounds_and_carries_descriptors() {
        let (a, b) = packet_pair(true).unwrap();
        let file = crate::sys::memfd(c"x", b"inside").unwrap();
        send_packet(a.as_fd(), b"one", &[file.as_fd()]).unwrap();
        send_packet(a.as_fd(), b"two", &[]).unwrap();
        let mut buffer = [0; 16];
        let mut first = recv_packet(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..first.len], b"one");
        let mut text = String::new();
        std::fs::File::from(first.fds.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        let second = recv_packet(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..second.len], second.fds.len()), (&b"two"[..], 0));
        let empty = recv_packet(b.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        send_packet(a.as_fd(), &[7; 32], &[]).unwrap();
        let long = recv_packet(b.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(long.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(peer_cred(b.as_fd()).unwrap().pid, std::process::id() as i32);
        drop(a);
        assert_eq!(recv_packet(b.as_fd(), &mut buffer).unwrap().len, 0);
        assert_eq!(send_packet(b.as_fd(), b"x", &[]).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }
}
