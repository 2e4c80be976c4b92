//! Steps as netlink requests.
use super::{emit, find, route_header};
use crate::net::{
    Error, Result,
    socket::{Netlink, Request},
    view::{Address, Fdb, Kind, Link, LinkChange, Neighbour, Route, Step},
};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use std::{collections::BTreeMap, os::fd::RawFd};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// Performs the steps on one namespace (sysctls excepted: see `netns`). `far` is the namespace for far ends of new veth
/// pairs. Links are made one by one, because what follows needs their numbers; the rest is one batch.
pub fn perform(nl: &mut Netlink, index: &mut BTreeMap<String, u32>, steps: &[Step], far: Option<RawFd>) -> Result<()> {
    let mut pending = Vec::new();
    for step in steps {
        let requests = requests(step, index, far)?;
        if let Step::AddLink(link) = step {
            nl.batch(&std::mem::take(&mut pending))?;
            nl.batch(&requests[..1])?;
            let made = find(nl, &link.name)?.ok_or_else(|| Error::Protocol(format!("{} vanished", link.name)))?;
            index.insert(link.name.clone(), made.header.index);
            pending.extend(requests.into_iter().skip(1));
        } else {
            pending.extend(requests);
        }
    }
    nl.batch(&pending)
}

/// The requests of one step. For a new link the first makes it; its number is only known afterwards, so what follows
/// addresses it by name.
fn requests(step: &Step, index: &BTreeMap<String, u32>, far: Option<RawFd>) -> Result<Vec<Request>> {
    let at = |name: &str| number(step, index, name);
    let (message, flags, fine): (_, _, &'static [i32]) = match step {
        Step::Sysctl { .. } => return Ok(vec![]),
        Step::AddLink(link) => return add_link(step, link, index, far),
        Step::DelLink(name) => (Message::DelLink(by_name(name)), 0, &[libc::ENODEV]),
        Step::SetLink(change) => {
            let master = change.master.as_deref().map(at).transpose()?;
            (Message::SetLink(set_link(change, master)), 0, &[])
        }
        Step::AddAddress(a) => (Message::NewAddress(address(at(&a.link)?, a)), NEW, &[libc::EEXIST]),
        Step::DelAddress(a) => (Message::DelAddress(address(at(&a.link)?, a)), 0, &[libc::EADDRNOTAVAIL]),
        Step::SetRoute(r) => (Message::NewRoute(route(at(&r.link)?, r)), REPLACE, &[]),
        Step::DelRoute(r) => (Message::DelRoute(route(at(&r.link)?, r)), 0, &[libc::ESRCH]),
        Step::SetNeighbour(n) => (Message::NewNeighbour(neighbour(at(&n.link)?, n)), REPLACE, &[]),
        Step::DelNeighbour(n) => (Message::DelNeighbour(neighbour(at(&n.link)?, n)), 0, &[libc::ENOENT]),
        Step::SetFdb(e) => (Message::NewNeighbour(fdb(at(&e.link)?, e)), REPLACE, &[]),
        Step::DelFdb(e) => (Message::DelNeighbour(fdb(at(&e.link)?, e)), 0, &[libc::ENOENT]),
    };
    Ok(vec![request(step, &message, flags, fine)])
}

fn number(step: &Step, index: &BTreeMap<String, u32>, name: &str) -> Result<u32> {
    index.get(name).copied().ok_or_else(|| Error::Invalid(format!("{step}: no link {name}")))
}

fn request(step: &Step, message: &Message, flags: u16, fine: &'static [i32]) -> Request {
    Request { kind: message.message_type(), flags, payload: emit(message), what: step.to_string(), fine }
}

fn by_name(name: &str) -> LinkMessage {
    let mut m = LinkMessage::default();
    m.attributes.push(LinkAttribute::IfName(name.to_string()));
    m
}

