//! A pod's status as Kubernetes words it: pure.
use super::{
    observed::{ContainerSeen, Exit, Hook, Observed, Run, SandboxSeen},
    plan::{finished, initialized, started},
    resources,
    spec::{self, Restart, Role},
    step::Policy,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// Prefix of container ids, as `containerd://` is elsewhere.
pub const RUNTIME: &str = "coracle";
/// How many of a status' conditions are the node's own; they come first.
pub const OWN_CONDITIONS: usize = 4;

/// The status of `pod`, as observed. `old` are its conditions so far: those of others stay, and times of transition.
pub fn status(
    pod: &Pod,
    seen: &Observed,
    policy: &Policy,
    old: &[PodCondition],
    host: Ipv4Addr,
    now: Timestamp,
) -> PodStatus {
    let make = Maker { pod, seen, policy };
    let list = |wanted: &dyn Fn(Role) -> bool| {
        let rows = spec::containers(pod).filter(|(role, _)| wanted(*role));
        let rows: Vec<_> = rows.map(|(role, c)| make.container(role, c)).collect();
        Some(rows).filter(|rows| !rows.is_empty())
    };
    let phase = make.phase();
    let ip = match spec::host_network(pod) {
        true => seen.sandbox_ready().then_some(host),
        false => seen.ip,
    };
    let verdict = seen.failed.as_ref();
    PodStatus {
        conditions: Some(make.conditions(phase, old, now)),
        container_statuses: list(&|role| role == Role::App),
        init_container_statuses: list(&|role| role != Role::App),
        phase: Some(phase.to_string()),
        reason: verdict.map(|v| v.reason.clone()),
        message: verdict.map(|v| v.message.clone()),
        host_ip: Some(host.to_string()),
        host_ips: Some(vec![HostIP { ip: host.to_string() }]),
        pod_ip: ip.map(|ip| ip.to_string()),
        pod_ips: ip.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        start_time: seen.start_time.map(second).map(Time),
        qos_class: Some(resources::qos(pod).to_string()),
        observed_generation: pod.metadata.generation,
        nominated_node_name: pod.status.as_ref().and_then(|s| s.nominated_node_name.clone()),
        ..PodStatus::default()
    }
}

/// Kubernetes writes times in seconds; comparing must not see more than is written.
fn second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// `coracle://<64 hex>`: the same for one attempt, whoever computes it.
pub fn container_id(pod_uid: &str, name: &str, attempt: u32) -> String {
    let hash = Sha256::digest(format!("{pod_uid}/{name}/{attempt}"));
    format!("{RUNTIME}://{}", hex::encode(hash))
}

/// `5m0s`, as Go prints durations.
pub fn go_duration(d: std::time::Duration) -> String {
    let (s, ms) = (d.as_secs(), d.subsec_millis());
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, 0) => format!("{ms}ms"),
        (0, 0, s) if ms > 0 => format!("{s}.{ms:03}").trim_end_matches('0').to_string() + "s",
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

impl Observed {
    fn sandbox_ready(&self) -> bool {
        self.sandbox == SandboxSeen::Ready
    }
}

struct Maker<'a> {
    pod: &'a Pod,
    seen: &'a Observed,
    policy: &'a Policy,
}

