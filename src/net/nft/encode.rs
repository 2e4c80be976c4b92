//! The model as netlink attributes. Numbers are those of the kernel's `nf_tables.h`.
use super::{Base, Data, Expr, Field, Item, Part, Reject, Rule, Set, SetRef, Slot, To, Verdict};
use crate::net::attr::Writer;

pub(super) const LIST_ELEM: u16 = 1;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_REGISTER: u32 = 0;
/// `NFT_DATA_VERDICT`: the data type of verdict maps.
pub(super) const TYPE_VERDICT: u32 = 0xffff_ff00;
pub(super) const BITS_PER_FIELD: u32 = 6;

pub(super) const SET_ANONYMOUS: u32 = 1;
pub(super) const SET_CONSTANT: u32 = 2;
pub(super) const SET_MAP: u32 = 8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
pub(super) const SET_EVAL: u32 = 0x20;
/// Most clients a service with session affinity remembers; beyond that new clients are not remembered.
pub(super) const REMEMBERED: u32 = 65_536;

/// Element lists are split so that one attribute stays far below its 64 KiB.
pub const ELEMENTS_PER_MESSAGE: usize = 400;

fn text(expr: &str, body: Writer) -> Writer {
    Writer::default().text(1, expr).nested(2, body)
}

/// The kernel names every fourth register by the old 128-bit scheme.
fn register(slot: Slot) -> u32 {
    if slot.is_multiple_of(4) { slot / 4 + 1 } else { slot + 8 }
}

fn value(bytes: &[u8]) -> Writer {
    Writer::default().bytes(DATA_VALUE, bytes)
}

fn verdict(v: &Verdict) -> Writer {
    let (code, chain) = match v {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    let body = Writer::default().be32(1, code as u32).maybe(chain, |w, c| w.text(2, c));
    Writer::default().nested(DATA_VERDICT, body)
}

/// A rule's expressions. Inline sets were made before under the names in `inline`, in order, with these ids.
pub fn rule(rule: &Rule, inline: &[(String, u32)]) -> Writer {
    let mut inline = inline.iter();
    let mut list = Writer::default();
    for e in rule {
        list = list.nested(LIST_ELEM, expr(e, &mut inline));
    }
    list
}

fn expr<'a>(e: &Expr, inline: &mut impl Iterator<Item = &'a (String, u32)>) -> Writer {
    let w = Writer::default();
    match e {
        Expr::Load { part, to } => load(*part, register(*to)),
        Expr::Mask { slot, mask } => bitwise(register(*slot), mask),
        Expr::Cmp { slot, equal, value: v } => {
            let w = w.be32(1, register(*slot)).be32(2, u32::from(!equal));
            text("cmp", w.nested(3, value(v)))
        }
        Expr::Immediate { to, value: v } => immediate(register(*to), value(v)),
        Expr::Verdict(v) => immediate(VERDICT_REGISTER, verdict(v)),
        Expr::Lookup { set: SetRef::Named(name), from, to } => lookup(name, None, *from, *to),
        Expr::Lookup { set: SetRef::Inline(_), from, to } => {
            let made = inline.next();
            lookup(made.map_or("", |(n, _)| n), made.map(|(_, id)| *id), *from, *to)
        }
        Expr::Count { modulus, to } => numgen(register(*to), *modulus),
        Expr::SetMark { from } => text("meta", w.be32(2, META_MARK).be32(3, register(*from))),
        Expr::Dnat { addr, port } => dnat(register(*addr), register(*port)),
        Expr::Masquerade => text("masq", w),
        Expr::Reject(Reject::PortUnreachable) => text("reject", w.be32(1, 0).bytes(2, &[ICMP_PORT_UNREACHABLE])),
        Expr::Reject(Reject::TcpReset) => text("reject", w.be32(1, 1).bytes(2, &[0])),
        Expr::Remember { set, key, data, timeout } => {
            let w = w.text(1, set).be32(3, 1).be32(4, register(*key));
            text("dynset", w.be32(5, register(*data)).be64(6, *timeout))
        }
        Expr::Unknown(name) => text(name, w),
    }
}

fn bitwise(register: u32, mask: &[u8; 4]) -> Writer {
    let w = Writer::default().be32(1, register).be32(2, register).be32(3, 4);
    text("bitwise", w.nested(4, value(mask)).nested(5, value(&[0; 4])))
}

