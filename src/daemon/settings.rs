//! What was asked for at `up`, and what of it is remembered.
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use super::ground::write_private;
use crate::node::{Capacity, Parts, processors};
use crate::runtime::cgroup;

/// Nodes of a cluster nobody gave a number for.
const NODES: u32 = 3;
/// More do not fit into the underlay's /24.
const NODES_MAX: u32 = 200;
/// Pods a node takes, as everywhere in Kubernetes.
const PODS: u32 = 110;

/// A node cannot say more often that it lives: that would be all it did.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Memory of a node, in bytes, below which it has room for nothing.
const MEMORY_MIN: u64 = 16 << 20;

/// What `coracle up` was asked for. `None` is "as it was the last time, or the default".
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the cluster.
    pub cluster: String,
    /// Where to keep things.
    pub data_dir: Option<PathBuf>,
    /// How many nodes there should be at least.
    pub nodes: Option<u32>,
    /// Port of the API; 0 is any.
    pub api_port: Option<u16>,
    /// Addresses of pods.
    pub pod_cidr: Option<Ipv4Network>,
    /// Addresses of Services.
    pub service_cidr: Option<Ipv4Network>,
    /// How large nodes are to be, as far as that is asked.
    pub size: Resize,
    /// The feature gate MemoryQoS.
    pub memory_qos: bool,
    /// How often a node says that it lives.
    pub heartbeat: Duration,
    /// How long the others believe it without a sign of life.
    pub node_grace: Duration,
    /// How long pods stay on a node that is gone, in seconds.
    pub eviction_seconds: u64,
}

/// How large a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes a second to and from the disk that the data lie on; as fast as it is if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bandwidth: Option<u64>,
}

/// What is asked of the sizes of nodes, those that are there already too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resize {
    pub cpu_milli: Option<u64>,
    pub memory: Option<u64>,
    pub disk_bandwidth: Option<u64>,
}

impl Resize {
    pub fn of(self, old: Size) -> Size {
        Size {
            cpu_milli: self.cpu_milli.unwrap_or(old.cpu_milli),
            memory: self.memory.unwrap_or(old.memory),
            disk_bandwidth: self.disk_bandwidth.or(old.disk_bandwidth),
        }
    }
}

impl Size {
    /// Two cores, 4 GiB, a disk as fast as it is.
    pub const USUAL: Size = Size { cpu_milli: 2000, memory: 4 << 30, disk_bandwidth: None };

    /// The disk that is shared out, and how fast it may be.
    ///
    /// Errors: it cannot be shared out.
    fn disk(&self, data: &Path) -> Result<Option<(u64, u64, u64)>> {
        let Some(rate) = self.disk_bandwidth else { return Ok(None) };
        ensure!(cgroup::unified()?, "--node-disk-bandwidth: io.max needs cgroup v2, which this host does not have");
        let (major, minor) = disk(data).context("--node-disk-bandwidth")?;
        Ok(Some((major, minor, rate)))
    }
}

impl Options {
    /// Refuses what this host cannot do, before anything is made or remembered.
    pub fn check(&self, data: &Path) -> Result<()> {
        let qos =
            "--feature-gates MemoryQoS=true: memory.min and memory.high need cgroup v2, which this host does not have";
        ensure!(!self.memory_qos || cgroup::unified()?, qos);
        let (often, grace) = (self.heartbeat, self.node_grace);
        ensure!(often >= HEARTBEAT_MIN, "--node-heartbeat {often:?}: at least {HEARTBEAT_MIN:?}");
        ensure!(
            often < grace,
            "--node-heartbeat {often:?}: must be less than --node-monitor-grace {grace:?}, or no node is ever Ready"
        );
        self.size.of(Size::USUAL).disk(data)?;
        Settings::merge(Settings::load(data)?, self).map(drop)
    }
}

/// One virtual node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSetting {
    /// `node-1`.
    pub name: String,
    /// Decides its addresses; never 0.
    pub index: u32,
    /// What it has.
    #[serde(flatten)]
    pub size: Size,
    /// Switched off by `node stop`.
    #[serde(default)]
    pub stopped: bool,
}

impl NodeSetting {
    /// What it offers to pods.
    pub fn capacity(&self) -> Capacity {
        Capacity { cpu_milli: self.size.cpu_milli, memory: self.size.memory, pods: PODS }
    }

    /// What of this host it is made of; `data` is where its data lie.
    ///
    /// Errors: the disk cannot be shared out.
    pub fn parts(&self, data: &Path) -> Result<Parts> {
        let host = if cgroup::unified()? { cgroup::processors()? } else { Vec::new() };
        Ok(Parts { cpus: processors(self.index, self.size.cpu_milli, &host), disk: self.size.disk(data)? })
    }
}

