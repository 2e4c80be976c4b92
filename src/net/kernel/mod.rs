//! The driver of link plans: [`read`] a namespace into a [`View`](super::view::View), [`mod@write`] steps into it.
mod read;
mod write;

pub use read::{Observed, aliases, links, observe};
pub use write::perform;

use super::{
    Error, Result,
    socket::{Frame, Netlink},
};
use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    route::{RouteHeader, RouteMessage},
};

const RTM_GETLINK: u16 = 18;

/// One link by name.
fn find(nl: &mut Netlink, name: &str) -> Result<Option<LinkMessage>> {
    let payload = emit(&RouteNetlinkMessage::GetLink(link_query(Some(name))));
    match nl.get(RTM_GETLINK, &payload, &format!("looking for link {name}")) {
        Ok(frame) => match parse(&frame)? {
            RouteNetlinkMessage::NewLink(m) => Ok(Some(m)),
            other => Err(Error::Protocol(format!("a link was asked for, {other:?} came"))),
        },
        Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

fn link_query(name: Option<&str>) -> LinkMessage {
    let mut m = LinkMessage::default();
    m.attributes.extend(name.map(|n| LinkAttribute::IfName(n.to_string())));
    // Statistics are most of a link's message and nobody here reads them.
    m.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    m
}

fn emit(message: &RouteNetlinkMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn parse(frame: &Frame) -> Result<RouteNetlinkMessage> {
    RouteNetlinkMessage::parse_with_param(&frame.payload, frame.kind).map_err(|e| Error::Protocol(e.to_string()))
}

fn dump(nl: &mut Netlink, query: RouteNetlinkMessage, kind: u16, what: &str) -> Result<Vec<RouteNetlinkMessage>> {
    nl.dump(kind, &emit(&query), what)?.iter().map(parse).collect()
}

/// A main-table IPv4 route message.
fn route_header(prefix: u8) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = AddressFamily::Inet;
    m.header.destination_prefix_length = prefix;
    m.header.table = RouteHeader::RT_TABLE_MAIN;
    m
}
