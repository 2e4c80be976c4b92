//! What the daemon and a shim say to each other: one JSON text a packet, descriptors alongside.
//!
//! Anything long (the plan, the seccomp program) travels as a memory file, so that the shim needs one small buffer and its
//! children do the parsing.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::step::Failure;
use super::types::{ContainerState, Event, ExitStatus};

/// Longest request; paths and names only.
pub(super) const MAX_REQUEST: usize = 16 << 10;
/// Longest answer: the states of all containers of a pod. Less than what a socket buffers by default (208 KiB).
pub(super) const MAX_ANSWER: usize = 128 << 10;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Chosen by the daemon; the answer repeats it.
    pub id: u64,
    pub op: Op,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Op {
    /// Who are you, what runs? From now on this connection also hears events. -> `State`
    Hello,
    /// Descriptors: the plan's steps, the seccomp program if there is one. -> `Started` or a failure
    Start(Start),
    /// Signal a container's init. -> `Done`
    Kill { name: String, signal: i32 },
    /// Forget an ended attempt and its record. -> `Done`
    Forget { name: String, attempt: u32 },
    /// Descriptors: steps, seccomp if any; without a terminal also stdin, stdout, stderr. -> `Started`, with the
    /// terminal's watching side if it has one. `ExecExited` follows.
    Exec(ExecStart),
    /// Signal an exec session. -> `Done`
    KillExec { exec: u64, signal: i32 },
    /// Somebody reads a container's log as it is written: unfinished lines go there too from now on. -> `Done` with one
    /// end of the container's standard input or terminal, if it has one. `take`: the shim keeps no end of a standard
    /// input, so that it ends with what was handed out.
    Attach { name: String, take: bool },
    /// Kill everything, wait for it, answer `Done`, and end.
    Quit,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub name: String,
    pub attempt: u32,
    pub clone_flags: i32,
    /// cgroup-v2 directory to be born in.
    pub cgroup: Option<PathBuf>,
    /// The file that counts OOM kills.
    pub oom: Option<PathBuf>,
    /// Lists the processes to kill when init has ended, if there is no pid namespace to do it.
    pub procs: Option<PathBuf>,
    /// Kept for the state; the shim does not look into it.
    pub bundle: PathBuf,
    pub log: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    pub seccomp: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecStart {
    pub container: String,
    pub tty: bool,
    pub seccomp: bool,
    pub cgroup: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromShim {
    Answer {
        id: u64,
        answer: Result<Answer, Failure>,
    },
    Event(Event),
    /// `exec` is the id of the request that started it.
    ExecExited {
        exec: u64,
        status: ExitStatus,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    State {
        pid: i32,
        containers: Vec<ContainerState>,
    },
    Started {
        pid: i32,
        /// What could not be had and was done without.
        notes: Vec<String>,
    },
}

/// From a fresh process to its shim, over the pair it was given.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromChild {
    Note(String),
    /// With the watching side of its terminal.
    Terminal,
    Failed(Failure),
}
