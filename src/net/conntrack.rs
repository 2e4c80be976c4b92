//! Forgetting UDP flows whose endpoint is gone.
//!
//! The kernel remembers where a flow was translated to. A TCP connection to a removed endpoint ends by itself; a UDP client
//! that keeps its port (a resolver does) would go on sending to the dead address for as long as it keeps trying.
use super::{
    Error, Protocol, Result, ServicePort, Services,
    attr::{Attrs, Writer},
    nft,
    socket::{Netlink, Request},
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;

/// One direction of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    proto: u8,
}

/// Deletes flows to services that go where the services no longer lead. Works on the calling thread's network namespace.
pub fn forget_stale(services: &Services) -> Result<()> {
    let table = Table::new(services);
    if table.by_address.is_empty() {
        return Ok(());
    }
    let mut nl = Netlink::open(NETLINK_NETFILTER)?;
    let query = header().finish();
    let mut requests = Vec::new();
    for frame in nl.dump(CT_GET, &query, "reading conntrack")? {
        let attrs = Attrs::new(frame.payload.get(4..).unwrap_or_default());
        let (Some(orig), Some(reply)) = (attrs.get(TUPLE_ORIG), attrs.get(TUPLE_REPLY)) else {
            continue;
        };
        let (Ok(from), Ok(to)) = (read(orig.attrs()), read(reply.attrs())) else {
            continue;
        };
        if table.stale(&from, &to) {
            requests.push(Request {
                kind: CT_DELETE,
                flags: 0,
                payload: header().bytes(TUPLE_ORIG | 0x8000, orig.0).finish(),
                what: format!("deleting a conntrack entry of {}:{}", from.dst.0, from.dst.1),
                // It may have ended by itself.
                fine: &[libc::ENOENT],
            });
        }
    }
    nl.batch(&requests)
}

/// The UDP services, by what flows to them look like.
struct Table {
    by_address: BTreeMap<(Ipv4Addr, u16), BTreeSet<(Ipv4Addr, u16)>>,
    by_node_port: BTreeMap<u16, BTreeSet<(Ipv4Addr, u16)>>,
}

impl Table {
    fn new(services: &Services) -> Self {
        let udp = || services.ports.iter().filter(|p| p.protocol == Protocol::Udp);
        let ends = |p: &ServicePort| {
            p.endpoints.iter().chain(p.external.iter().flatten()).map(|e| (e.ip, e.port)).collect::<BTreeSet<_>>()
        };
        Table {
            by_address: udp().flat_map(|p| p.addresses.iter().map(move |ip| ((*ip, p.port), ends(p)))).collect(),
            by_node_port: udp().filter_map(|p| Some((p.node_port?, ends(p)))).collect(),
        }
    }

    fn stale(&self, from: &Tuple, to: &Tuple) -> bool {
        if from.proto != Protocol::Udp.number() {
            return false;
        }
        // A translated flow's answers come from the endpoint.
        let endpoints = self
            .by_address
            .get(&from.dst)
            .or_else(|| (to.src != from.dst).then(|| self.by_node_port.get(&from.dst.1)).flatten());
        endpoints.is_some_and(|e| !e.contains(&to.src))
    }
}

fn header() -> Writer {
    Writer::after(&[nft::FAMILY, 0, 0, 0])
}

fn read(tuple: Attrs) -> Result<Tuple> {
    let (ip, proto) = (tuple.need(1)?.attrs(), tuple.need(2)?.attrs());
    let address = |kind| Ok::<_, Error>(Ipv4Addr::from(ip.need(kind)?.be32()?));
    let port = |kind| proto.get(kind).and_then(|v| v.0.try_into().ok()).map_or(0, u16::from_be_bytes);
    let number = proto.need(1)?.0.first().copied().unwrap_or_default();
    Ok(Tuple { src: (address(1)?, port(2)), dst: (address(2)?, port(3)), proto: number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;

    #[test]
    fn only_udp_to_what_is_no_endpoint_is_stale() {
        let at = |s: &str, port| (s.parse::<Ipv4Addr>().unwrap(), port);
        let port = ServicePort {
            name: "kube-system/kube-dns:dns".into(),
            protocol: Protocol::Udp,
            addresses: [Ipv4Addr::new(10, 96, 0, 10)].into(),
            port: 53,
            node_port: Some(30053),
            endpoints: [Endpoint { ip: Ipv4Addr::new(10, 244, 1, 2), port: 53 }].into(),
            external: None,
            affinity: None,
        };
        let table = Table::new(&Services { ports: vec![port] });
        let client = at("10.244.2.2", 4000);
        let flow =
            |dst, end, proto| table.stale(&Tuple { src: client, dst, proto }, &Tuple { src: end, dst: client, proto });
        let service = at("10.96.0.10", 53);
        assert!(!flow(service, at("10.244.1.2", 53), 17), "goes to an endpoint");
        assert!(flow(service, at("10.244.1.9", 53), 17), "endpoint is gone");
        assert!(flow(service, service, 17), "was never translated: there was no endpoint then");
        assert!(!flow(service, at("10.244.1.9", 53), 6), "TCP is left alone");
        assert!(flow(at("172.30.0.11", 30053), at("10.244.1.9", 53), 17), "node port");
        assert!(!flow(at("8.8.8.8", 30053), at("8.8.8.8", 30053), 17), "same port elsewhere");
    }
}
