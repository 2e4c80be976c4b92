//! The names and addresses everything else is derived from, and the desired services of a node.
use super::{Error, Result};
use ipnetwork::Ipv4Network;
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

/// Host part of the first node's underlay address: .1 is the host, 2..=10 are left for people.
const FIRST_NODE_HOST: u32 = 10;
/// Longest cluster name that is used as it is in link names (a link name has at most 15 bytes).
const TAG_LEN: usize = 8;

/// One cluster as the network sees it. Every name on the host follows from `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub name: String,
    /// The /24 between the nodes and the host; the host is .1, node k is .(10+k).
    pub underlay: Ipv4Network,
    pub pod_cidr: Ipv4Network,
    pub service_cidr: Ipv4Network,
    /// MTU of the underlay; pods get 50 bytes less (VXLAN over IPv4).
    pub mtu: u32,
}

/// One node as the network sees it, as published in its Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNet {
    pub name: String,
    /// 1-based; decides addresses and the name of the uplink.
    pub index: u32,
    pub underlay_ip: Ipv4Addr,
    pub pod_cidr: Ipv4Network,
}

/// Transport protocols of a Service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// One backend of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
}

/// One port of one Service, as one node must serve it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// `namespace/name:port-name`, unique; what the chains are called after.
    pub name: String,
    pub protocol: Protocol,
    /// The cluster IP (and external IPs, when there are any).
    pub addresses: BTreeSet<Ipv4Addr>,
    pub port: u16,
    pub node_port: Option<u16>,
    /// Where traffic to `addresses` goes. Empty: refused.
    pub endpoints: BTreeSet<Endpoint>,
    /// Where traffic to the node port and to addresses outside the service range goes: `None` the same endpoints, with the
    /// source masqueraded; `Some` (externalTrafficPolicy Local) only these, with the source kept. Empty: dropped. Pods and
    /// the node itself always reach `endpoints`.
    pub external: Option<BTreeSet<Endpoint>>,
    /// sessionAffinity ClientIP: seconds a client stays with its endpoint.
    pub affinity: Option<u32>,
}

/// All services of a cluster as one node must serve them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    pub ports: Vec<ServicePort>,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    pub fn from_number(n: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|p| p.number() == n)
    }

    /// The word of nft's syntax.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl Cluster {
    /// Short form of the name that fits into link names: the name itself, or 3 characters and 5 of its hash.
    pub fn tag(&self) -> String {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !self.name.is_empty() && self.name.len() <= TAG_LEN && self.name.chars().all(plain) {
            return self.name.clone();
        }
        let head: String = self.name.chars().filter(|c| plain(*c)).take(3).collect();
        format!("{head}{}", &hex::encode(Sha256::digest(&self.name))[..5])
    }

    /// The host's link to the underlay.
    pub fn link(&self) -> String {
        format!("cr-{}", self.tag())
    }

    /// The switch's end of a node's uplink.
    pub fn uplink(&self, index: u32) -> String {
        format!("cr-{}-{index}", self.tag())
    }

    /// Our nft table, on the host and in every node.
    pub fn table(&self) -> String {
        format!("coracle-{}", self.name)
    }

    /// The host's address on the underlay.
    pub fn gateway(&self) -> Ipv4Addr {
        host(self.underlay, 1)
    }

    /// Where a node's network namespace is mounted; `ip netns` lists it.
    pub fn netns(&self, node: &str) -> PathBuf {
        super::netns::dir().join(format!("{}{node}", self.netns_prefix()))
    }

    /// Where the network namespace of the switch is mounted. No node's can have this name: theirs go on with a `-`.
    pub fn switch(&self) -> PathBuf {
        super::netns::dir().join(format!("coracle.{}", self.name))
    }

    pub(crate) fn netns_prefix(&self) -> String {
        format!("coracle-{}-", self.name)
    }

    /// The addresses of node number `index` (1-based).
    ///
    /// Errors: the underlay or the pod range has no room for it.
    pub fn node(&self, name: &str, index: u32) -> Result<NodeNet> {
        let underlay_ip = host(self.underlay, FIRST_NODE_HOST + index);
        let base = u32::from(self.pod_cidr.network()) as u64 + ((index as u64) << 8);
        let last = u32::from(self.pod_cidr.broadcast()) as u64;
        if index == 0 || FIRST_NODE_HOST + index >= self.underlay.size() - 1 || base + 255 > last {
            return Err(Error::Invalid(format!(
                "no room for node {name} as number {index} in {} and {}",
                self.underlay, self.pod_cidr
            )));
        }
        let pod_cidr = Ipv4Network::new(Ipv4Addr::from(base as u32), 24).map_err(|e| Error::Invalid(e.to_string()))?;
        Ok(NodeNet { name: name.to_string(), index, underlay_ip, pod_cidr })
    }

    /// The number of the node with that underlay address; `None` if no node can have it.
    pub fn index_of(&self, underlay_ip: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(underlay_ip).checked_sub(u32::from(self.underlay.network()))?;
        let index = offset.checked_sub(FIRST_NODE_HOST).filter(|i| *i > 0)?;
        self.underlay.contains(underlay_ip).then_some(index)
    }

    /// MTU inside pods.
    pub fn pod_mtu(&self) -> u32 {
        self.mtu.saturating_sub(VXLAN_OVERHEAD)
    }
}

/// Bytes VXLAN over IPv4 adds: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const VXLAN_OVERHEAD: u32 = 50;

impl NodeNet {
    /// The bridge's address: the first of the pod CIDR, the pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        host(self.pod_cidr, 1)
    }

    /// The address of the VXLAN device: the network address of the pod CIDR, as a /32. Peers route via it.
    pub fn vtep_ip(&self) -> Ipv4Addr {
        self.pod_cidr.network()
    }

    /// MAC of the VXLAN device; follows from the underlay address, so peers need no exchange.
    pub fn vtep_mac(&self) -> [u8; 6] {
        mac(self.underlay_ip)
    }
}

/// `0a:58` (locally administered) and the four octets of an address.
pub fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The `n`-th address of a network.
pub(crate) fn host(net: Ipv4Network, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()).wrapping_add(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster {
            name: name.into(),
            underlay: "172.30.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            mtu: 1500,
        }
    }

    #[test]
    fn names_fit_a_link_name() {
        assert_eq!(cluster("default").link(), "cr-default");
        assert_eq!(cluster("default").uplink(3), "cr-default-3");
        let long = cluster("my-second-cluster");
        assert!(long.uplink(244).len() <= 15, "{}", long.uplink(244));
        assert_ne!(long.tag(), cluster("my-third-cluster").tag());
    }

    #[test]
    fn addresses_follow_from_the_index() {
        let n = cluster("default").node("node-2", 2).unwrap();
        assert_eq!(n.underlay_ip, Ipv4Addr::new(172, 30, 0, 12));
        assert_eq!(n.pod_cidr.to_string(), "10.244.2.0/24");
        assert_eq!(n.gateway(), Ipv4Addr::new(10, 244, 2, 1));
        assert_eq!(n.vtep_mac(), [0x0a, 0x58, 172, 30, 0, 12]);
        assert!(cluster("default").node("x", 0).is_err());
        assert!(cluster("default").node("x", 245).is_err());
    }
}
