//! Netlink attributes as the model: the way back from a dump.
use super::{
    Base, Chain, Data, Expr, Field, Hook, Item, Part, Reject, Rule, Set, SetRef, Slot, To, Verdict, encode::*,
};
use crate::net::{
    Error, Result,
    attr::{Attrs, Value},
};

fn slot(register: u32) -> Slot {
    if register < 8 { register.saturating_sub(1) * 4 } else { register - 8 }
}

/// A chain from a dump: name and what it is, without rules.
pub fn read_chain(a: Attrs) -> Result<(String, Chain)> {
    let base = match a.get(4) {
        None => None,
        Some(h) => {
            let (number, priority) = (h.attrs().need(1)?.be32()?, h.attrs().need(2)?.be32()? as i32);
            let hooks = [Hook::Prerouting, Hook::Input, Hook::Output, Hook::Postrouting];
            hooks.into_iter().find(|h| *h as u32 == number).map(|hook| Base { hook, priority })
        }
    };
    Ok((a.need(3)?.text()?, Chain { base, rules: vec![] }))
}

/// A set from a dump: name, flags, and the set without elements.
pub fn read_set(a: Attrs) -> Result<(String, u32, Set)> {
    let number = |kind| a.get(kind).map_or(Ok(0), Value::be32);
    let data = match (number(3)? & SET_MAP != 0, number(6)?) {
        (false, _) => Data::None,
        (true, TYPE_VERDICT) => Data::Verdict,
        (true, kinds) => Data::Value(fields(kinds)),
    };
    let mut set = Set::new(&fields(number(4)?), data);
    set.timeout = a.get(11).map(Value::be64).transpose()?;
    Ok((a.need(2)?.text()?, number(3)?, set))
}

fn fields(mut kinds: u32) -> Vec<Field> {
    let mut out = Vec::new();
    while kinds != 0 {
        out.extend(Field::from_number(kinds & ((1 << BITS_PER_FIELD) - 1)));
        kinds >>= BITS_PER_FIELD;
    }
    out.reverse();
    out
}

pub fn read_elements(a: Attrs) -> Result<Vec<(Vec<u8>, Item)>> {
    let Some(list) = a.get(3) else {
        return Ok(vec![]);
    };
    list.attrs()
        .iter()
        .map(|(_, e)| {
            let key = e.attrs().need(1)?.attrs().need(DATA_VALUE)?.0.to_vec();
            let item = match e.attrs().get(2) {
                None => Item::None,
                Some(d) => match d.attrs().get(DATA_VERDICT) {
                    Some(v) => Item::Verdict(read_verdict(v)?),
                    None => Item::Value(d.attrs().need(DATA_VALUE)?.0.to_vec()),
                },
            };
            Ok((key, item))
        })
        .collect()
}

fn read_verdict(v: Value) -> Result<Verdict> {
    let chain = || v.attrs().need(2)?.text();
    Ok(match v.attrs().need(1)?.be32()? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        other => return Err(Error::Protocol(format!("verdict {other}"))),
    })
}

/// A rule from a dump: its chain and its expressions; sets of its own still by name.
pub fn read_rule(a: Attrs) -> Result<(String, Rule)> {
    let list = a.get(4).map(Value::attrs).unwrap_or(Attrs::new(&[]));
    let rule = list.iter().map(|(_, e)| {
        let name = e.attrs().need(1)?.text()?;
        let body = e.attrs().get(2).map(Value::attrs).unwrap_or(Attrs::new(&[]));
        Ok(read_expr(&name, body)?.unwrap_or(Expr::Unknown(name)))
    });
    Ok((a.need(2)?.text()?, rule.collect::<Result<_>>()?))
}

/// `None`: we never write such an expression.
fn read_expr(name: &str, a: Attrs) -> Result<Option<Expr>> {
    let n = |kind| a.get(kind).map_or(Ok(0), Value::be32);
    let at = |kind| Ok::<_, Error>(slot(a.need(kind)?.be32()?));
    let bytes = |kind| Ok::<_, Error>(a.need(kind)?.attrs().need(DATA_VALUE)?.0.to_vec());
    Ok(Some(match name {
        "payload" | "fib" | "meta" => return read_load(name, a),
        "bitwise" => match bytes(4)?.try_into() {
            Ok(mask) if n(1)? == n(2)? => Expr::Mask { slot: at(1)?, mask },
            _ => return Ok(None),
        },
        "cmp" if n(2)? < 2 => Expr::Cmp { slot: at(1)?, equal: n(2)? == 0, value: bytes(3)? },
        "immediate" => match a.need(2)?.attrs().get(DATA_VERDICT) {
            Some(v) => Expr::Verdict(read_verdict(v)?),
            None => Expr::Immediate { to: at(1)?, value: bytes(2)? },
        },
        "lookup" if n(5)? == 0 => {
            let to = match a.get(3).map(Value::be32).transpose()? {
                None => To::Match,
                Some(VERDICT_REGISTER) => To::Verdict,
                Some(register) => To::Slot(slot(register)),
            };
            Expr::Lookup { set: SetRef::Named(a.need(1)?.text()?), from: at(2)?, to }
        }
        "numgen" if n(3)? == 0 && n(4)? == 0 => Expr::Count { modulus: n(2)?, to: at(1)? },
        "nat" if n(1)? == 1 => Expr::Dnat { addr: at(3)?, port: at(5)? },
        "masq" => Expr::Masquerade,
        "reject" => match (n(1)?, a.get(2).map(|v| v.0)) {
            (0, Some([ICMP_PORT_UNREACHABLE])) => Expr::Reject(Reject::PortUnreachable),
            (1, _) => Expr::Reject(Reject::TcpReset),
            _ => return Ok(None),
        },
        "dynset" if n(3)? == 1 => {
            Expr::Remember { set: a.need(1)?.text()?, key: at(4)?, data: at(5)?, timeout: a.need(6)?.be64()? }
        }
        _ => return Ok(None),
    }))
}

/// The expressions that load, and the one that sets the mark.
fn read_load(name: &str, a: Attrs) -> Result<Option<Expr>> {
    let n = |kind| a.get(kind).map_or(Ok(0), Value::be32);
    if name == "meta" && n(2)? == META_MARK && a.get(3).is_some() {
        return Ok(Some(Expr::SetMark { from: slot(n(3)?) }));
    }
    let part = match name {
        "payload" => {
            let there = (n(2)?, n(3)?, n(4)?);
            [Part::Saddr, Part::Daddr, Part::Dport].into_iter().find(|p| place(*p) == Some(there))
        }
        "fib" => ((n(2)?, n(3)?) == (FIB_ADDRTYPE, FIB_DADDR)).then_some(Part::DaddrType),
        _ => match n(2)? {
            META_MARK => Some(Part::Mark),
            META_L4PROTO => Some(Part::L4Proto),
            _ => None,
        },
    };
    Ok(part.map(|part| Expr::Load { part, to: slot(n(1).unwrap_or_default()) }))
}
