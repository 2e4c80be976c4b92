//! A table in memory: chains of rules, rules of expressions, sets and maps.
use std::collections::{BTreeMap, BTreeSet};

/// One of the machine's sixteen 32-bit registers, 0 to 15. Longer values take several in a row.
pub type Slot = u32;

/// A table of the `ip` family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter; `None` for chains that are only jumped to.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub hook: Hook,
    pub priority: i32,
}

/// Hooks of a `nat` chain; the numbers are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Output = 3,
    Postrouting = 4,
}

pub type Rule = Vec<Expr>;

/// A set (`data` is `Data::None`) or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Several fields are a concatenation.
    pub key: Vec<Field>,
    pub data: Data,
    pub elements: BTreeMap<Vec<u8>, Item>,
    /// Filled by packets: each element lives this many milliseconds. Such a set has no desired elements; see `valid`.
    pub timeout: Option<u64>,
    /// Of a set filled by packets, desired side only: the data values that may stay.
    pub valid: BTreeSet<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    None,
    Verdict,
    Value(Vec<Field>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    None,
    Verdict(Verdict),
    Value(Vec<u8>),
}

/// Types of keys and data, with the numbers nft knows them by. Each takes one register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// In the byte order of the host.
    Number = 4,
    Ipv4 = 7,
    Proto = 12,
    Port = 13,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// The set of a lookup: a named one, or one that belongs to the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetRef {
    Named(String),
    Inline(Set),
}

/// What a lookup does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A set: being found is all.
    Match,
    /// A map of values.
    Slot(Slot),
    /// A verdict map: the verdict ends the rule.
    Verdict,
}

/// Parts of a packet that we load: where they are in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Saddr,
    Daddr,
    Dport,
    /// Not in the header: the layer 4 protocol the kernel found.
    L4Proto,
    /// Not in the packet at all.
    Mark,
    /// What kind of address the destination is here; 2 is local.
    DaddrType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    PortUnreachable,
    TcpReset,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Load {
        part: Part,
        to: Slot,
    },
    /// `slot & mask`, in place.
    Mask {
        slot: Slot,
        mask: [u8; 4],
    },
    /// Goes on with the next expression if equal (or not), else with the next rule.
    Cmp {
        slot: Slot,
        equal: bool,
        value: Vec<u8>,
    },
    Immediate {
        to: Slot,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// Goes on if found.
    Lookup {
        set: SetRef,
        from: Slot,
        to: To,
    },
    /// 0, 1, … modulus-1, 0, …: a counter of the rule.
    Count {
        modulus: u32,
        to: Slot,
    },
    SetMark {
        from: Slot,
    },
    Dnat {
        addr: Slot,
        port: Slot,
    },
    Masquerade,
    Reject(Reject),
    /// Adds or refreshes an element of a set that is filled by packets.
    Remember {
        set: String,
        key: Slot,
        data: Slot,
        timeout: u64,
    },
    /// Something we never make. It differs from everything, so a plan removes it.
    Unknown(String),
}

/// The expressions that rules are mostly made of, in short.
impl Expr {
    pub fn load(part: Part, to: Slot) -> Expr {
        Expr::Load { part, to }
    }

    pub fn equals(slot: Slot, value: &[u8]) -> Expr {
        Expr::Cmp { slot, equal: true, value: value.to_vec() }
    }

    pub fn immediate(to: Slot, value: &[u8]) -> Expr {
        Expr::Immediate { to, value: value.to_vec() }
    }

    /// Looks up a named set or map.
    pub fn find(set: &str, from: Slot, to: To) -> Expr {
        Expr::Lookup { set: SetRef::Named(set.to_string()), from, to }
    }
}

impl Field {
    pub fn from_number(n: u32) -> Option<Field> {
        [Field::Number, Field::Ipv4, Field::Proto, Field::Port].into_iter().find(|f| *f as u32 == n)
    }
}

impl Set {
    pub fn new(key: &[Field], data: Data) -> Self {
        Set { key: key.to_vec(), data, elements: BTreeMap::new(), timeout: None, valid: BTreeSet::new() }
    }

    /// Same but for the elements.
    pub fn same_shape(&self, other: &Set) -> bool {
        (&self.key, &self.data, self.timeout) == (&other.key, &other.data, other.timeout)
    }

    /// Whether the values of the map are verdicts.
    pub fn is_verdict_map(&self) -> bool {
        self.data == Data::Verdict
    }
}

/// A value as it lies in registers: every field padded to four bytes.
pub fn concat(fields: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        out.extend(*field);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}
