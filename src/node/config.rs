//! What a node needs to know; every duration a test wants shorter is here.
use super::limits::Parts;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// What the node offers to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    pub memory: u64,
    pub pods: u32,
}

/// Configuration of one node. Addresses of the node itself come from its `NodeHandle`.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    pub name: String,
    /// 1-based.
    pub index: u32,
    pub cluster: String,
    /// Durable: `<data dir>/nodes/<name>`.
    pub dir: PathBuf,
    /// In a tmpfs, for what must not reach a disk: files of Secrets, tokens.
    pub memory: PathBuf,
    pub capacity: Capacity,
    /// Of its host.
    pub parts: Parts,
    /// The feature gate MemoryQoS (KEP-2570): `memory.min` and `memory.high` from requests and limits, on cgroup v2.
    pub memory_qos: bool,
    /// Extra labels of the Node object, e.g. `topology.kubernetes.io/zone`.
    pub labels: Vec<(String, String)>,
    /// Address of the `kube-dns` Service.
    pub cluster_dns: Ipv4Addr,
    /// `cluster.local`
    pub cluster_domain: String,
    /// Where pods of the host network find the API, and `KUBERNETES_SERVICE_HOST` before the Service exists.
    pub api: SocketAddr,
    /// How often the Lease is renewed …
    pub lease_renew: Duration,
    /// … and for how long one renewal counts.
    pub lease_duration: Duration,
    /// First delay of CrashLoopBackOff and ImagePullBackOff; doubles up to `backoff_max`.
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// A container that ran this long starts over with `backoff_first`.
    pub backoff_reset: Duration,
}

impl NodeConfig {
    /// The values a cluster has by default.
    pub fn new(cluster: &str, name: &str, index: u32, dir: PathBuf, memory: PathBuf) -> NodeConfig {
        NodeConfig {
            name: name.to_string(),
            index,
            cluster: cluster.to_string(),
            dir,
            memory,
            capacity: Capacity { cpu_milli: 2000, memory: 4 << 30, pods: 110 },
            parts: Parts::default(),
            memory_qos: false,
            labels: Vec::new(),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".into(),
            api: SocketAddr::from(([10, 96, 0, 1], 443)),
            lease_renew: Duration::from_secs(2),
            lease_duration: Duration::from_secs(6),
            backoff_first: Duration::from_secs(10),
            backoff_max: Duration::from_secs(300),
            backoff_reset: Duration::from_secs(600),
        }
    }
}
