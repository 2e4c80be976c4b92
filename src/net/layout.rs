//! What the host, a node and a pod should look like: pure functions of the cluster's and the nodes' addresses.
use super::{
    Cluster, NodeNet, mac,
    view::{Address, FarEnd, Fdb, Kind, Link, Neighbour, Route, View},
};
use ipnetwork::Ipv4Network;
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// The bridge of a node; its address is the pods' gateway.
pub const BRIDGE: &str = "cbr0";
/// The VXLAN device of a node.
pub const VXLAN: &str = "vxlan0";
/// The bridge of the underlay, in the switch's namespace.
pub const SWITCH: &str = "br0";
/// The uplink inside a node, the link inside a pod, and the switch's link to the host.
pub const ETH: &str = "eth0";
pub const LO: &str = "lo";
/// The port IANA gave to VXLAN is 4789; 8472 is Linux' own default and what flannel uses.
pub const VXLAN_PORT: u16 = 8472;

/// Why each: without them the node is no router, or drops what a service must carry.
pub const NODE_SYSCTLS: &[(&str, &str)] = &[
    // A node routes between its pods, the overlay and the underlay.
    ("net/ipv4/ip_forward", "1"),
    // Pods of one node talk through the router on purpose (service replies must pass it): do not tell them a shorter way.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    // Loose: a reply may come by the underlay where the request went by the overlay.
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/conf/default/rp_filter", "2"),
    // A late packet of a closed connection is passed on, not answered with a reset by the wrong end.
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
    // Where br_netfilter is loaded it would push bridged frames through the IP hooks and turn a translated packet back onto
    // the bridge before it is routed: a pod could not reach itself through a service. Our pods' packets are all routed.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    // The cluster speaks IPv4; without this every link would spend its first seconds on IPv6 housekeeping.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// A switch passes frames on and speaks no protocol of its own.
const SWITCH_SYSCTLS: &[(&str, &str)] =
    &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

/// The host's link to the switch, with its address on the underlay; making it makes the switch's `eth0`.
pub fn host(cluster: &Cluster) -> View {
    let end = FarEnd { name: ETH.into(), mac: mac(cluster.underlay.network()), mtu: cluster.mtu };
    let mut link = Link::new(cluster.link(), Kind::Veth(Some(end)));
    link.mac = Some(mac(cluster.gateway()));
    link.mtu = Some(cluster.mtu);
    link.alias = Some(mark(cluster));
    let net = on(cluster.gateway(), cluster.underlay.prefix());
    View { addresses: [Address { link: link.name.clone(), net }].into(), links: vec![link], ..View::default() }
}

/// The inside of the switch, without the nodes' uplinks.
pub fn switch(cluster: &Cluster) -> View {
    let mut lo = Link::new(LO, Kind::Loopback);
    lo.alias = Some(mark(cluster));
    let mut bridge = Link::new(SWITCH, Kind::Bridge);
    bridge.mac = Some(mac(cluster.underlay.network()));
    bridge.mtu = Some(cluster.mtu);
    let mut out = Link::new(ETH, Kind::Veth(None));
    out.mac = Some(mac(cluster.underlay.network()));
    out.mtu = Some(cluster.mtu);
    out.master = Some(SWITCH.into());
    View { sysctls: settings(SWITCH_SYSCTLS), links: vec![lo, bridge, out], ..View::default() }
}

fn settings(rows: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    rows.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// The switch's end of a node's uplink; making it makes the node's `eth0`.
pub fn uplink(cluster: &Cluster, node: &NodeNet) -> View {
    let end = FarEnd { name: ETH.into(), mac: mac(node.underlay_ip), mtu: cluster.mtu };
    let mut link = Link::new(cluster.uplink(node.index), Kind::Veth(Some(end)));
    link.mtu = Some(cluster.mtu);
    link.master = Some(SWITCH.into());
    link.alias = Some(format!("coracle {} {}", cluster.name, node.name));
    View { links: vec![link], ..View::default() }
}

/// The inside of a node. `peers` may contain the node itself.
///
/// A peer costs three entries: the route to its pods via its VTEP, the VTEP's MAC (neighbour), and the underlay address
/// behind that MAC (FDB). All are permanent, so nothing is ever learned or flooded.
pub fn node(cluster: &Cluster, node: &NodeNet, peers: &[NodeNet]) -> View {
    let mut view = View { sysctls: settings(NODE_SYSCTLS), links: node_links(cluster, node), ..View::default() };
    view.addresses = [
        Address { link: ETH.into(), net: on(node.underlay_ip, cluster.underlay.prefix()) },
        Address { link: BRIDGE.into(), net: on(node.gateway(), node.pod_cidr.prefix()) },
        Address { link: VXLAN.into(), net: on(node.vtep_ip(), 32) },
    ]
    .into();
    view.routes.insert(Route { to: on(Ipv4Addr::UNSPECIFIED, 0), link: ETH.into(), via: Some(cluster.gateway()) });
    for peer in peers.iter().filter(|p| p.name != node.name) {
        let link = VXLAN.to_string();
        view.routes.insert(Route {
            to: on(peer.pod_cidr.network(), peer.pod_cidr.prefix()),
            link: link.clone(),
            via: Some(peer.vtep_ip()),
        });
        view.neighbours.insert(Neighbour { link: link.clone(), ip: peer.vtep_ip(), mac: peer.vtep_mac() });
        view.fdb.insert(Fdb { link, mac: peer.vtep_mac(), to: peer.underlay_ip });
    }
    view
}

fn node_links(cluster: &Cluster, node: &NodeNet) -> Vec<Link> {
    let mut lo = Link::new(LO, Kind::Loopback);
    lo.alias = Some(mark(cluster));
    let mut eth = Link::new(ETH, Kind::Veth(None));
    eth.mac = Some(mac(node.underlay_ip));
    eth.mtu = Some(cluster.mtu);
    let mut bridge = Link::new(BRIDGE, Kind::Bridge);
    bridge.mac = Some(mac(node.gateway()));
    bridge.mtu = Some(cluster.pod_mtu());
    let mut vxlan = Link::new(
        VXLAN,
        Kind::Vxlan { vni: vni(cluster), local: node.underlay_ip, port: VXLAN_PORT, over: ETH.into() },
    );
    vxlan.mac = Some(node.vtep_mac());
    vxlan.mtu = Some(cluster.pod_mtu());
    vec![lo, eth, bridge, vxlan]
}

/// The alias of `lo` in every namespace of the cluster, and of the host's link. The file name alone does not say whose it is: cluster `a` with a node
/// `b-1` and cluster `a-b` with a node `1` look the same.
pub fn mark(cluster: &Cluster) -> String {
    format!("coracle {}", cluster.name)
}

/// The node's end of a pod's link; making it makes the pod's `eth0`.
pub fn pod_near(cluster: &Cluster, pod_uid: &str, ip: Ipv4Addr) -> View {
    let end = FarEnd { name: ETH.into(), mac: mac(ip), mtu: cluster.pod_mtu() };
    let mut link = Link::new(pod_link(pod_uid), Kind::Veth(Some(end)));
    link.mtu = Some(cluster.pod_mtu());
    link.master = Some(BRIDGE.into());
    link.alias = Some(pod_uid.to_string());
    View { links: vec![link], ..View::default() }
}

/// The inside of a pod: one address, and everything through the node. A /32 has no neighbours, so that even pods of one
/// node meet in the node's router, where services are translated back.
pub fn pod_far(cluster: &Cluster, node: &NodeNet, ip: Ipv4Addr) -> View {
    let mut eth = Link::new(ETH, Kind::Veth(None));
    eth.mac = Some(mac(ip));
    eth.mtu = Some(cluster.pod_mtu());
    View {
        links: vec![Link::new(LO, Kind::Loopback), eth],
        addresses: [Address { link: ETH.into(), net: on(ip, 32) }].into(),
        routes: [
            Route { to: on(node.gateway(), 32), link: ETH.into(), via: None },
            Route { to: on(Ipv4Addr::UNSPECIFIED, 0), link: ETH.into(), via: Some(node.gateway()) },
        ]
        .into(),
        ..View::default()
    }
}

/// Name of a pod's link in its node: a link name has 15 bytes, a UID 36.
pub fn pod_link(pod_uid: &str) -> String {
    format!("veth{}", &hex::encode(Sha256::digest(pod_uid))[..11])
}

/// The VXLAN network identifier (24 bits, not 0): follows from the cluster's name, so that two clusters whose underlays
/// were ever connected would still not hear each other.
pub fn vni(cluster: &Cluster) -> u32 {
    let hash = Sha256::digest(&cluster.name);
    u32::from_be_bytes([0, hash[0], hash[1], hash[2]]).max(1)
}

fn on(ip: Ipv4Addr, prefix: u8) -> Ipv4Network {
    Ipv4Network::new(ip, prefix).expect("prefixes here are constants or come from a network")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::view::plan;

    fn cluster() -> Cluster {
        Cluster {
            name: "t".into(),
            underlay: "172.30.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            mtu: 1500,
        }
    }

    fn lines(desired: &View, observed: &View) -> String {
        plan(desired, observed).iter().map(|s| format!("{s}\n")).collect()
    }

    #[test]
    fn a_new_node_from_nothing_but_its_uplink() {
        let c = cluster();
        let nodes: Vec<_> = (1..=2).map(|k| c.node(&format!("n{k}"), k).unwrap()).collect();
        let mut seen = View::default();
        let mut lo = Link::new("lo", Kind::Loopback);
        lo.up = false;
        let mut eth = Link::new("eth0", Kind::Veth(None));
        eth.up = false;
        eth.mac = Some(mac(nodes[0].underlay_ip));
        eth.mtu = Some(1500);
        seen.links = vec![lo, eth];
        seen.sysctls = [("net/ipv4/ip_forward".to_string(), "0".to_string())].into();
        let want = node(&c, &nodes[0], &nodes);
        assert_eq!(
            lines(&want, &seen),
            "sysctl net/ipv4/ip_forward=1
link set lo alias coracle t up
link set eth0 up
link add cbr0 type bridge address 0a:58:0a:f4:01:01 mtu 1450 up
link add vxlan0 type vxlan id 14924170 local 172.30.0.11 dstport 8472 nolearning dev eth0 address 0a:58:ac:1e:00:0b mtu 1450 up
addr add 10.244.1.1/24 dev cbr0
addr add 172.30.0.11/24 dev eth0
addr add 10.244.1.0/32 dev vxlan0
neigh replace 10.244.2.0 lladdr 0a:58:ac:1e:00:0c dev vxlan0 nud permanent
fdb replace 0a:58:ac:1e:00:0c dev vxlan0 dst 172.30.0.12 self permanent
route replace default via 172.30.0.1 onlink dev eth0
route replace 10.244.2.0/24 via 10.244.2.0 onlink dev vxlan0
"
        );
        assert_eq!(lines(&want, &want), "", "a second plan is empty");
    }

    #[test]
    fn a_peer_that_left_and_one_that_moved() {
        let c = cluster();
        let nodes: Vec<_> = (1..=3).map(|k| c.node(&format!("n{k}"), k).unwrap()).collect();
        let before = node(&c, &nodes[0], &nodes);
        let mut moved = nodes[1].clone();
        moved.underlay_ip = Ipv4Addr::new(172, 30, 0, 99);
        let after = node(&c, &nodes[0], &[moved]);
        assert_eq!(
            lines(&after, &before),
            "neigh del 10.244.3.0 dev vxlan0
neigh replace 10.244.2.0 lladdr 0a:58:ac:1e:00:63 dev vxlan0 nud permanent
fdb del 0a:58:ac:1e:00:0c dev vxlan0 dst 172.30.0.12
fdb del 0a:58:ac:1e:00:0d dev vxlan0 dst 172.30.0.13
fdb replace 0a:58:ac:1e:00:63 dev vxlan0 dst 172.30.0.99 self permanent
route del 10.244.3.0/24 via 10.244.3.0 onlink dev vxlan0
"
        );
    }

    #[test]
    fn a_pod_inside() {
        let c = cluster();
        let n = c.node("n1", 1).unwrap();
        let ip = Ipv4Addr::new(10, 244, 1, 7);
        let mut seen = View::default();
        let mut lo = Link::new("lo", Kind::Loopback);
        lo.up = false;
        let mut eth = Link::new("eth0", Kind::Veth(None));
        eth.up = false;
        eth.mac = Some(mac(ip));
        eth.mtu = Some(1450);
        seen.links = vec![lo, eth];
        assert_eq!(
            lines(&pod_far(&c, &n, ip), &seen),
            "link set lo up
link set eth0 up
addr add 10.244.1.7/32 dev eth0
route replace 10.244.1.1/32 dev eth0
route replace default via 10.244.1.1 onlink dev eth0
"
        );
    }
}