/// What stays the same from one `up` to the next; `cluster.json` in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The /24 between nodes and host.
    pub underlay: Option<Ipv4Network>,
    /// Addresses of pods.
    pub pod_cidr: Ipv4Network,
    /// Addresses of Services.
    pub service_cidr: Ipv4Network,
    /// Port of the API.
    pub api_port: u16,
    /// All nodes.
    pub nodes: Vec<NodeSetting>,
}

impl Settings {
    /// The settings of the last time, changed as asked. Pure.
    ///
    /// Errors: a change that running pods could not follow.
    pub fn merge(before: Option<Settings>, options: &Options) -> Result<Settings> {
        let fixed = |name: &str, before: Option<Ipv4Network>, asked: Option<Ipv4Network>, default: [u8; 4]| match (
            before, asked,
        ) {
            (Some(before), Some(asked)) if before != asked => {
                bail!("--{name} {asked}: this cluster was made with {before}; `coracle down --purge` starts anew")
            }
            (Some(network), _) | (None, Some(network)) => Ok(network),
            (None, None) => Ok(Ipv4Network::new(default.into(), 16)?),
        };
        let old = before.as_ref();
        let mut settings = Settings {
            underlay: old.and_then(|old| old.underlay),
            pod_cidr: fixed("pod-cidr", old.map(|old| old.pod_cidr), options.pod_cidr, [10, 244, 0, 0])?,
            service_cidr: fixed("service-cidr", old.map(|old| old.service_cidr), options.service_cidr, [10, 96, 0, 0])?,
            // "Any" prefers the one of the last time: kubeconfigs stay good.
            api_port: match (options.api_port, old) {
                (Some(port @ 1..), _) => port,
                (_, Some(old)) => old.api_port,
                (Some(0), None) => 0,
                (None, None) => 6443,
            },
            nodes: old.map(|old| old.nodes.clone()).unwrap_or_default(),
        };
        let wanted = options.nodes.unwrap_or(if old.is_some() { 0 } else { NODES });
        ensure!(wanted <= NODES_MAX, "--nodes {wanted}: at most {NODES_MAX}");
        settings.nodes.iter_mut().for_each(|node| node.size = options.size.of(node.size));
        for number in 1..=wanted {
            let name = format!("node-{number}");
            if !settings.nodes.iter().any(|node| node.name == name) {
                settings.add(&name, options.size.of(Size::USUAL))?;
            }
        }
        settings.check().map(|()| settings)
    }

    /// Refuses nodes, and ranges for them, that cannot work.
    pub fn check(&self) -> Result<()> {
        if let Some(node) = self.nodes.iter().find(|node| node.size.memory < MEMORY_MIN) {
            bail!("--node-memory {}: at least 16Mi", node.size.memory);
        }
        for (flag, network) in [("pod-cidr", self.pod_cidr), ("service-cidr", self.service_cidr)] {
            let kind = match network.network().octets() {
                [0, ..] => "of this network",
                [127, ..] => "of the loopback",
                [169, 254, ..] => "of one link",
                [224..=255, ..] => "of groups, or reserved",
                _ => continue,
            };
            bail!("--{flag} {network}: these addresses are {kind}; take a private range, as 10.0.0.0/8 has them");
        }
        let (nodes, room) = (self.nodes.last().map_or(0, |node| node.index), self.pod_cidr.size() >> 8);
        ensure!(
            nodes < room,
            "--pod-cidr {}: has room for {} nodes (each takes a /24, the first stays free), {nodes} are wanted",
            self.pod_cidr,
            room.saturating_sub(1)
        );
        let services = self.service_cidr;
        ensure!(
            services.prefix() <= 28,
            "--service-cidr {services}: at least a /28: cluster DNS has its tenth address"
        );
        Ok(())
    }

    /// A new node with the first free number.
    ///
    /// Errors: the name is taken or there is no room.
    pub fn add(&mut self, name: &str, size: Size) -> Result<NodeSetting> {
        ensure!(!self.nodes.iter().any(|node| node.name == name), "node {name:?} exists");
        let free = |index: &u32| !self.nodes.iter().any(|node| node.index == *index);
        let Some(index) = (1..=NODES_MAX).find(free) else { bail!("at most {NODES_MAX} nodes") };
        let node = NodeSetting { name: name.to_owned(), index, size, stopped: false };
        self.nodes.push(node.clone());
        self.nodes.sort_by_key(|node| node.index);
        Ok(node)
    }

    /// A name for a node nobody named.
    pub fn free_name(&self) -> String {
        let taken = |name: &str| self.nodes.iter().any(|node| node.name == name);
        (1..).map(|number| format!("node-{number}")).find(|name| !taken(name)).unwrap_or_default()
    }

    /// Reads `cluster.json`; none when there is no cluster yet.
    pub fn load(data: &Path) -> Result<Option<Settings>> {
        let path = data.join("cluster.json");
        let reading = || format!("reading {}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(reading),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(reading),
        }
    }

