//! `coracle doctor`: what of this machine stands in the way, and what to do about each thing.
//!
//! [`mod@read`] looks (files under `/proc`, `/sys`, `/etc`; nothing is changed, nothing is tried), [`mod@plan`] judges: a pure
//! function from what was seen to findings, so every judgement is a row of a test. `up` runs the same two and stops only
//! at findings of level [`Level::Refuse`]; the rest is printed by `doctor`.
//!
//! A finding says what will not work rather than what is unusual: a machine where everything works yields none, however
//! odd it is. What cannot be seen (no kernel configuration anywhere) is no finding either: the attempt will tell.
//!
//! Left out: trying things (making a link, a mount) — `up` does that and undoes it; rules of the old iptables, which only
//! its own socket options tell; remote things, such as whether a registry answers.
mod kernel;
mod plan;
mod read;
mod surroundings;

pub use kernel::{Kernel, Presence};
pub use plan::plan;
pub use read::read;

use ipnetwork::Ipv4Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know; everything a cluster is for works.
    Note,
    /// Something a user may want will not work.
    Warn,
    /// A cluster cannot work; `up` refuses.
    Refuse,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    /// What is so, and what will not work because of it.
    pub what: String,
    /// The command or the line to write, ready to be copied.
    pub fix: String,
}

/// What the cluster to be judged wants of the machine.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub data_dir: PathBuf,
    /// 0: any free one.
    pub api_port: u16,
    pub pod_cidr: Ipv4Network,
    pub service_cidr: Ipv4Network,
}

impl Wanted {
    /// The network room's names for this cluster's links.
    fn network(&self) -> crate::net::Cluster {
        crate::net::Cluster {
            name: self.name.clone(),
            // Neither is part of any name.
            underlay: self.pod_cidr,
            mtu: 0,
            pod_cidr: self.pod_cidr,
            service_cidr: self.service_cidr,
        }
    }
}

impl Default for Wanted {
    /// What `up` does without flags.
    fn default() -> Self {
        let net = |text: &str| text.parse().expect("a constant that is a network");
        Wanted {
            name: "default".into(),
            data_dir: "/var/lib/coracle/default".into(),
            api_port: 6443,
            pod_cidr: net("10.244.0.0/16"),
            service_cidr: net("10.96.0.0/16"),
        }
    }
}

/// What was seen of the machine. Everything is plain data; `None` means it could not be seen.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub uid: u32,
    /// Bits of `CapEff`, numbered as in capability.h.
    pub capabilities: u64,
    pub kernel: Kernel,
    pub cgroups: Cgroups,
    /// Values under `/proc/sys`, keyed with dots. Only those that a judgement needs.
    pub sysctls: BTreeMap<&'static str, i64>,
    /// Name servers of `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
    /// Those of systemd-resolved's own upstream file, which is used where the first are loopbacks.
    pub upstream_nameservers: Vec<IpAddr>,
    /// Chains of other people that drop what is forwarded unless told otherwise.
    pub forward_drops: Vec<ForwardDrop>,
    /// Whether the old iptables has a filter table, which cannot be looked into.
    pub legacy_iptables: bool,
    /// Listening TCP ports, with the name of the process where it could be seen.
    pub listening: BTreeMap<u16, Option<String>>,
    /// Destinations of this machine's routes, without the default one and without our own links.
    pub routes: Vec<(Ipv4Network, String)>,
    /// Clusters of which something exists here.
    pub clusters: BTreeMap<String, Cluster>,
    pub disk: Option<Disk>,
    pub selinux_enforcing: bool,
}

/// How cgroups are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Controllers that can limit something, whatever the layout.
    pub controllers: BTreeSet<String>,
    pub writable: bool,
    /// Whether anything is mounted at all.
    pub mounted: bool,
}

/// A chain on the forward hook whose policy is drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardDrop {
    /// `ip filter FORWARD`, as nft prints it.
    pub chain: String,
    pub owner: Firewall,
}

/// Whose firewall it is, as far as the names of its chains tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    Docker,
    Ufw,
    Firewalld,
    Other,
}

/// What exists of a cluster on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The daemon answers to its pid file.
    pub running: bool,
    /// Kernel objects: `netns coracle-x-node-1`, `link cr-x`, `cgroup coracle/x`.
    pub objects: Vec<String>,
}

/// The filesystem of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub free_bytes: u64,
    pub free_inodes: u64,
    /// As in /proc/filesystems.
    pub kind: String,
    pub read_only: bool,
}
