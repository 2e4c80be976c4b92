//! The node's own objects: Node and Lease.
use super::{Node, NodeError, status::RUNTIME};
use crate::client;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node as ApiNode,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Where leases of nodes live.
const LEASES: &str = "kube-node-lease";
/// The wait after a failed heartbeat: short against the lease.
const RETRY: Duration = Duration::from_millis(200);
pub const VERSION: &str = "v1.35.0+coracle";

impl Node {
    /// Makes or updates the Node object, status included.
    pub(super) async fn register(&self) -> Result<(), NodeError> {
        let name = &self.config.name;
        let api: Api<ApiNode> = Api::all(self.client.clone());
        let wrap = |doing: &str| {
            let doing = format!("{doing} node {name}");
            move |error| client::Error::api(doing, error)
        };
        let wanted = self.manifest();
        let found = api.get_opt(name).await.map_err(wrap("get"))?;
        if found.is_none() {
            let mut node = wanted.clone();
            node["status"] = self.status(&[]);
            let node = serde_json::from_value(node).map_err(client::Error::step)?;
            match api.create(&PostParams::default(), &node).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(wrap("create")(error).into()),
            }
        } else {
            // Labels that others gave stay; the address range is set once.
            let labels = json!({"metadata": {"labels": wanted["metadata"]["labels"]}});
            let patch = Patch::Merge(&labels);
            api.patch(name, &PatchParams::default(), &patch).await.map_err(wrap("patch"))?;
        }
        let old = found.and_then(|n| n.status).and_then(|s| s.conditions).unwrap_or_default();
        let old = old.into_iter().filter_map(|c| serde_json::to_value(c).ok()).collect::<Vec<_>>();
        let status = json!({"status": self.status(&old)});
        let patch = Patch::Merge(&status);
        api.patch_status(name, &PatchParams::default(), &patch).await.map_err(wrap("patch status of"))?;
        Ok(())
    }

    fn manifest(&self) -> Value {
        let config = &self.config;
        let mut labels = BTreeMap::from([
            ("kubernetes.io/hostname".to_string(), config.name.clone()),
            ("kubernetes.io/os".into(), "linux".into()),
            ("kubernetes.io/arch".into(), arch().into()),
            ("beta.kubernetes.io/os".into(), "linux".into()),
            ("beta.kubernetes.io/arch".into(), arch().into()),
        ]);
        labels.extend(config.labels.iter().cloned());
        let cidr = self.net.net().pod_cidr.to_string();
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": config.name, "labels": labels},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr], "providerID": format!("coracle://{}/{}", config.cluster, config.name)},
        })
    }

    fn status(&self, old: &[Value]) -> Value {
        let capacity = &self.config.capacity;
        let amounts = json!({
            "cpu": crate::api::quantity::Quantity::from_milli(capacity.cpu_milli as i64).to_string(),
            "memory": format!("{}Ki", capacity.memory / 1024),
            "pods": capacity.pods.to_string(),
            "ephemeral-storage": format!("{}Ki", disk_bytes(&self.config.dir) / 1024),
        });
        json!({
            "capacity": amounts, "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": self.host_ip().to_string()},
                {"type": "Hostname", "address": self.config.name},
            ],
            "conditions": conditions(old, Timestamp::now()),
            "nodeInfo": node_info(&self.config.name),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        })
    }

    /// Renews the lease until `shutdown`. A node whose object says it is lost (or is gone) registers again.
    pub(super) async fn heartbeat(self: Arc<Self>, shutdown: CancellationToken) {
        let mut wait = Duration::ZERO;
        while shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = match self.renew().await {
                Ok(()) => next(self.config.lease_renew, Timestamp::now()),
                Err(error) => {
                    tracing::warn!(node = self.config.name, %error, "renewing the lease");
                    RETRY
                }
            };
        }
    }

    async fn renew(&self) -> Result<(), NodeError> {
        let name = &self.config.name;
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        let now = MicroTime(Timestamp::now());
        let renewed = json!({"spec": {"renewTime": now, "holderIdentity": name,
            "leaseDurationSeconds": self.config.lease_duration.as_secs().max(1)}});
        let patch = Patch::Merge(&renewed);
        match api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                return Err(client::Error::api(format!("renew lease {name}"), error).into());
            }
        }
        let nodes: Api<ApiNode> = Api::all(self.client.clone());
        let node = nodes.get(name).await;
        let node = node.map_err(|e| client::Error::api(format!("get node {name}"), e))?;
        let mut lease = Lease::default();
        lease.metadata.name = Some(name.clone());
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        }]);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(self.config.lease_duration.as_secs().max(1) as i32),
            renew_time: Some(now),
            ..LeaseSpec::default()
        });
        let made = api.create(&PostParams::default(), &lease).await;
        made.map_err(|e| client::Error::api(format!("create lease {name}"), e))?;
        Ok(())
    }
}

/// How long until the next multiple of `every`: all nodes wake, and write to the one disk, at the same moment.
fn next(every: Duration, now: Timestamp) -> Duration {
    let (every, now) = (every.as_nanos().max(1), now.as_nanosecond().unsigned_abs());
    Duration::from_nanos((every - now % every) as u64)
}

/// The four conditions of a healthy node; the time of transition stays while the answer does.
fn conditions(old: &[Value], now: Timestamp) -> Vec<Value> {
    let rows = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let now = crate::api::meta::time(now);
    let row = |(kind, status, reason, message): (&str, &str, &str, &str)| {
        let before = old.iter().find(|c| c["type"] == kind && c["status"] == status);
        let since = before.map_or(json!(now), |c| c["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since})
    };
    let mut all: Vec<Value> = rows.into_iter().map(row).collect();
    let others = old.iter().filter(|c| rows.iter().all(|(kind, ..)| c["type"] != *kind));
    all.extend(others.cloned());
    all
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn node_info(name: &str) -> Value {
    // Files that are not there leave their field empty, as on a machine without them.
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let os = read("/etc/os-release");
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    json!({
        "machineID": read("/etc/machine-id"),
        "systemUUID": name,
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "osImage": os.unwrap_or("Linux").trim_matches('"'),
        "containerRuntimeVersion": format!("{RUNTIME}://{}", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": VERSION, "kubeProxyVersion": VERSION,
        "operatingSystem": "linux", "architecture": arch(),
    })
}

fn disk_bytes(dir: &std::path::Path) -> u64 {
    let existing = dir.ancestors().find(|dir| dir.exists());
    let stat = existing.and_then(|dir| nix::sys::statvfs::statvfs(dir).ok());
    stat.map_or(0, |s| s.blocks() * s.fragment_size())
}
