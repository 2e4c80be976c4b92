//! Pods: the STATUS and RESTARTS columns sum up every container the way kubectl users know.

use super::{AGE, NAME, or_none, since, text, wide};
use crate::api::kinds::Column;
use crate::api::meta::{at, int, list, text as field};
use serde_json::Value;

/// Columns of pods.
pub const POD: &[Column] = &[
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic.", |pod, _| {
        let sum = Summary::of(pod);
        format!("{}/{}", sum.ready, sum.total).into()
    }),
    text("Status", "The aggregate status of the containers in this pod.", |pod, _| Summary::of(pod).reason.into()),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        |pod, now| match Summary::of(pod) {
            Summary { restarts, last_restart: Some(at), .. } if restarts != 0 => {
                format!("{restarts} ({} ago)", since(&at, now)).into()
            }
            sum => sum.restarts.to_string().into(),
        },
    ),
    AGE,
    wide("IP", "IP address allocated to the pod.", |pod, _| pod_ip(pod)),
    wide("Node", "Name of the node the pod runs on.", |pod, _| or_none(pod, &["spec", "nodeName"])),
    wide("Nominated Node", "Name of the node where preemption makes room for the pod.", |pod, _| {
        or_none(pod, &["status", "nominatedNodeName"])
    }),
    wide("Readiness Gates", "Extra conditions the pod needs to be ready.", |pod, _| readiness_gates(pod)),
];

fn pod_ip(pod: &Value) -> Value {
    match list(pod, &["status", "podIPs"]).first() {
        Some(first) => or_none(first, &["ip"]),
        None => or_none(pod, &["status", "podIP"]),
    }
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return super::NONE.into();
    }
    let met = gates.iter().filter(|g| condition(pod, field(g, &["conditionType"])));
    format!("{}/{}", met.count(), gates.len()).into()
}

/// Whether the pod's condition of that type is True.
fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = list(pod, &["status", "conditions"]);
    conditions.iter().any(|c| field(c, &["type"]) == kind && field(c, &["status"]) == "True")
}

/// What the columns need, gathered over all containers.
struct Summary {
    reason: String,
    restarts: i64,
    /// RFC 3339; the latest end of an earlier attempt.
    last_restart: Option<String>,
    ready: usize,
    total: usize,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let phase = field(pod, &["status", "phase"]);
        let mut sum = Summary {
            reason: match field(pod, &["status", "reason"]) {
                "" => phase.to_string(),
                reason => reason.to_string(),
            },
            restarts: 0,
            last_restart: None,
            ready: 0,
            total: list(pod, &["spec", "containers"]).len(),
        };
        let gated = |c: &&Value| field(c, &["type"]) == "PodScheduled" && field(c, &["reason"]) == "SchedulingGated";
        if list(pod, &["status", "conditions"]).iter().any(|c| gated(&c)) {
            sum.reason = "SchedulingGated".into();
        }
        let initializing = sum.init_containers(pod);
        if !initializing || condition(pod, "Initialized") {
            sum.containers(pod);
        }
        let terminal = matches!(phase, "Succeeded" | "Failed");
        if at(pod, &["metadata", "deletionTimestamp"]).is_some() {
            if field(pod, &["status", "reason"]) == "NodeLost" {
                sum.reason = "Unknown".into();
            } else if !terminal {
                sum.reason = "Terminating".into();
            }
        }
        sum
    }

    /// Takes the init containers in; true while they still run.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let specs = list(pod, &["spec", "initContainers"]);
        let restartable =
            |name: &str| specs.iter().any(|s| field(s, &["name"]) == name && field(s, &["restartPolicy"]) == "Always");
        self.total += specs.iter().filter(|s| field(s, &["restartPolicy"]) == "Always").count();
        let mut sidecars = (0, None);
        let mut initializing = false;
        for (index, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
            self.restarted(status);
            let sidecar = restartable(field(status, &["name"]));
            if sidecar {
                sidecars.0 += int(status, &["restartCount"]).unwrap_or(0);
                sidecars.1 = later(sidecars.1.take(), status);
            }
            if let Some(reason) = self.init_reason(status, sidecar, index, specs.len()) {
                self.reason = reason;
                initializing = true;
                break;
            }
        }
        if !initializing || condition(pod, "Initialized") {
            // From now on only containers that go on running count; init containers are history.
            (self.restarts, self.last_restart) = sidecars;
        }
        initializing
    }

    /// What an init container keeps the pod at; `None` if it does not hold it up.
    fn init_reason(&mut self, status: &Value, sidecar: bool, index: usize, count: usize) -> Option<String> {
        let terminated = at(status, &["state", "terminated"]);
        if terminated.is_some_and(|t| int(t, &["exitCode"]) == Some(0)) {
            return None;
        }
        if sidecar && status["started"] == true {
            self.ready += usize::from(status["ready"] == true);
            return None;
        }
        if let Some(ended) = terminated {
            return Some(format!("Init:{}", ended_reason(ended)));
        }
        match field(status, &["state", "waiting", "reason"]) {
            "" | "PodInitializing" => Some(format!("Init:{index}/{count}")),
            waiting => Some(format!("Init:{waiting}")),
        }
    }

    fn containers(&mut self, pod: &Value) {
        let mut running = false;
        for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
            self.restarted(status);
            let waiting = field(status, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                self.reason = waiting.into();
            } else if let Some(ended) = at(status, &["state", "terminated"]) {
                self.reason = ended_reason(ended);
            } else if status["ready"] == true && at(status, &["state", "running"]).is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if condition(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }

    fn restarted(&mut self, status: &Value) {
        self.restarts += int(status, &["restartCount"]).unwrap_or(0);
        self.last_restart = later(self.last_restart.take(), status);
    }
}

/// `Completed`, `Error`, or what there is to say without a reason.
fn ended_reason(terminated: &Value) -> String {
    match (field(terminated, &["reason"]), int(terminated, &["signal"]).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, &["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_string(),
    }
}

/// The later of a time and the end of the container's last attempt. RFC 3339 in UTC sorts as text.
fn later(known: Option<String>, status: &Value) -> Option<String> {
    let ended = field(status, &["lastState", "terminated", "finishedAt"]);
    known.max((!ended.is_empty()).then(|| ended.to_string()))
}