    /// Replaces `cluster.json`, whole or not at all.
    pub fn save(&self, data: &Path) -> Result<()> {
        write_private(&data.join("cluster.json"), &serde_json::to_string_pretty(self)?)
    }
}

/// The whole disk that a directory lies on, or will (limits are of disks, not of partitions): major and minor number.
///
/// Errors: it lies on no disk, but in memory or on a network.
fn disk(dir: &Path) -> Result<(u64, u64)> {
    let dir = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let device = std::fs::metadata(dir).with_context(|| format!("looking at {}", dir.display()))?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let block = block.canonicalize().with_context(|| format!("{} lies on no disk of its own", dir.display()))?;
    let partition = block.join("partition").exists();
    let whole = block.parent().filter(|_| partition).unwrap_or(&block);
    let numbers = std::fs::read_to_string(whole.join("dev")).with_context(|| format!("reading {}", whole.display()))?;
    let numbers = numbers.trim().split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers.with_context(|| format!("{} has no number", whole.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { cpu_milli: 2000, memory: 1 << 30, disk_bandwidth: None };

    fn options(nodes: Option<u32>) -> Options {
        Options {
            cluster: "x".into(),
            data_dir: None,
            nodes,
            api_port: None,
            pod_cidr: None,
            service_cidr: None,
            size: Resize { memory: Some(1 << 30), ..Resize::default() },
            memory_qos: false,
            heartbeat: Duration::from_secs(2),
            node_grace: Duration::from_secs(6),
            eviction_seconds: 5,
        }
    }

    #[test]
    fn nodes_are_added_and_never_silently_removed() {
        let first = Settings::merge(None, &options(None)).unwrap();
        assert_eq!(first.nodes.len(), 3);
        assert_eq!(Settings::merge(Some(first.clone()), &options(None)).unwrap(), first);
        let more = Settings::merge(Some(first.clone()), &options(Some(4))).unwrap();
        assert_eq!(more.nodes.last().unwrap().name, "node-4");
        assert_eq!(Settings::merge(Some(more.clone()), &options(Some(1))).unwrap(), more);
    }

    #[test]
    fn sizes_change_as_far_as_they_are_asked_to() {
        let mut first = Settings::merge(None, &options(None)).unwrap();
        assert!(first.nodes.iter().all(|node| node.size == SIZE));
        let mut other = options(None);
        other.size = Resize { cpu_milli: Some(500), ..Resize::default() };
        let smaller = Settings::merge(Some(first.clone()), &other).unwrap();
        first.nodes.iter_mut().for_each(|node| node.size.cpu_milli = 500);
        assert_eq!(smaller, first);
    }

    #[test]
    fn a_free_number_is_used_again() {
        let mut settings = Settings::merge(None, &options(Some(3))).unwrap();
        settings.nodes.remove(1);
        assert_eq!(settings.free_name(), "node-2");
        assert_eq!(settings.add("other", SIZE).unwrap().index, 2);
        assert!(settings.add("other", SIZE).is_err());
    }

    #[test]
    fn address_ranges_stay() {
        let first = Settings::merge(None, &options(None)).unwrap();
        let mut other = options(None);
        other.pod_cidr = Some("10.1.0.0/16".parse().unwrap());
        let error = Settings::merge(Some(first), &other).unwrap_err().to_string();
        assert_eq!(
            error,
            "--pod-cidr 10.1.0.0/16: this cluster was made with 10.244.0.0/16; `coracle down --purge` starts anew"
        );
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let refused = |change: fn(&mut Options), why: &str| {
            let mut options = options(None);
            change(&mut options);
            let dir = tempfile::tempdir().unwrap();
            let error = options.check(dir.path()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(|o| o.pod_cidr = "10.244.0.0/30".parse().ok(), "room for 0 nodes");
        refused(|o| (o.pod_cidr, o.nodes) = ("10.244.0.0/22".parse().ok(), Some(4)), "room for 3 nodes");
        refused(|o| o.pod_cidr = "127.0.0.0/16".parse().ok(), "loopback");
        refused(|o| o.service_cidr = "224.0.0.0/16".parse().ok(), "of groups");
        refused(|o| o.service_cidr = "10.96.0.0/29".parse().ok(), "at least a /28");
        refused(|o| o.nodes = Some(300), "at most 200");
        refused(|o| o.heartbeat = Duration::ZERO, "at least 100ms");
        refused(|o| o.node_grace = Duration::from_secs(1), "less than --node-monitor-grace 1s");
        refused(|o| o.size.memory = Some(1024), "at least 16Mi");
        options(None).check(tempfile::tempdir().unwrap().path()).unwrap();
    }

    #[test]
    fn settings_survive_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Settings::load(dir.path()).unwrap().is_none());
        let settings = Settings::merge(None, &options(None)).unwrap();
        settings.save(dir.path()).unwrap();
        assert_eq!(Settings::load(dir.path()).unwrap(), Some(settings));
    }
}