fn add_link(step: &Step, link: &Link, index: &BTreeMap<String, u32>, far: Option<RawFd>) -> Result<Vec<Request>> {
    let mut m = by_name(&link.name);
    m.attributes.extend(link.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    m.attributes.extend(link.mtu.map(LinkAttribute::Mtu));
    if let Some(master) = &link.master {
        m.attributes.push(LinkAttribute::Controller(number(step, index, master)?));
    }
    if link.up {
        m.header.flags = LinkFlags::Up;
        m.header.change_mask = LinkFlags::Up;
    }
    let (kind, data) = kind(step, &link.kind, index, far)?;
    let infos = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect();
    m.attributes.push(LinkAttribute::LinkInfo(infos));
    let mut out = vec![request(step, &Message::NewLink(m), NEW, &[])];
    // The kernel ignores an alias on creation.
    if link.alias.is_some() {
        let change = LinkChange { alias: link.alias.clone(), ..LinkChange::of(&link.name) };
        out.push(request(step, &Message::SetLink(set_link(&change, None)), 0, &[]));
    }
    Ok(out)
}

fn kind(
    step: &Step,
    kind: &Kind,
    index: &BTreeMap<String, u32>,
    far: Option<RawFd>,
) -> Result<(InfoKind, Option<InfoData>)> {
    match kind {
        Kind::Bridge => Ok((InfoKind::Bridge, None)),
        Kind::Veth(Some(end)) => {
            let mut peer = by_name(&end.name);
            peer.attributes.push(LinkAttribute::Address(end.mac.to_vec()));
            peer.attributes.push(LinkAttribute::Mtu(end.mtu));
            peer.attributes.extend(far.map(LinkAttribute::NetNsFd));
            Ok((InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(peer)))))
        }
        Kind::Vxlan { vni, local, port, over } => {
            let data = vec![
                InfoVxlan::Id(*vni),
                InfoVxlan::Link(number(step, index, over)?),
                InfoVxlan::Local(*local),
                InfoVxlan::Port(*port),
                InfoVxlan::Learning(false),
            ];
            Ok((InfoKind::Vxlan, Some(InfoData::Vxlan(data))))
        }
        Kind::Loopback | Kind::Veth(None) | Kind::Other(_) => {
            Err(Error::Invalid(format!("{step}: the other side makes this link")))
        }
    }
}

fn set_link(change: &LinkChange, master: Option<u32>) -> LinkMessage {
    let mut m = by_name(&change.name);
    if let Some(up) = change.up {
        m.header.change_mask = LinkFlags::Up;
        m.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    }
    m.attributes.extend(change.mac.map(|m| LinkAttribute::Address(m.to_vec())));
    m.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    m.attributes.extend(master.map(LinkAttribute::Controller));
    m.attributes.extend(change.alias.clone().map(LinkAttribute::IfAlias));
    m
}

fn address(index: u32, a: &Address) -> AddressMessage {
    let mut m = AddressMessage::default();
    m.header.family = AddressFamily::Inet;
    m.header.prefix_len = a.net.prefix();
    m.header.index = index;
    m.attributes.push(AddressAttribute::Local(a.net.ip().into()));
    m.attributes.push(AddressAttribute::Address(a.net.ip().into()));
    if a.net.prefix() < 31 {
        m.attributes.push(AddressAttribute::Broadcast(a.net.broadcast()));
    }
    m
}

fn route(index: u32, r: &Route) -> RouteMessage {
    let mut m = route_header(r.to.prefix());
    m.header.protocol = RouteProtocol::Static;
    m.header.kind = RouteType::Unicast;
    m.header.scope = if r.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if r.to.prefix() > 0 {
        m.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(r.to.network())));
    }
    if let Some(via) = r.via {
        m.header.flags = RouteFlags::Onlink;
        m.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(via)));
    }
    m.attributes.push(RouteAttribute::Oif(index));
    m
}

fn neighbour(index: u32, n: &Neighbour) -> NeighbourMessage {
    let mut m = permanent(index, AddressFamily::Inet, n.ip, &n.mac);
    m.header.kind = RouteType::Unicast;
    m
}

fn fdb(index: u32, e: &Fdb) -> NeighbourMessage {
    let mut m = permanent(index, AddressFamily::Bridge, e.to, &e.mac);
    m.header.flags = NeighbourFlags::Own;
    m
}

fn permanent(index: u32, family: AddressFamily, ip: std::net::Ipv4Addr, mac: &[u8]) -> NeighbourMessage {
    let mut m = NeighbourMessage::default();
    (m.header.family, m.header.ifindex, m.header.state) = (family, index, NeighbourState::Permanent);
    m.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
    m.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    m
}
