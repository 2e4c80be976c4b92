//! What a node knows about one pod besides its manifest: the input of `plan` and `status`. Plain data, no handles.
use super::probe::ProbeState;
use jiff::Timestamp;
use serde::Serialize;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Everything observed about one pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Observed {
    /// The API no longer has the pod: nobody is told any more, everything is taken down.
    pub gone: bool,
    /// Why the pod was refused or given up; set once, for ever. The phase is Failed then.
    pub failed: Option<Verdict>,
    pub admitted: bool,
    pub sandbox: SandboxSeen,
    /// Counts sandboxes of this pod: a container of an older one belongs to the past.
    pub generation: u32,
    pub ip: Option<Ipv4Addr>,
    pub volumes: bool,
    /// When the files from the API must be looked at again: a token nears its end, or an object changed.
    pub refresh_at: Option<Timestamp>,
    /// The last attempt at volumes or sandbox failed.
    pub setup: Option<Failure>,
    pub containers: BTreeMap<String, ContainerSeen>,
    /// Sandbox, volumes and cgroup are gone for good.
    pub torn_down: bool,
    /// The final status is in the API.
    pub settled: bool,
    pub start_time: Option<Timestamp>,
}

/// Reason and message of a pod's failure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
}

/// The pod's sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum SandboxSeen {
    #[default]
    Absent,
    Ready,
    /// Its shim died, and every process with it.
    Dead,
}

/// One container of the pod, over all its attempts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ContainerSeen {
    pub run: Run,
    /// Number of the newest attempt; also the restart count.
    pub attempt: u32,
    /// The sandbox the newest attempt ran in.
    pub generation: u32,
    /// How the attempt before ended.
    pub previous: Option<Exit>,
    pub image: Option<ImageSeen>,
    /// Why the next attempt cannot be made; worded as the waiting state shows it.
    pub failure: Option<Failure>,
    /// Restarts that count for the back-off.
    pub crashes: u32,
    pub post_start: Hook,
    pub stopping: Option<Stopping>,
    pub probes: Probes,
}

/// The newest attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub enum Run {
    #[default]
    Never,
    Running {
        since: Timestamp,
    },
    Exited(Exit),
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exit {
    pub attempt: u32,
    pub code: i32,
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    pub message: Option<String>,
    pub started: Timestamp,
    pub finished: Timestamp,
}

/// What the container runs from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageSeen {
    pub reference: String,
    pub id: String,
}

/// Something that failed and will be tried again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    pub count: u32,
    pub retry_at: Timestamp,
}

/// The postStart hook of the newest attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Hook {
    #[default]
    None,
    Running,
    Done,
}

/// A container that was asked to end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stopping {
    /// When patience ends.
    pub deadline: Timestamp,
    /// SIGKILL was sent.
    pub forced: bool,
}

/// The probes of the newest attempt; those the manifest does not have stay untouched.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Probes {
    pub startup: ProbeState,
    pub readiness: ProbeState,
    pub liveness: ProbeState,
}

impl ContainerSeen {
    pub fn running_since(&self) -> Option<Timestamp> {
        match self.run {
            Run::Running { since } => Some(since),
            _ => None,
        }
    }

    pub fn is_running(&self) -> bool {
        self.running_since().is_some()
    }

    /// The newest attempt's end, if it has ended.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.run {
            Run::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}