impl Maker<'_> {
    fn of(&self, name: &str) -> ContainerSeen {
        self.seen.containers.get(name).cloned().unwrap_or_default()
    }

    fn phase(&self) -> &'static str {
        let roles = |wanted: Role| {
            spec::containers(self.pod).filter(move |(role, _)| *role == wanted).map(|(_, c)| self.of(&c.name))
        };
        // A phase that is final means that nothing runs any more: whoever counts on that starts a replacement.
        let still = spec::containers(self.pod).any(|(_, c)| self.of(&c.name).is_running());
        if self.seen.failed.is_some() && !still {
            return "Failed";
        }
        if finished(self.pod, self.seen) && !still {
            let failed = |seen: ContainerSeen| seen.exit().is_some_and(|exit| exit.code != 0);
            let init = roles(Role::Init).any(failed) && !initialized(self.pod, self.seen);
            return match init || roles(Role::App).any(failed) {
                true => "Failed",
                false => "Succeeded",
            };
        }
        match roles(Role::App).all(|seen| seen.run != Run::Never) {
            true => "Running",
            false => "Pending",
        }
    }

    fn container(&self, role: Role, container: &Container) -> ContainerStatus {
        let seen = self.of(&container.name);
        let (state, last) = self.states(role, container, &seen);
        let current = !matches!(seen.run, Run::Never);
        let id = current.then(|| container_id(spec::uid(self.pod), &container.name, seen.attempt));
        let image = seen.image.as_ref();
        ContainerStatus {
            name: container.name.clone(),
            image: image.map_or_else(|| container.image.clone(), |i| Some(i.reference.clone())).unwrap_or_default(),
            image_id: image.map(|i| i.id.clone()).unwrap_or_default(),
            container_id: id,
            ready: self.ready(role, container, &seen),
            started: Some(match role {
                Role::Init => seen.is_running(),
                _ => started(container, &seen),
            }),
            restart_count: seen.attempt as i32,
            state: Some(state),
            last_state: Some(last.unwrap_or_default()),
            ..ContainerStatus::default()
        }
    }

    fn ready(&self, role: Role, container: &Container, seen: &ContainerSeen) -> bool {
        match role {
            Role::Init => seen.exit().is_some_and(|exit| exit.code == 0),
            _ => {
                // Also while it is stopping: an endpoint that terminates still serves.
                started(container, seen)
                    && (container.readiness_probe.is_none() || seen.probes.readiness.verdict == Some(true))
            }
        }
    }

    /// The state now, and the state before.
    fn states(
        &self,
        role: Role,
        container: &Container,
        seen: &ContainerSeen,
    ) -> (ContainerState, Option<ContainerState>) {
        let uid = spec::uid(self.pod);
        let ended = |exit: &Exit| terminated(exit, container_id(uid, &container.name, exit.attempt));
        let before = seen.previous.as_ref().map(ended);
        match &seen.run {
            Run::Running { .. } if seen.post_start == Hook::Running => (waiting("ContainerCreating", None), before),
            Run::Running { since } => {
                let running = ContainerStateRunning { started_at: Some(Time(second(*since))) };
                (ContainerState { running: Some(running), ..Default::default() }, before)
            }
            Run::Never => (self.not_yet(role, seen), before),
            Run::Exited(exit) if self.comes_back(role, exit) => {
                let why = match &seen.failure {
                    Some(failure) => waiting(&failure.reason, Some(&failure.message)),
                    None => self.backing_off(container, seen),
                };
                (why, Some(ended(exit)))
            }
            Run::Exited(exit) => (ended(exit), before),
        }
    }

    fn not_yet(&self, role: Role, seen: &ContainerSeen) -> ContainerState {
        if let Some(failure) = &seen.failure {
            return waiting(&failure.reason, Some(&failure.message));
        }
        let init = spec::containers(self.pod).any(|(role, _)| role != Role::App);
        match role == Role::App && init {
            true => waiting("PodInitializing", None),
            false if init && seen.run == Run::Never => waiting("PodInitializing", None),
            false => waiting("ContainerCreating", None),
        }
    }

    /// Whether a container that ended will be started again in this pod's life.
    fn comes_back(&self, role: Role, exit: &Exit) -> bool {
        let ending = spec::deletion(self.pod).is_some()
            || self.seen.failed.is_some()
            || self.seen.gone
            || finished(self.pod, self.seen);
        let again = match spec::restart(self.pod, role) {
            Restart::Always => true,
            Restart::OnFailure => exit.code != 0,
            Restart::Never => false,
        };
        again && !ending && !(role == Role::Init && initialized(self.pod, self.seen))
    }

    fn backing_off(&self, container: &Container, seen: &ContainerSeen) -> ContainerState {
        let delay = self.policy.delay(self.policy.crashes(seen));
        if delay.is_zero() {
            // It starts again at once; nobody should see a back-off that is none.
            return waiting("ContainerCreating", None);
        }
        let message = back_off_message(self.pod, &container.name, delay);
        waiting("CrashLoopBackOff", Some(&message))
    }

    fn conditions(&self, phase: &str, old: &[PodCondition], now: Timestamp) -> Vec<PodCondition> {
        let succeeded = phase == "Succeeded";
        let not_ready = |wanted: &dyn Fn(Role) -> bool| -> Vec<String> {
            spec::containers(self.pod)
                .filter(|(role, c)| wanted(*role) && !self.ready(*role, c, &self.of(&c.name)))
                .map(|(_, c)| c.name.clone())
                .collect()
        };
        let initialized = initialized(self.pod, self.seen) || succeeded;
        let uninit = match initialized {
            true => Vec::new(),
            false => not_ready(&|role| role != Role::App),
        };
        let unready = not_ready(&|role| role != Role::Init);
        let completed = succeeded.then_some(("PodCompleted", String::new()));
        let failed = (phase == "Failed").then_some(("PodFailed", String::new()));
        let list = |what: &str, names: &[String]| format!("containers with {what} status: [{}]", names.join(" "));
        let containers = match completed.clone().or(failed) {
            Some(why) => Some(why),
            None if unready.is_empty() => None,
            None => Some(("ContainersNotReady", list("unready", &unready))),
        };
        let init = (!uninit.is_empty()).then(|| ("ContainersNotInitialized", list("incomplete", &uninit)));
        let init = completed.or(init);
        let ready = containers.clone().or_else(|| self.gates(old));
        let rows = [
            ("PodReadyToStartContainers", self.seen.sandbox_ready(), None),
            ("Initialized", uninit.is_empty(), init),
            ("Ready", ready.is_none(), ready),
            ("ContainersReady", containers.is_none(), containers),
        ];
        let ours: Vec<_> =
            rows.into_iter().map(|(kind, yes, why)| condition(self.pod, kind, yes, why, old, now)).collect();
        let mut all = ours.clone();
        all.extend(old.iter().filter(|c| ours.iter().all(|o| o.type_ != c.type_)).cloned());
        all
    }

    /// Readiness gates: conditions that others must have set to true.
    fn gates(&self, old: &[PodCondition]) -> Option<(&'static str, String)> {
        let gates = spec::spec(self.pod).readiness_gates.iter().flatten();
        let shut = gates
            .map(|gate| &gate.condition_type)
            .find(|gate| !old.iter().any(|c| c.type_ == **gate && c.status == "True"))?;
        let message = format!("corresponding condition of pod readiness gate \"{shut}\" does not exist.");
        Some(("ReadinessGatesNotReady", message))
    }
}

fn condition(
    pod: &Pod,
    kind: &str,
    yes: bool,
    why: Option<(&str, String)>,
    old: &[PodCondition],
    now: Timestamp,
) -> PodCondition {
    let status = if yes { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == kind && c.status == status);
    let since = before.and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.to_string(),
        status: status.to_string(),
        last_transition_time: since.or(Some(Time(second(now)))),
        reason: why.as_ref().map(|(reason, _)| reason.to_string()),
        message: why.map(|(_, message)| message).filter(|m| !m.is_empty()),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_string()), message: message.map(str::to_string) };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn terminated(exit: &Exit, id: String) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: exit.code,
        // The kubelet's container runtimes leave the signal to the exit code; so the field stays empty.
        signal: None,
        reason: Some(exit.reason.clone()),
        message: exit.message.clone(),
        started_at: Some(Time(second(exit.started))),
        finished_at: Some(Time(second(exit.finished))),
        container_id: Some(id),
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

/// What the waiting state says about a back-off.
pub fn back_off_message(pod: &Pod, container: &str, delay: std::time::Duration) -> String {
    format!("back-off {} restarting failed container={container} pod={}", go_duration(delay), spec::full_name(pod))
}
