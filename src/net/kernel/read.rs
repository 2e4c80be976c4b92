//! Reads a namespace: links, and what is on them.
use super::{RTM_GETLINK, dump, emit, find, link_query, parse, route_header};
use crate::net::{
    Result,
    socket::Netlink,
    view::{Address, Fdb, Kind, Link, Neighbour, Route, View},
};
use ipnetwork::Ipv4Network;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const AF_BRIDGE: u8 = 7;

/// A namespace as read from the kernel, with the numbers a driver needs.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub view: View,
    pub index: BTreeMap<String, u32>,
    /// Of a veth: the index of its far end (in that end's namespace).
    pub peer: BTreeMap<String, u32>,
}

/// Reads the named links and everything on them. Links that do not exist are absent from the result. Sysctls are
/// files, not netlink: the caller adds them.
pub fn observe(nl: &mut Netlink, names: &[&str]) -> Result<Observed> {
    let mut seen = links(nl, names)?;
    entries(nl, &mut seen)?;
    Ok(seen)
}

/// Reads only the named links.
pub fn links(nl: &mut Netlink, names: &[&str]) -> Result<Observed> {
    let mut seen = Observed::default();
    for name in names {
        if let Some(message) = find(nl, name)? {
            let (link, index, peer) = read_link(&message);
            seen.index.insert(link.name.clone(), index);
            seen.peer.extend(peer.map(|p| (link.name.clone(), p)));
            seen.view.links.push(link);
        }
    }
    let names: BTreeMap<u32, String> = seen.index.iter().map(|(n, i)| (*i, n.clone())).collect();
    resolve(nl, &mut seen.view, &names)?;
    Ok(seen)
}