fn immediate(register: u32, what: Writer) -> Writer {
    text("immediate", Writer::default().be32(1, register).nested(2, what))
}

fn numgen(register: u32, modulus: u32) -> Writer {
    let w = Writer::default().be32(1, register).be32(2, modulus);
    text("numgen", w.be32(3, 0).be32(4, 0))
}

fn lookup(name: &str, id: Option<u32>, from: Slot, to: To) -> Writer {
    let target = match to {
        To::Match => None,
        To::Slot(slot) => Some(register(slot)),
        To::Verdict => Some(VERDICT_REGISTER),
    };
    let w = Writer::default().text(1, name).be32(2, register(from));
    text("lookup", w.maybe(target, |w, t| w.be32(3, t)).maybe(id, |w, id| w.be32(4, id)))
}

/// The range of addresses and of ports is one of each.
fn dnat(addr: u32, port: u32) -> Writer {
    let w = Writer::default().be32(1, 1).be32(2, u32::from(super::FAMILY));
    text("nat", w.be32(3, addr).be32(4, addr).be32(5, port).be32(6, port))
}

pub(super) const ICMP_PORT_UNREACHABLE: u8 = 3;
pub(super) const META_MARK: u32 = 3;
pub(super) const META_L4PROTO: u32 = 16;
pub(super) const FIB_ADDRTYPE: u32 = 3;
pub(super) const FIB_DADDR: u32 = 2;

/// Base (1 network header, 2 transport header), offset and length of what is in the header.
pub(super) fn place(part: Part) -> Option<(u32, u32, u32)> {
    match part {
        Part::Saddr => Some((1, 12, 4)),
        Part::Daddr => Some((1, 16, 4)),
        Part::Dport => Some((2, 2, 2)),
        _ => None,
    }
}

fn load(part: Part, to: u32) -> Writer {
    let w = Writer::default().be32(1, to);
    match (part, place(part)) {
        (_, Some((base, offset, len))) => text("payload", w.be32(2, base).be32(3, offset).be32(4, len)),
        (Part::DaddrType, _) => text("fib", w.be32(2, FIB_ADDRTYPE).be32(3, FIB_DADDR)),
        (Part::Mark, _) => text("meta", w.be32(2, META_MARK)),
        _ => text("meta", w.be32(2, META_L4PROTO)),
    }
}

/// A set's description, to follow table and name. `anonymous`: it belongs to one rule.
pub fn set(w: Writer, s: &Set, id: u32, anonymous: bool) -> Writer {
    let mut flags = if anonymous { SET_ANONYMOUS | SET_CONSTANT } else { 0 };
    flags |= if s.timeout.is_some() { SET_TIMEOUT | SET_EVAL } else { 0 };
    flags |= if s.data == Data::None { 0 } else { SET_MAP };
    let size = match (s.timeout, anonymous) {
        (Some(_), _) => Some(REMEMBERED),
        (None, true) => Some(s.elements.len() as u32),
        _ => None,
    };
    let w = w.be32(3, flags).be32(4, types(&s.key)).be32(5, 4 * s.key.len() as u32);
    let w = match &s.data {
        Data::None => w,
        Data::Verdict => w.be32(6, TYPE_VERDICT),
        Data::Value(fields) => w.be32(6, types(fields)).be32(7, 4 * fields.len() as u32),
    };
    w.maybe(size, |w, n| w.nested(9, Writer::default().be32(1, n))).be32(10, id).maybe(s.timeout, |w, t| w.be64(11, t))
}

fn types(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |sum, f| (sum << BITS_PER_FIELD) | *f as u32)
}

/// A list of elements.
pub fn elements<'a>(items: impl IntoIterator<Item = (&'a Vec<u8>, &'a Item)>) -> Writer {
    let mut list = Writer::default();
    for (key, item) in items {
        let w = Writer::default().nested(1, value(key));
        let w = match item {
            Item::None => w,
            Item::Value(v) => w.nested(2, value(v)),
            Item::Verdict(v) => w.nested(2, verdict(v)),
        };
        list = list.nested(LIST_ELEM, w);
    }
    list
}

pub fn hook(base: &Base) -> Writer {
    Writer::default().be32(1, base.hook as u32).be32(2, base.priority as u32)
}
