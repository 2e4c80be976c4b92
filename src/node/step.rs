//! The steps of a pod's plan, and the back-off they go by.
use super::{
    observed::{ContainerSeen, Exit},
    probe,
};
use jiff::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// One thing to do about a pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Step {
    /// Decide whether the node takes the pod.
    Admit,
    /// Make directories, volumes and files.
    Mount,
    /// Make the sandbox and connect it.
    CreateSandbox,
    /// Bring files from the API up to date.
    Refresh,
    /// Remove what a dead sandbox left, keeping the volumes.
    DestroySandbox,
    Start {
        container: String,
        attempt: u32,
    },
    /// Run the preStop hook and send the stop signal; `Kill` follows at the deadline.
    Stop {
        container: String,
        grace: Duration,
        why: Why,
    },
    Kill {
        container: String,
    },
    Probe {
        container: String,
        kind: probe::Kind,
    },
    /// Give the pod up: its time is over.
    Fail {
        reason: &'static str,
        message: String,
    },
    /// Bring the last status to the API, and wait for that.
    Settle,
    /// Remove sandbox, volumes and everything else on this node.
    TearDown,
    /// Finish the deletion in the API.
    Delete,
    /// Stop thinking about it.
    Forget,
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Why {
    PodEnds,
    /// Its postStart hook failed.
    PostStart,
    Unhealthy(probe::Kind),
}

/// The durations of the restart back-off.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub first: Duration,
    pub max: Duration,
    /// A container that ran this long has not crashed, it has ended.
    pub reset: Duration,
}

impl Policy {
    /// The wait before the restart that follows `crashes` earlier ones: the first is at once.
    pub fn delay(&self, crashes: u32) -> Duration {
        match crashes {
            0 => Duration::ZERO,
            n => self.first.saturating_mul(2u32.saturating_pow(n - 1)).min(self.max),
        }
    }

    /// Earlier restarts that count, after this end.
    pub fn crashes(&self, seen: &ContainerSeen) -> u32 {
        // What never ran has no time of start: it did not run long, it did not run.
        let long = seen.exit().is_some_and(|exit| {
            let ran = exit.finished.duration_since(exit.started).unsigned_abs();
            exit.started != Timestamp::UNIX_EPOCH && ran >= self.reset
        });
        if long { 0 } else { seen.crashes }
    }

    /// When a container that ended may start again.
    pub fn restart_at(&self, seen: &ContainerSeen, exit: &Exit) -> Timestamp {
        exit.finished + self.delay(self.crashes(seen))
    }
}
