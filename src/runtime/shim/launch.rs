//! From a plan to a process.
//!
//! ```text
//!   daemon                    shim                                  fresh process
//!     │ Start + plan ────────▶ │ clone3(NEWNS NEWPID PIDFD) ─────────▶ │ streams, default signals
//!     │                        │                                       │ read the plan (own copy of memory)
//!     │                        │ ◀───────────────────────── Note "…" ──│ perform it, step by step
//!     │                        │ ◀────── Terminal + its watching side ─│   (with a terminal)
//!     │                        │ ◀── Failed {code, message}, then end ─│   (if a step fails)
//!     │                        │ ◀────────────────────── end of file ──│ execve: the pair closes by itself
//!     │ ◀── Started {pid} ──── │                                       ┆
//!     │ ◀── Event Exited ───── │ ◀────────────── pidfd readable ───────┘
//! ```
//! The shim never waits for the fresh process: both answers are events of its loop.
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::dup2;

use crate::runtime::perform::{self, Context};
use crate::runtime::step::{Failure, Step};
use crate::runtime::wire::FromChild;
use crate::sys::{self, Fork, Linux};

/// What a fresh process gets.
pub(super) struct Launch<'a> {
    /// Memory files from the daemon.
    pub plan: &'a OwnedFd,
    pub seccomp: Option<&'a OwnedFd>,
    pub stdio: [BorrowedFd<'a>; 3],
    pub clone_flags: i32,
    /// cgroup-v2 directory to be born in.
    pub cgroup: Option<&'a Path>,
    /// The init of the container to run in, for exec.
    pub target: Option<BorrowedFd<'a>>,
}

/// A process on its way.
pub(super) struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Messages, then end of file once it has become its program (or has ended).
    pub pair: OwnedFd,
}

impl Launch<'_> {
    pub(super) fn run(self) -> io::Result<Launched> {
        let cgroup = self.cgroup.map(File::open).transpose()?;
        let (ours, theirs) = sys::packet_pair(true)?;
        // Who is born next goes to the container's pid namespace; the shim itself stays where it is.
        if let Some(target) = self.target {
            setns(target, CloneFlags::CLONE_NEWPID)?;
        }
        let forked = sys::clone_process(self.clone_flags, cgroup.as_ref().map(AsFd::as_fd));
        if let Ok(Fork::Child) = forked {
            drop(ours);
            self.child(theirs)
        }
        if self.target.is_some() {
            setns(File::open("/proc/self/ns/pid")?, CloneFlags::CLONE_NEWPID)?;
        }
        match forked? {
            Fork::Child => unreachable!("the child has its own way above"),
            Fork::Parent { pid, pidfd } => Ok(Launched { pid, pidfd, pair: ours }),
        }
    }

    /// The rest of the fresh process' life as our program.
    fn child(self, pair: OwnedFd) -> ! {
        let tell = |message: &FromChild, fds: &[BorrowedFd<'_>]| {
            let bytes = serde_json::to_vec(message).unwrap_or_default();
            // Nobody is there to be told if this fails: the shim is gone, and we are about to be.
            sys::send_packet(pair.as_fd(), &bytes, fds).is_ok()
        };
        let failure = match self.prepare(pair.as_fd()) {
            Err(error) => setup_failure(error),
            Ok((steps, seccomp, mut door)) => {
                let mut context = Context {
                    seccomp: &seccomp,
                    note: &mut |text| {
                        tell(&FromChild::Note(text), &[]);
                    },
                    terminal: &mut |master| {
                        tell(&FromChild::Terminal, &[master.as_fd()]);
                    },
                };
                match perform::perform(&steps, &mut door, &mut context) {
                    Err(failure) => failure,
                    Ok(()) => setup_failure(io::Error::other("the plan has no program")),
                }
            }
        };
        let code = failure.code;
        tell(&FromChild::Failed(failure), &[]);
        std::process::exit(code)
    }

    fn prepare(&self, pair: BorrowedFd<'_>) -> io::Result<(Vec<Step>, Vec<u8>, Linux)> {
        // Until exec, which resets it, nobody in the container may look into us.
        prctl::set_dumpable(false)?;
        sys::default_signals()?;
        for (stream, fd) in self.stdio.iter().enumerate() {
            dup2(fd.as_raw_fd(), stream as i32)?;
        }
        let steps = serde_json::from_slice(&read_all(self.plan)?).map_err(io::Error::other)?;
        let seccomp = self.seccomp.map(read_all).transpose()?;
        // Closed on exec would be too late: a path of the container's (a working directory, say) may lead through
        // /proc/self/fd, and a cgroup's directory to all of the host.
        let keep: Vec<BorrowedFd<'_>> = self.target.into_iter().chain([pair]).collect();
        sys::close_inherited(&keep)?;
        let door = match self.target {
            Some(target) => Linux::with_target(target.try_clone_to_owned()?),
            None => Linux::default(),
        };
        Ok((steps, seccomp.unwrap_or_default(), door))
    }
}

fn setup_failure(error: io::Error) -> Failure {
    let message = format!("preparing the process: {error}");
    Failure { code: 128, message }
}

/// A memory file from its start: the file position is shared with whoever sent it.
fn read_all(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone()?);
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
