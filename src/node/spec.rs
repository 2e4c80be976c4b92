//! Short questions about a pod's manifest, asked in many places.
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::sync::LazyLock;

/// Seconds of grace when the manifest says nothing.
const DEFAULT_GRACE: i64 = 30;

/// What a container does in the pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: started in its turn, then runs beside the others.
    Sidecar,
    App,
}

/// Whether a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

/// The manifest's spec; a pod from the API always has one.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// What the status says; empty before anybody said anything.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// All containers in the order they are started.
pub fn containers(pod: &Pod) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec(pod).init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, c)
    });
    init.chain(spec(pod).containers.iter().map(|c| (Role::App, c)))
}

pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<(Role, &'a Container)> {
    containers(pod).find(|(_, c)| c.name == name)
}

/// Whether `container` runs again after it ended.
pub fn restart(pod: &Pod, role: Role) -> Restart {
    match (role, spec(pod).restart_policy.as_deref()) {
        (Role::Sidecar, _) => Restart::Always,
        (_, Some("Never")) => Restart::Never,
        (_, Some("OnFailure")) => Restart::OnFailure,
        // An init container that succeeded has done its work.
        (Role::Init, _) => Restart::OnFailure,
        (Role::App, _) => Restart::Always,
    }
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `web-1_default(uid)`, as the kubelet's messages name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Seconds between asking a container to end and ending it.
pub fn grace(pod: &Pod) -> i64 {
    let asked = pod.metadata.deletion_grace_period_seconds;
    asked.or(spec(pod).termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE).max(0)
}

/// When a deletion was asked for, the moment its grace period ends.
pub fn deletion(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.deletion_timestamp.as_ref().map(|time| time.0)
}

/// The host name inside the pod: at most 63 characters, no dash at the end.
pub fn hostname(pod: &Pod) -> String {
    let name = spec(pod).hostname.as_deref().unwrap_or(name(pod));
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_string()
}
