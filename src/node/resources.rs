//! Requests and limits: quality of service, cgroup limits, the order of the out-of-memory killer. Pure.
use super::spec;
use crate::api::quantity::Quantity as Exact;
use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxMemory, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};
use std::collections::BTreeMap;

/// Microseconds of a CPU quota period; the kubelet's default.
pub const PERIOD: u64 = 100_000;
/// The kernel refuses a smaller quota.
pub const MIN_QUOTA: i64 = 1_000;
/// MemoryQoS slows a container down at this part of the way from its request to its limit, in tenths …
const THROTTLING_TENTHS: i64 = 9;
/// … in whole pages.
const PAGE: i64 = 4096;
/// The smallest `cpu.shares`.
const MIN_SHARES: u64 = 2;

type Amounts = Option<BTreeMap<String, Quantity>>;

/// An amount of one resource; none if it is not named or zero, or is not a quantity.
fn amount(of: &Amounts, name: &str) -> Option<Exact> {
    let text = &of.as_ref()?.get(name)?.0;
    text.parse::<Exact>().ok().filter(|q| !q.is_zero())
}

fn wants(container: &Container) -> (Amounts, Amounts) {
    match &container.resources {
        Some(ResourceRequirements { requests, limits, .. }) => (requests.clone(), limits.clone()),
        None => (None, None),
    }
}

/// Request of a container; a limit alone is a request too.
pub fn request(container: &Container, name: &str) -> Option<Exact> {
    let (requests, limits) = wants(container);
    amount(&requests, name).or_else(|| amount(&limits, name))
}

pub fn limit(container: &Container, name: &str) -> Option<Exact> {
    amount(&wants(container).1, name)
}

