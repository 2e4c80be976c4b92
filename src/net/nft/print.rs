//! Prints a table in nft's own syntax, by running each rule with words in the registers instead of values.
use super::{Data, Expr, Field, Hook, Item, Part, Reject, Rule, Set, SetRef, Slot, Table, To, Verdict};
use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table ip {} {{", self.name)?;
        for (name, set) in &self.sets {
            let word = if set.data == Data::None { "set" } else { "map" };
            writeln!(f, "\t{word} {name} {{\n\t\ttype {}", signature(set))?;
            if let Some(timeout) = set.timeout {
                writeln!(f, "\t\tflags dynamic,timeout\n\t\ttimeout {}s", timeout / 1000)?;
            }
            if !set.elements.is_empty() {
                let list: Vec<_> = set.elements.iter().map(|(k, i)| element(set, k, i)).collect();
                writeln!(f, "\t\telements = {{ {} }}", list.join(",\n\t\t\t     "))?;
            }
            writeln!(f, "\t}}\n")?;
        }
        for (i, (name, chain)) in self.chains.iter().enumerate() {
            writeln!(f, "{}\tchain {name} {{", if i > 0 { "\n" } else { "" })?;
            if let Some(base) = chain.base {
                writeln!(f, "\t\ttype nat hook {} priority {}; policy accept;", hook(base.hook), base.priority)?;
            }
            for rule in &chain.rules {
                writeln!(f, "\t\t{}", words(rule))?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => write!(f, "accept"),
            Verdict::Drop => write!(f, "drop"),
            Verdict::Return => write!(f, "return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

fn hook(hook: Hook) -> &'static str {
    match hook {
        Hook::Prerouting => "prerouting",
        Hook::Input => "input",
        Hook::Output => "output",
        Hook::Postrouting => "postrouting",
    }
}

fn signature(set: &Set) -> String {
    let key = joined(set.key.iter().map(|f| field_type(*f).to_string()));
    match &set.data {
        Data::None => key,
        Data::Verdict => format!("{key} : verdict"),
        Data::Value(fields) => format!("{key} : {}", joined(fields.iter().map(|f| field_type(*f).to_string()))),
    }
}

fn field_type(f: Field) -> &'static str {
    match f {
        Field::Number => "integer",
        Field::Ipv4 => "ipv4_addr",
        Field::Proto => "inet_proto",
        Field::Port => "inet_service",
    }
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(" . ")
}

fn element(set: &Set, key: &[u8], item: &Item) -> String {
    let key = typed(&set.key, key);
    match (item, &set.data) {
        (Item::Verdict(v), _) => format!("{key} : {v}"),
        (Item::Value(v), Data::Value(fields)) => format!("{key} : {}", typed(fields, v)),
        _ => key,
    }
}

/// A concatenated value by the types of its fields.
fn typed(fields: &[Field], bytes: &[u8]) -> String {
    joined(fields.iter().zip(bytes.chunks(4)).map(|(f, b)| field(*f, b)))
}

fn field(f: Field, b: &[u8]) -> String {
    match (f, b) {
        (Field::Ipv4, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (Field::Proto, [p, ..]) => {
            crate::net::Protocol::from_number(*p).map_or(p.to_string(), |p| p.name().to_string())
        }
        (Field::Port, [a, b, ..]) => u16::from_be_bytes([*a, *b]).to_string(),
        (Field::Number, [a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]).to_string(),
        _ => hex::encode(b),
    }
}

/// Words for what each register holds: what was loaded, and its type where the value alone does not tell.
#[derive(Default)]
struct Registers {
    words: BTreeMap<Slot, (String, Option<Field>)>,
    /// Immediate values: only their use says what they are.
    raw: BTreeMap<Slot, Vec<u8>>,
}

/// One rule.
fn words(rule: &Rule) -> String {
    let mut registers = Registers::default();
    rule.iter().filter_map(|e| registers.run(e)).collect::<Vec<_>>().join(" ")
}

impl Registers {
    /// Runs one expression; returns words if it is one that people write.
    fn run(&mut self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Load { part, to } => self.set(*to, part_words(*part)),
            Expr::Mask { slot, mask } => {
                let (words, kind) = self.words.get(slot).cloned().unwrap_or_default();
                self.set(*slot, (format!("{words} & {}", Ipv4Addr::from(*mask)), kind))
            }
            Expr::Cmp { slot, equal, value } => Some(self.compare(*slot, *equal, value)),
            Expr::Immediate { to, value } => {
                self.raw.insert(*to, value.clone());
                None
            }
            Expr::Verdict(v) => Some(v.to_string()),
            Expr::Lookup { set, from, to } => self.lookup(set, *from, *to),
            Expr::Count { modulus, to } => self.set(*to, (format!("numgen inc mod {modulus}"), None)),
            Expr::SetMark { from } => {
                Some(format!("meta mark set 0x{:x}", self.raw.get(from).map_or(0, |v| number(v))))
            }
            Expr::Dnat { addr, port } => Some(match (self.raw.get(addr), self.raw.get(port)) {
                (Some(a), Some(p)) => format!("dnat to {}:{}", field(Field::Ipv4, a), field(Field::Port, p)),
                _ => format!("dnat to {}", self.word(*addr)),
            }),
            Expr::Masquerade => Some("masquerade".into()),
            Expr::Reject(Reject::TcpReset) => Some("reject with tcp reset".into()),
            Expr::Reject(Reject::PortUnreachable) => Some("reject".into()),
            Expr::Remember { set, key, data, timeout } => {
                let (key, data) = (self.word(*key), self.data(*data));
                Some(format!("update @{set} {{ {key} timeout {}s : {data} }}", timeout / 1000))
            }
            Expr::Unknown(name) => Some(format!("# {name}")),
        }
    }

    fn set(&mut self, slot: Slot, words: (String, Option<Field>)) -> Option<String> {
        self.words.insert(slot, words);
        None
    }

    fn word(&self, slot: Slot) -> String {
        self.words.get(&slot).map(|(w, _)| w.clone()).unwrap_or_default()
    }

    /// An address and a port, from a map or written in the rule.
    fn data(&self, slot: Slot) -> String {
        match (self.raw.get(&slot), self.raw.get(&(slot + 1))) {
            (Some(a), Some(p)) => format!("{} . {}", field(Field::Ipv4, a), field(Field::Port, p)),
            _ => self.word(slot),
        }
    }

    fn compare(&self, slot: Slot, equal: bool, value: &[u8]) -> String {
        let (words, kind) = self.words.get(&slot).cloned().unwrap_or_default();
        let value = match (words.as_str(), kind) {
            ("fib daddr type", _) if value == 2u32.to_ne_bytes() => "local".into(),
            ("meta mark", _) => format!("0x{:x}", number(value)),
            (_, Some(kind)) => field(kind, value),
            _ => hex::encode(value),
        };
        format!("{words} {}{value}", if equal { "" } else { "!= " })
    }

    fn lookup(&mut self, set: &SetRef, from: Slot, to: To) -> Option<String> {
        // A lookup takes as many registers as the key has fields; of a named set we see those loaded in a row.
        let fields = match set {
            SetRef::Inline(s) => s.key.len() as u32,
            SetRef::Named(_) => (from..).take_while(|s| self.words.contains_key(s)).count() as u32,
        };
        let key = joined((from..from + fields).map(|s| self.word(s)));
        let name = match set {
            SetRef::Named(name) => format!("@{name}"),
            SetRef::Inline(s) => {
                let list: Vec<_> = s.elements.iter().map(|(k, i)| element(s, k, i)).collect();
                format!("{{ {} }}", list.join(", "))
            }
        };
        match to {
            To::Match => Some(format!("{key} {name}")),
            To::Verdict => Some(format!("{key} vmap {name}")),
            To::Slot(slot) => self.set(slot, (format!("{key} map {name}"), None)),
        }
    }
}

fn number(value: &[u8]) -> u32 {
    value.try_into().map_or(0, u32::from_ne_bytes)
}

fn part_words(part: Part) -> (String, Option<Field>) {
    let (words, kind) = match part {
        Part::Saddr => ("ip saddr", Some(Field::Ipv4)),
        Part::Daddr => ("ip daddr", Some(Field::Ipv4)),
        Part::Dport => ("th dport", Some(Field::Port)),
        Part::L4Proto => ("meta l4proto", Some(Field::Proto)),
        Part::Mark => ("meta mark", None),
        Part::DaddrType => ("fib daddr type", None),
    };
    (words.to_string(), kind)
}
