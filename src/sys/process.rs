//! Processes: making them in namespaces, waiting for them by descriptor, and what they carry across exec.
use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

/// From <linux/sched.h>: libc's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a clone this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The one that asked for it.
    Parent {
        /// The child as this process' pid namespace sees it.
        pid: i32,
        /// Readable once the child has ended.
        pidfd: OwnedFd,
    },
}

/// A directory has two links and one more for each subdirectory, here: for each thread.
pub(super) fn single_threaded() -> io::Result<bool> {
    Ok(fs::metadata("/proc/self/task")?.nlink() == 3)
}

/// Fork with `clone3`: `flags` are `CLONE_NEW*`; the child begins its life in the cgroup-v2 directory `into`, if given.
///
/// Refused (`EBUSY`) in a process with more than one thread: the child would own locks nobody releases.
pub fn clone_process(flags: i32, into: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    if !single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain integers, for which all zeroes is the documented "nothing asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(dir) = into {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with a null stack this is fork: the child has its own copy of all memory. There is one
    // thread (checked above), so no lock is held by somebody who does not exist in the child. `args` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so it stored a fresh descriptor that nobody else owns.
        pid => Ok(Fork::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// A descriptor for a running process, readable once it has ended.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; the result is a fresh descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Signal the process behind a pidfd; unlike `kill` it cannot hit a stranger that got the number later.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a live descriptor, an integer, a null siginfo (the kernel fills one in) and no flags.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    Ok(Errno::result(done).map(drop)?)
}

/// Reap a child that may have ended: `(code, signal)` with `code` 128 + signal for a killed one, `None` while it runs.
pub fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<(i32, Option<i32>)>> {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)? {
        WaitStatus::Exited(_, code) => Ok(Some((code, None))),
        WaitStatus::Signaled(_, signal, _) => Ok(Some((128 + signal as i32, Some(signal as i32)))),
        _ => Ok(None),
    }
}

/// Mark every descriptor from `first` on as not surviving exec.
pub fn close_on_exec_from(first: i32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; none is closed before an exec, which drops all Rust owners with it.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(Errno::result(done).map(drop)?)
}

/// Close what came along from the parent, but for the standard streams and `keep`. For a fresh process: what it copied
/// from its parent owns these descriptors too, and is not to be used again before exec or exit.
pub fn close_inherited(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).chain([libc::STDERR_FILENO, i32::MAX]).collect();
    kept.sort_unstable();
    for gap in kept.windows(2).filter(|gap| gap[1] - gap[0] > 1) {
        // SAFETY: plain integers; that nobody uses the descriptors any more is the caller's promise above, and neither
        // exec nor exit drops an owner.
        let done = unsafe { libc::syscall(libc::SYS_close_range, gap[0] + 1, gap[1] - 1, 0) };
        Errno::result(done)?;
    }
    Ok(())
}

/// Ignore these signals from now on (children inherit that: see [`default_signals`]).
pub fn ignore_signals(signals: &[Signal]) -> io::Result<()> {
    for s in signals {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { signal(*s, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// Every signal back to its default and unblocked, as a fresh program expects it.
pub fn default_signals() -> io::Result<()> {
    for s in Signal::iterator() {
        if matches!(s, Signal::SIGKILL | Signal::SIGSTOP) {
            continue; // cannot be changed
        }
        // SAFETY: SIG_DFL runs no code of ours.
        unsafe { signal(s, SigHandler::SigDfl) }?;
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Have the kernel kill this process when the thread that made it ends. `exec` keeps that, a change of user does not:
/// call it after the last one.
pub fn die_with_parent() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// Install a seccomp filter: `program` is an array of `struct sock_filter` (8 bytes each) in native byte order.
/// Needs no_new_privs or CAP_SYS_ADMIN.
pub fn load_seccomp(program: &[u8]) -> io::Result<()> {
    const INSTRUCTION: usize = size_of::<libc::sock_filter>();
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(INSTRUCTION)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let prog = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `prog` and the `len` instructions it points to live until the call returns; the kernel copies and verifies them.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) };
    Ok(Errno::result(done).map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_cloned() {
        // The test harness has threads of its own.
        let refused = clone_process(0, None).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
    }

    #[test]
    fn a_pidfd_signals_and_reaps() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let Ok(child) = child else { return };
        let pidfd = pidfd_open(child.id() as i32).unwrap();
        assert_eq!(reap(pidfd.as_fd()).unwrap(), None);
        pidfd_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        let mut poll = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut poll, 5000u16).unwrap();
        assert_eq!(reap(pidfd.as_fd()).unwrap(), Some((128 + libc::SIGKILL, Some(libc::SIGKILL))));
    }
}
