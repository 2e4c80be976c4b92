//! SIGTERM and SIGINT as a file descriptor.
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The request to end. The signals are blocked and read from a descriptor, which also works for pid 1 of a pid
/// namespace: there the kernel drops signals that have no handler, but keeps blocked ones.
pub struct Term(SignalFd);

impl Term {
    /// Call before the first thread is started: threads inherit the mask.
    pub fn block() -> nix::Result<Term> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block()?;
        Ok(Term(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Waits until asked to end (`true`) or until the time is over (`false`).
    pub fn wait(&self, time: Option<Duration>) -> nix::Result<bool> {
        let end = time.map(|time| Instant::now() + time);
        loop {
            if self.poll(None, end.map(|end| end.saturating_duration_since(Instant::now())))? {
                return Ok(true);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(false);
            }
        }
    }

    /// Waits for a signal or for `other` to be readable; whether it was a signal.
    pub fn poll(&self, other: Option<BorrowedFd>, time: Option<Duration>) -> nix::Result<bool> {
        let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, timeout(time)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        Ok(fds.first().and_then(|fd| fd.any()).unwrap_or(false))
    }
}

/// Rounded up: a poll of zero milliseconds in a loop would burn the processor for the last one.
fn timeout(time: Option<Duration>) -> PollTimeout {
    time.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time.as_millis() + 1).unwrap_or(PollTimeout::MAX))
}

/// Waits until one descriptor is readable, or until the time is over.
pub fn readable(fd: BorrowedFd, time: Duration) -> nix::Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout(Some(time))) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