/// Reads what is on the links seen.
fn entries(nl: &mut Netlink, seen: &mut Observed) -> Result<()> {
    let names: BTreeMap<u32, String> = seen.index.iter().map(|(n, i)| (*i, n.clone())).collect();
    for message in dump(nl, RouteNetlinkMessage::GetAddress(address_filter()), RTM_GETADDR, "reading addresses")? {
        if let RouteNetlinkMessage::NewAddress(m) = message {
            seen.view.addresses.extend(read_address(&m, &names));
        }
    }
    for message in dump(nl, RouteNetlinkMessage::GetRoute(route_header(0)), RTM_GETROUTE, "reading routes")? {
        if let RouteNetlinkMessage::NewRoute(m) = message {
            seen.view.routes.extend(read_route(&m, &names));
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Bridge] {
        let mut filter = NeighbourMessage::default();
        filter.header.family = family;
        for message in dump(nl, RouteNetlinkMessage::GetNeighbour(filter), RTM_GETNEIGH, "reading neighbours")? {
            if let RouteNetlinkMessage::NewNeighbour(m) = message {
                read_neighbour(&m, &names, &mut seen.view);
            }
        }
    }
    Ok(())
}

/// All links, with their aliases: (name, alias, index).
pub fn aliases(nl: &mut Netlink) -> Result<Vec<(String, String, u32)>> {
    let all = dump(nl, RouteNetlinkMessage::GetLink(link_query(None)), RTM_GETLINK, "reading links")?;
    let links = all.iter().filter_map(|m| match m {
        RouteNetlinkMessage::NewLink(m) => Some(read_link(m)),
        _ => None,
    });
    Ok(links.map(|(l, index, _)| (l.name, l.alias.unwrap_or_default(), index)).collect())
}

fn address_filter() -> AddressMessage {
    let mut m = AddressMessage::default();
    m.header.family = AddressFamily::Inet;
    m
}

fn read_link(m: &LinkMessage) -> (Link, u32, Option<u32>) {
    let mut link = Link::new("", Kind::Other("unknown".into()));
    link.up = m.header.flags.contains(LinkFlags::Up);
    let (mut peer, mut kind, mut data) = (None, None, None);
    for attribute in &m.attributes {
        match attribute {
            LinkAttribute::IfName(n) => link.name = n.clone(),
            LinkAttribute::IfAlias(a) => link.alias = Some(a.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
            LinkAttribute::Address(a) => link.mac = a.as_slice().try_into().ok(),
            LinkAttribute::Link(i) => peer = Some(*i),
            LinkAttribute::Controller(i) => link.master = Some(number(*i)),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(k) => kind = Some(k.clone()),
                        LinkInfo::Data(d) => data = Some(d.clone()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.kind = match (kind, data) {
        (None, _) if m.header.flags.contains(LinkFlags::Loopback) => Kind::Loopback,
        (Some(InfoKind::Bridge), _) => Kind::Bridge,
        (Some(InfoKind::Veth), _) => Kind::Veth(None),
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(infos))) => read_vxlan(&infos),
        (other, _) => Kind::Other(format!("{other:?}")),
    };
    (link, m.header.index, peer)
}

fn read_vxlan(infos: &[InfoVxlan]) -> Kind {
    let (mut id, mut at, mut dst, mut under, mut learns) = (0, Ipv4Addr::UNSPECIFIED, 0, String::new(), false);
    for info in infos {
        match info {
            InfoVxlan::Id(n) => id = *n,
            InfoVxlan::Local(a) => at = *a,
            InfoVxlan::Port(p) => dst = *p,
            InfoVxlan::Link(i) => under = number(*i),
            InfoVxlan::Learning(l) => learns = *l,
            _ => {}
        }
    }
    match learns {
        true => Kind::Other("learning vxlan".into()),
        false => Kind::Vxlan { vni: id, local: at, port: dst, over: under },
    }
}

/// Stands for a link known only by number until [`resolve`] names it.
fn number(index: u32) -> String {
    format!("#{index}")
}

/// Replaces numbers of masters and underlying links by names; links that were not asked for are looked up.
fn resolve(nl: &mut Netlink, view: &mut View, names: &BTreeMap<u32, String>) -> Result<()> {
    let mut name = |word: &mut String| -> Result<()> {
        let Some(index) = word.strip_prefix('#').and_then(|n| n.parse::<u32>().ok()) else {
            return Ok(());
        };
        if let Some(known) = names.get(&index) {
            *word = known.clone();
            return Ok(());
        }
        let mut query = link_query(None);
        query.header.index = index;
        let frame =
            nl.get(RTM_GETLINK, &emit(&RouteNetlinkMessage::GetLink(query)), &format!("looking for link {index}"))?;
        if let RouteNetlinkMessage::NewLink(m) = parse(&frame)? {
            *word = read_link(&m).0.name;
        }
        Ok(())
    };
    for link in &mut view.links {
        if let Some(master) = &mut link.master {
            name(master)?;
        }
        if let Kind::Vxlan { over, .. } = &mut link.kind {
            name(over)?;
        }
    }
    Ok(())
}

fn read_address(m: &AddressMessage, names: &BTreeMap<u32, String>) -> Option<Address> {
    let link = names.get(&m.header.index)?.clone();
    let ip = m.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
        _ => None,
    })?;
    // The kernel's own: 127.0.0.1 comes with `lo up`.
    if ip.is_loopback() {
        return None;
    }
    Some(Address { link, net: Ipv4Network::new(ip, m.header.prefix_len).ok()? })
}

fn read_route(m: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    if m.header.table != RouteHeader::RT_TABLE_MAIN
        || m.header.protocol == RouteProtocol::Kernel
        || m.header.address_family != AddressFamily::Inet
    {
        return None;
    }
    let (mut to, mut via, mut out) = (Ipv4Addr::UNSPECIFIED, None, None);
    for attribute in &m.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = *ip,
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            RouteAttribute::Oif(index) => out = Some(*index),
            _ => {}
        }
    }
    let to = Ipv4Network::new(to, m.header.destination_prefix_length).ok()?;
    Some(Route { to, link: names.get(&out?)?.clone(), via })
}

fn read_neighbour(m: &NeighbourMessage, names: &BTreeMap<u32, String>, view: &mut View) {
    let Some(link) = names.get(&m.header.ifindex).cloned() else {
        return;
    };
    if m.header.state != NeighbourState::Permanent {
        return;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &m.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => ip = Some(*a),
            NeighbourAttribute::Destination(NeighbourAddress::Other(b)) => {
                ip = <[u8; 4]>::try_from(b.as_slice()).ok().map(Ipv4Addr::from)
            }
            NeighbourAttribute::LinkLayerAddress(b) => mac = b.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let (Some(ip), Some(mac)) = (ip, mac) else {
        return;
    };
    match u8::from(m.header.family) {
        AF_BRIDGE => drop(view.fdb.insert(Fdb { link, mac, to: ip })),
        _ => drop(view.neighbours.insert(Neighbour { link, ip, mac })),
    }
}
