//! The driver: reads a table from the kernel, writes a difference as one transaction.
use super::{Expr, Item, Op, Rule, SetRef, Table, decode, diff, encode};
use crate::net::{
    Error, Result,
    attr::{Attrs, Writer},
    socket::{Frame, Netlink, refusal},
};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::collections::BTreeMap;

/// `NFPROTO_IPV4`.
pub const FAMILY: u8 = 2;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const GETGEN: u16 = 16;
/// `NF_ACCEPT`: what no rule decides goes on.
const POLICY_ACCEPT: u32 = 1;
/// How often a plan is made anew because somebody else changed the rule set meanwhile.
const TRIES: usize = 10;

/// A socket to the nf_tables of one network namespace, with what it last wrote there.
pub struct Nft {
    nl: Netlink,
    /// The table as of a generation: saves reading it again as long as nobody else changes anything.
    known: Option<(u32, Table)>,
    set_id: u32,
}

/// One message of a transaction.
struct Message {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Nft { nl: Netlink::open(NETLINK_NETFILTER)?, known: None, set_id: 0 })
    }

    /// Makes the kernel's table match. Returns the number of operations it took.
    pub fn sync(&mut self, desired: &Table) -> Result<usize> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let packets_write = desired.sets.values().any(|s| s.timeout.is_some());
            let observed = match self.known.take() {
                // Sets filled by packets change without a generation.
                Some((g, table)) if g == generation && table.name == desired.name && !packets_write => Some(table),
                _ => self.read(&desired.name)?,
            };
            let ops = diff(desired, observed.as_ref());
            if ops.is_empty() {
                self.known = observed.map(|t| (generation, t));
                return Ok(0);
            }
            if !self.commit(&desired.name, generation, &ops)? {
                continue;
            }
            let now = self.generation()?;
            if now == generation.wrapping_add(1) {
                self.known = Some((now, desired.clone()));
            }
            return Ok(ops.len());
        }
        Err(Error::Protocol(format!("nf_tables changed {TRIES} times while table {} was planned", desired.name)))
    }

    /// Removes a table; fine if there is none.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            if self.get_table(name)? && !self.commit(name, generation, &[Op::DelTable])? {
                continue;
            }
            return Ok(());
        }
        Err(Error::Protocol(format!("nf_tables changed {TRIES} times while table {name} was deleted")))
    }

    /// The table as the kernel has it.
    pub fn read(&mut self, name: &str) -> Result<Option<Table>> {
        if !self.get_table(name)? {
            return Ok(None);
        }
        let mut table = Table { name: name.to_string(), ..Table::default() };
        let mut inline = BTreeMap::new();
        for frame in self.dump(GETSET, of(name), name)? {
            let (set, flags, mut content) = decode::read_set(body(&frame))?;
            for part in self.dump(GETSETELEM, of(name).text(2, &set), name)? {
                content.elements.extend(decode::read_elements(body(&part))?);
            }
            match flags & encode::SET_ANONYMOUS {
                0 => table.sets.insert(set, content),
                _ => inline.insert(set, content),
            };
        }
        for frame in self.dump(GETCHAIN, of(name), name)?.iter().filter(|f| named(f, 1, name)) {
            let (chain, content) = decode::read_chain(body(frame))?;
            table.chains.insert(chain, content);
        }
        for frame in self.dump(GETRULE, of(name), name)?.iter().filter(|f| named(f, 1, name)) {
            let (chain, mut rule) = decode::read_rule(body(frame))?;
            for expr in &mut rule {
                if let Expr::Lookup { set, .. } = expr
                    && let SetRef::Named(name) = set
                    && let Some(own) = inline.remove(name)
                {
                    *set = SetRef::Inline(own);
                }
            }
            table.chains.entry(chain).or_default().rules.push(rule);
        }
        Ok(Some(table))
    }

    fn get_table(&mut self, name: &str) -> Result<bool> {
        let found = self.nl.get(kind(GETTABLE), &of(name).finish(), &format!("looking for nf_tables table {name}"));
        match found {
            Ok(_) => Ok(true),
            Err(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn dump(&mut self, message: u16, query: Writer, name: &str) -> Result<Vec<Frame>> {
        self.nl.dump(kind(message), &query.finish(), &format!("reading nf_tables table {name}"))
    }

    /// The number of the rule set's current generation; every transaction counts it up.
    fn generation(&mut self) -> Result<u32> {
        let frame = self.nl.get(kind(GETGEN), &header(0, 0).finish(), "reading the nf_tables generation")?;
        body(&frame).need(1)?.be32()
    }

    /// Sends one transaction. Returns false when the generation is no longer the one it was planned from.
    fn commit(&mut self, table: &str, generation: u32, ops: &[Op]) -> Result<bool> {
        let what = format!("changing nf_tables table {table}");
        let messages: Vec<_> = ops.iter().flat_map(|op| self.messages(table, op)).collect();
        let mut bytes = Vec::new();
        let begin = header(0, SUBSYSTEM).be32(1, generation).finish();
        let first = self.nl.frame(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, &begin);
        let mut last = first;
        for (i, m) in messages.iter().enumerate() {
            // Only the last is acknowledged: its answer comes when all of it is done. Refusals always come.
            let ack = if i + 1 == messages.len() { NLM_F_ACK } else { 0 };
            last = self.nl.frame(&mut bytes, kind(m.kind), NLM_F_REQUEST | ack | m.flags, &m.payload);
        }
        self.nl.frame(&mut bytes, BATCH_END, NLM_F_REQUEST, &header(0, SUBSYSTEM).finish());
        self.nl.send(&bytes, &what)?;
        let mut failed = None;
        loop {
            for frame in self.nl.receive()? {
                let index = frame.seq.wrapping_sub(first) as usize;
                let Some(done) =
                    (index <= messages.len()).then(|| refusal(&frame, &blame(&what, &messages, index), &[]))
                else {
                    continue;
                };
                match done {
                    Some(Error::Kernel { source, .. }) if source.raw_os_error() == Some(libc::ERESTART) => {
                        return Ok(false);
                    }
                    Some(e) => drop(failed.get_or_insert(e)),
                    None => {}
                }
                // The transaction's own failure (not a message's) answers its first message, alone.
                if frame.seq == last || frame.seq == first {
                    return failed.map_or(Ok(true), Err);
                }
            }
        }
    }

    /// The messages of one operation.
    fn messages(&mut self, table: &str, op: &Op) -> Vec<Message> {
        let message = |kind, flags, w: Writer| Message { kind, flags, payload: w.finish() };
        let one = |kind, flags, w| vec![message(kind, flags, w)];
        match op {
            Op::AddTable => one(NEWTABLE, NLM_F_CREATE, of(table)),
            Op::DelTable => one(DELTABLE, 0, of(table)),
            Op::AddChain(name, base) => {
                let hook = |w: Writer, b| w.nested(4, encode::hook(b)).be32(5, POLICY_ACCEPT).text(7, "nat");
                one(NEWCHAIN, NLM_F_CREATE, of(table).text(3, name).maybe(base.as_ref(), hook))
            }
            Op::DelChain(name) => one(DELCHAIN, 0, of(table).text(3, name)),
            Op::AddSet(name, set) => {
                let w = encode::set(of(table).text(2, name), set, self.next_id(), false);
                one(NEWSET, NLM_F_CREATE, w)
            }
            Op::DelSet(name) => one(DELSET, 0, of(table).text(2, name)),
            Op::DelElements(set, keys) => {
                let part = |keys: &[Vec<u8>]| encode::elements(keys.iter().map(|k| (k, &Item::None)));
                let parts = keys.chunks(encode::ELEMENTS_PER_MESSAGE).map(part);
                parts.map(|p| message(DELSETELEM, 0, of(table).text(2, set).nested(3, p))).collect()
            }
            Op::AddElements(set, items) => {
                let part = |items: &[(Vec<u8>, Item)]| encode::elements(items.iter().map(|(k, i)| (k, i)));
                let parts = items.chunks(encode::ELEMENTS_PER_MESSAGE).map(part);
                parts.map(|p| message(NEWSETELEM, NLM_F_CREATE, of(table).text(2, set).nested(3, p))).collect()
            }
            Op::Flush(chain) => one(DELRULE, 0, of(table).text(2, chain)),
            Op::AddRule(chain, rule) => self.add_rule(table, chain, rule),
        }
    }

    /// A rule, after the sets that belong to it. The kernel chooses their names; within the transaction they go by number.
    fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) -> Vec<Message> {
        const ANY_NAME: &str = "__map%d";
        let (mut out, mut inline) = (Vec::new(), Vec::new());
        let mut push =
            |kind, flags, w: Writer| out.push(Message { kind, flags: NLM_F_CREATE | flags, payload: w.finish() });
        for expr in rule {
            let Expr::Lookup { set: SetRef::Inline(set), .. } = expr else {
                continue;
            };
            let id = self.next_id();
            push(NEWSET, 0, encode::set(of(table).text(2, ANY_NAME), set, id, true));
            let items: Vec<_> = set.elements.iter().collect();
            for chunk in items.chunks(encode::ELEMENTS_PER_MESSAGE) {
                let list = encode::elements(chunk.iter().copied());
                push(NEWSETELEM, 0, of(table).text(2, ANY_NAME).nested(3, list).be32(4, id));
            }
            inline.push((ANY_NAME.to_string(), id));
        }
        push(NEWRULE, NLM_F_APPEND, of(table).text(2, chain).nested(4, encode::rule(rule, &inline)));
        out
    }

    fn next_id(&mut self) -> u32 {
        self.set_id = self.set_id.wrapping_add(1);
        self.set_id
    }
}

fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

/// `nfgenmsg`: family, version 0, and for batches the subsystem in network order.
fn header(family: u8, resource: u16) -> Writer {
    let [high, low] = resource.to_be_bytes();
    Writer::after(&[family, 0, high, low])
}

/// A message about a table: its name is attribute 1 everywhere.
fn of(table: &str) -> Writer {
    header(FAMILY, 0).text(1, table)
}

fn body(frame: &Frame) -> Attrs<'_> {
    Attrs::new(frame.payload.get(4..).unwrap_or_default())
}

/// Whether an attribute says this name (old kernels ignore the filter of a dump).
fn named(frame: &Frame, attribute: u16, name: &str) -> bool {
    body(frame).get(attribute).and_then(|v| v.text().ok()).is_some_and(|n| n == name)
}

/// Says which message of a transaction was refused.
fn blame(what: &str, messages: &[Message], index: usize) -> String {
    match index.checked_sub(1).and_then(|i| messages.get(i)) {
        Some(m) => format!("{what}, message {index} of {} (type {})", messages.len(), m.kind),
        None => what.to_string(),
    }
}
