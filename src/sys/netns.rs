//! Network namespaces: doing something inside another one, and a new one's loopback.
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Run `f` on a thread of its own that has joined the network namespace at `path`, and return what it returned.
/// Sockets opened by `f` stay in that namespace for good, wherever they are used afterwards.
pub fn in_netns<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let ns = File::open(path)?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&ns, CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Set `lo` up in the calling thread's network namespace.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is plain data; zeroes are a valid (empty) request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: a live socket and a request that outlives the call; this ioctl only reads it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Ok(Errno::result(done).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_joins_and_the_caller_stays() {
        let own = Path::new("/proc/self/ns/net");
        let before = std::fs::read_link(own).unwrap();
        let inside = in_netns(own, || std::fs::read_link("/proc/thread-self/ns/net").unwrap());
        assert_eq!(inside.unwrap(), before);
        assert!(in_netns(Path::new("/nowhere"), || ()).is_err());
    }
}