/// What the pod counts for on its node: the larger of its init containers and the sum of those that run at once.
pub fn pod_request(pod: &Pod, name: &str) -> i128 {
    let of = |c: &Container| request(c, name).map_or(0, |q| q.nanos);
    let (mut sidecars, mut peak) = (0, 0);
    for (role, container) in spec::containers(pod) {
        match role {
            spec::Role::Sidecar => {
                sidecars += of(container);
                peak = peak.max(sidecars);
            }
            spec::Role::Init => peak = peak.max(sidecars + of(container)),
            spec::Role::App => {}
        }
    }
    let apps: i128 = spec::spec(pod).containers.iter().map(of).sum();
    let overhead = &spec::spec(pod).overhead;
    peak.max(apps + sidecars) + amount(overhead, name).map_or(0, |q| q.nanos)
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos(pod: &Pod) -> &'static str {
    let (mut any, mut all) = (false, true);
    for (_, container) in spec::containers(pod) {
        for name in ["cpu", "memory"] {
            let (asked, most) = (request(container, name), limit(container, name));
            any |= asked.is_some() || most.is_some();
            all &= most.is_some() && asked == most;
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The part of the cgroup path that says the quality of service; guaranteed pods sit above the others.
pub fn qos_dir(pod: &Pod) -> &'static str {
    match qos(pod) {
        "Guaranteed" => "",
        "Burstable" => "burstable/",
        _ => "besteffort/",
    }
}

/// `cpu.shares` of so many thousandths of a core.
pub fn shares(milli: i64) -> u64 {
    (milli.max(0) as u64 * 1024 / 1000).clamp(MIN_SHARES, 262_144)
}

fn cpu(request_milli: i64, limit_milli: Option<i64>) -> LinuxCpu {
    let mut cpu = LinuxCpuBuilder::default().shares(shares(request_milli));
    if let Some(limit) = limit_milli {
        let quota = (limit * PERIOD as i64 / 1000).max(MIN_QUOTA);
        cpu = cpu.quota(quota).period(PERIOD);
    }
    cpu.build().unwrap_or_default()
}

fn memory(limit: Option<i64>) -> Option<LinuxMemory> {
    let limit = limit?;
    LinuxMemoryBuilder::default().limit(limit).build().ok()
}

fn limits(request_milli: i64, cpu_limit: Option<i64>, memory_limit: Option<i64>) -> LinuxResources {
    let mut resources = LinuxResourcesBuilder::default().cpu(cpu(request_milli, cpu_limit));
    if let Some(memory) = memory(memory_limit) {
        resources = resources.memory(memory);
    }
    resources.build().unwrap_or_default()
}

/// What one container's cgroup gets. With MemoryQoS (KEP-2570) also what the kernel leaves it, and where it slows it
/// down before it kills: `node_memory` is the limit of who has none.
pub fn container(container: &Container, memory_qos: Option<u64>) -> LinuxResources {
    let milli = |q: Option<Exact>| q.map(Exact::milli);
    let (asked, most) = (request(container, "memory"), limit(container, "memory"));
    let mut resources =
        limits(milli(request(container, "cpu")).unwrap_or(0), milli(limit(container, "cpu")), most.map(Exact::value));
    if let Some(node_memory) = memory_qos {
        let (asked, most) = (asked.map_or(0, Exact::value), most.map_or(node_memory as i64, Exact::value));
        let high = (asked + (most - asked) / 10 * THROTTLING_TENTHS) / PAGE * PAGE;
        let high = (asked != most).then(|| ("memory.high".to_owned(), high.to_string()));
        resources.set_unified(Some(memory_min(asked).into_iter().chain(high).collect()));
    }
    resources
}

fn memory_min(bytes: i64) -> Option<(String, String)> {
    (bytes > 0).then(|| ("memory.min".to_owned(), bytes.to_string()))
}

/// What the pod's cgroup gets: a limit only if every container has one.
pub fn pod(pod: &Pod, memory_qos: bool) -> LinuxResources {
    let total = |name: &str| -> Option<i128> {
        let most = spec::containers(pod).map(|(role, c)| (role, limit(c, name)));
        let most: Option<Vec<_>> = most.map(|(r, q)| q.map(|q| (r, q.nanos))).collect();
        let most = most?;
        let sum = |skip_init: bool| {
            let rows = most.iter().filter(|(r, _)| !(skip_init && *r == spec::Role::Init));
            rows.map(|(_, n)| n).sum::<i128>()
        };
        let init = most.iter().map(|(_, n)| *n).max().unwrap_or(0);
        Some(sum(true).max(init))
    };
    let milli = |nanos: i128| (nanos / 1_000_000) as i64;
    let whole = |nanos: i128| (nanos / 1_000_000_000) as i64;
    let mut resources = limits(milli(pod_request(pod, "cpu")), total("cpu").map(milli), total("memory").map(whole));
    if memory_qos {
        resources.set_unified(Some(memory_min(whole(pod_request(pod, "memory"))).into_iter().collect()));
    }
    resources
}

/// Who dies first when memory runs out: best effort, then those far above their request.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: u64) -> i32 {
    match qos(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = request(container, "memory").map_or(0, |q| q.value()) as i128;
            let share = 1000 - 1000 * asked / i128::from(node_memory.max(1));
            share.clamp(3, 999) as i32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(resources: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": resources}]}
        }))
        .unwrap()
    }

    #[test]
    fn classes_shares_and_scores() {
        let none = with(serde_json::json!({}));
        let some = with(serde_json::json!({"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}));
        let full = with(serde_json::json!({"limits": {"cpu": "1500m", "memory": "64Mi"}}));
        let row = |pod: &Pod| {
            let c = &pod.spec.as_ref().unwrap().containers[0];
            let r = container(c, None);
            let cpu = r.cpu().clone().unwrap();
            let memory = r.memory().as_ref().and_then(|m| m.limit());
            (qos(pod), cpu.shares().unwrap(), cpu.quota(), memory, oom_score_adj(pod, c, 4 << 30))
        };
        assert_eq!(row(&none), ("BestEffort", 2, None, None, 1000));
        assert_eq!(row(&some), ("Burstable", 256, None, Some(2 << 30), 750));
        assert_eq!(row(&full), ("Guaranteed", 1536, Some(150_000), Some(64 << 20), -997));
    }
}
