//! Whether a pod fits on this node and asks for nothing that is not here: pure, and the step that asks.
use super::{Node, config::Capacity, observed::Verdict, resources, spec, volumes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// Decides about `pod` beside `others`, which are here already and have not ended.
pub fn admit<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod> + Clone, capacity: &Capacity) -> Result<(), Verdict> {
    if let Some(message) = unsupported(pod) {
        return Err(Verdict { reason: "UnsupportedFeature".into(), message });
    }
    if let Some(message) = forbidden_sysctl(pod) {
        return Err(Verdict { reason: "SysctlForbidden".into(), message });
    }
    let count = others.clone().count() as i128;
    let row = |name: &'static str, unit: i128, total: i128| {
        let used = others.clone().map(|p| resources::pod_request(p, name)).sum::<i128>();
        (name, resources::pod_request(pod, name) / unit, used / unit, total)
    };
    let rows = [
        ("pods", 1, count, i128::from(capacity.pods)),
        row("cpu", 1_000_000, capacity.cpu_milli.into()),
        row("memory", 1_000_000_000, capacity.memory.into()),
    ];
    match rows.iter().find(|(_, asked, used, total)| *asked > 0 && used + asked > *total) {
        None => Ok(()),
        Some((name, asked, used, total)) => Err(Verdict {
            reason: format!("OutOf{name}"),
            message: format!(
                "Pod was rejected: Node didn't have enough resource: {name}, requested: {asked}, used: {used}, capacity: {total}"
            ),
        }),
    }
}

/// The sysctls that a pod may set: those the kernel keeps a namespace, so that nothing of the host changes. They are
/// Kubernetes' own “safe” ones.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The sentence about the first sysctl that would not stay in the pod.
fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let wanted = spec::spec(pod);
    let sysctls = wanted.security_context.as_ref()?.sysctls.as_ref()?;
    sysctls.iter().map(|s| s.name.as_str()).find_map(|name| {
        if !SAFE_SYSCTLS.contains(&name) {
            Some(format!("forbidden sysctl: {name:?} not allowlisted"))
        } else if wanted.host_network == Some(true) && name.starts_with("net.") {
            Some(format!("forbidden sysctl: {name:?} not allowed with host net enabled"))
        } else {
            None
        }
    })
}

/// What the pod asks for that this node does not do.
fn unsupported(pod: &Pod) -> Option<String> {
    let wanted = spec::spec(pod);
    let flags = [
        ("hostPID", wanted.host_pid),
        ("hostIPC", wanted.host_ipc),
        ("shareProcessNamespace", wanted.share_process_namespace),
    ];
    if let Some((name, _)) = flags.iter().find(|(_, value)| *value == Some(true)) {
        return Some(format!("spec.{name} is not supported on this node"));
    }
    let mut list = volumes::list(pod).iter();
    let bad = list.find(|volume| volumes::kind(volume) == volumes::Kind::Unsupported)?;
    Some(format!("volume {:?} is of a kind that is not supported on this node", bad.name))
}

impl Node {
    pub(super) fn admit(&self, uid: &str, pod: &Pod, now: Timestamp) {
        let others: Vec<_> = {
            let pods = self.pods.lock();
            let rest = pods.iter().filter(|(other, entry)| {
                let seen = &entry.seen;
                *other != uid && seen.admitted && seen.failed.is_none() && !seen.settled
            });
            rest.map(|(_, entry)| entry.pod.clone()).collect()
        };
        let verdict = admit(pod, others.iter().map(AsRef::as_ref), &self.config.capacity);
        self.pods.seen(uid, |seen| {
            seen.start_time = seen.start_time.or(Some(now));
            seen.admitted = verdict.is_ok();
        });
        if let Err(verdict) = verdict {
            self.fail(uid, pod, &verdict.reason, &verdict.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sysctls_of_the_host_are_forbidden() {
        let verdict = |name: &str, host: bool| {
            let pod: Pod = serde_json::from_value(
                json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": host, "containers": [],
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}),
            )
            .unwrap();
            let capacity = Capacity { cpu_milli: 1000, memory: 1 << 30, pods: 2 };
            admit(&pod, std::iter::empty(), &capacity).err().map(|v| v.message)
        };
        assert_eq!(verdict("net.ipv4.tcp_syncookies", false), None);
        assert_eq!(
            verdict("net.ipv4.tcp_syncookies", true).unwrap(),
            "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"
        );
        for name in ["kernel.panic", "net/../kernel/panic", "vm.swappiness"] {
            assert_eq!(verdict(name, false).unwrap(), format!("forbidden sysctl: {name:?} not allowlisted"));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_kubernetes_words() {
        let pod = |cpu: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
            .unwrap()
        };
        let capacity = Capacity { cpu_milli: 1000, memory: 1 << 30, pods: 2 };
        let here = [pod("800m")];
        assert_eq!(admit(&pod("200m"), here.iter(), &capacity), Ok(()));
        let refused = admit(&pod("201m"), here.iter(), &capacity).unwrap_err();
        assert_eq!(refused.reason, "OutOfcpu");
        assert!(refused.message.ends_with("cpu, requested: 201, used: 800, capacity: 1000"));
        let two = [pod("0"), pod("0")];
        assert_eq!(admit(&pod("0"), two.iter(), &capacity).unwrap_err().reason, "OutOfpods");
    }
}
