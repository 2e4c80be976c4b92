//! Runs one packet through a table in memory, as the kernel would: tests ask where it goes.
use super::{Expr, Hook, Item, Part, Reject, Rule, Set, SetRef, Slot, Table, To, Verdict};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// The first packet of a flow.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub saddr: Ipv4Addr,
    pub daddr: Ipv4Addr,
    pub proto: u8,
    pub dport: u16,
    /// Whether `daddr` is an address of the node itself.
    pub local: bool,
    pub mark: u32,
}

/// What became of it at one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Passed,
    Dropped,
    Rejected(Reject),
    Translated(Ipv4Addr, u16),
    Masqueraded,
}

/// Counters and remembered elements live as long as the tracer, as they would in the kernel.
pub struct Tracer<'a> {
    table: &'a Table,
    counters: BTreeMap<(String, usize), u32>,
    pub remembered: BTreeMap<String, Set>,
    /// Chains the last packet went through.
    pub path: Vec<String>,
}

enum Flow {
    NextExpr,
    NextRule,
    Return,
    Done(Fate),
}

impl<'a> Tracer<'a> {
    pub fn new(table: &'a Table) -> Self {
        Tracer { table, counters: BTreeMap::new(), remembered: BTreeMap::new(), path: vec![] }
    }

    /// Runs a new flow's first packet through prerouting (or output when `from_node`) and postrouting; returns where it
    /// goes and whether its source is masqueraded.
    pub fn flow(&mut self, mut packet: Packet, from_node: bool) -> (Fate, bool) {
        self.path.clear();
        let first = self.hook(if from_node { Hook::Output } else { Hook::Prerouting }, &mut packet);
        if let Fate::Translated(ip, port) = first {
            (packet.daddr, packet.dport, packet.local) = (ip, port, false);
        }
        match first {
            Fate::Passed | Fate::Translated(..) => {
                let masqueraded = self.hook(Hook::Postrouting, &mut packet) == Fate::Masqueraded;
                (first, masqueraded)
            }
            other => (other, false),
        }
    }

    fn hook(&mut self, hook: Hook, packet: &mut Packet) -> Fate {
        let table = self.table;
        let base = table.chains.iter().find(|(_, c)| c.base.is_some_and(|b| b.hook == hook));
        match base.map(|(name, _)| self.chain(name, packet)) {
            Some(Flow::Done(fate)) => fate,
            _ => Fate::Passed,
        }
    }

    fn chain(&mut self, name: &str, packet: &mut Packet) -> Flow {
        self.path.push(name.to_string());
        let table = self.table;
        let chain = table.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        for (i, rule) in chain.rules.iter().enumerate() {
            match self.rule(rule, (name.to_string(), i), packet) {
                Flow::Return => return Flow::NextRule,
                Flow::Done(fate) => return Flow::Done(fate),
                Flow::NextExpr | Flow::NextRule => {}
            }
        }
        Flow::NextRule
    }

    fn rule(&mut self, rule: &Rule, at: (String, usize), packet: &mut Packet) -> Flow {
        let mut registers = [0u8; 64];
        for expr in rule {
            match self.expr(expr, &at, &mut registers, packet) {
                Flow::NextExpr => {}
                other => return other,
            }
        }
        Flow::NextRule
    }

    fn verdict(&mut self, verdict: &Verdict, packet: &mut Packet) -> Flow {
        match verdict {
            Verdict::Accept => Flow::Done(Fate::Passed),
            Verdict::Drop => Flow::Done(Fate::Dropped),
            Verdict::Return => Flow::Return,
            Verdict::Jump(chain) => self.chain(chain, packet),
            Verdict::Goto(chain) => match self.chain(chain, packet) {
                Flow::Done(fate) => Flow::Done(fate),
                _ => Flow::Return,
            },
        }
    }

    fn expr(&mut self, expr: &Expr, at: &(String, usize), r: &mut [u8; 64], packet: &mut Packet) -> Flow {
        match expr {
            Expr::Load { part, to } => put(r, *to, &load(*part, packet)),
            Expr::Mask { slot, mask } => (0..4).for_each(|i| r[*slot as usize * 4 + i] &= mask[i]),
            Expr::Cmp { slot, equal, value } if (get(r, *slot, value.len()) == value) != *equal => {
                return Flow::NextRule;
            }
            Expr::Cmp { .. } => {}
            Expr::Immediate { to, value } => put(r, *to, value),
            Expr::Verdict(v) => return self.verdict(v, packet),
            Expr::Lookup { set, from, to } => return self.lookup(set, *from, *to, r, packet),
            Expr::Count { modulus, to } => {
                let n = self.counters.entry(at.clone()).or_default();
                put(r, *to, &(*n % modulus).to_ne_bytes());
                *n += 1;
            }
            Expr::SetMark { from } => {
                packet.mark = u32::from_ne_bytes(get(r, *from, 4).try_into().expect("four bytes were taken"))
            }
            Expr::Dnat { addr, port } => {
                let (a, p) = (get(r, *addr, 4), get(r, *port, 2));
                return Flow::Done(Fate::Translated(
                    Ipv4Addr::new(a[0], a[1], a[2], a[3]),
                    u16::from_be_bytes([p[0], p[1]]),
                ));
            }
            Expr::Masquerade => return Flow::Done(Fate::Masqueraded),
            Expr::Reject(how) => return Flow::Done(Fate::Rejected(*how)),
            Expr::Remember { set, key, data, .. } => {
                let (key, data) = (get(r, *key, 4).to_vec(), get(r, *data, 8).to_vec());
                let known = self.remembered.entry(set.clone()).or_insert_with(|| self.table.sets[set].clone());
                known.elements.insert(key, Item::Value(data));
            }
            Expr::Unknown(name) => panic!("cannot trace {name}"),
        }
        Flow::NextExpr
    }

    fn lookup(&mut self, set: &SetRef, from: Slot, to: To, r: &mut [u8; 64], packet: &mut Packet) -> Flow {
        let set = match set {
            SetRef::Inline(s) => s,
            SetRef::Named(name) => self.remembered.get(name).unwrap_or_else(|| &self.table.sets[name]),
        };
        let found = set.elements.get(get(r, from, set.key.len() * 4)).cloned();
        match (found, to) {
            (None, _) => Flow::NextRule,
            (Some(Item::Verdict(v)), To::Verdict) => self.verdict(&v, packet),
            (Some(Item::Value(v)), To::Slot(slot)) => {
                put(r, slot, &v);
                Flow::NextExpr
            }
            (Some(Item::None), To::Match) => Flow::NextExpr,
            (found, to) => panic!("{found:?} where {to:?} was asked for"),
        }
    }
}

fn load(part: Part, p: &Packet) -> Vec<u8> {
    match part {
        Part::Saddr => p.saddr.octets().to_vec(),
        Part::Daddr => p.daddr.octets().to_vec(),
        Part::Dport => p.dport.to_be_bytes().to_vec(),
        Part::L4Proto => vec![p.proto],
        Part::Mark => p.mark.to_ne_bytes().to_vec(),
        Part::DaddrType => (if p.local { 2u32 } else { 1 }).to_ne_bytes().to_vec(),
    }
}

fn put(r: &mut [u8; 64], slot: Slot, value: &[u8]) {
    let at = slot as usize * 4;
    let padded = value.len().next_multiple_of(4);
    r[at..at + padded].fill(0);
    r[at..at + value.len()].copy_from_slice(value);
}

fn get(r: &[u8; 64], slot: Slot, len: usize) -> &[u8] {
    &r[slot as usize * 4..][..len]
}
