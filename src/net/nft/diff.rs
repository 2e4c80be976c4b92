//! The difference of two tables as the operations of one transaction: pure.
use super::{Base, Item, Rule, Set, Table};
use std::collections::BTreeMap;

/// One operation. A transaction is a list of them; the kernel performs all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    AddTable,
    DelTable,
    AddChain(String, Option<Base>),
    DelChain(String),
    /// Without elements.
    AddSet(String, Set),
    DelSet(String),
    DelElements(String, Vec<Vec<u8>>),
    AddElements(String, Vec<(Vec<u8>, Item)>),
    /// Removes all rules of a chain.
    Flush(String),
    AddRule(String, Rule),
}

/// What turns `observed` (or nothing) into `desired`. The order is the kernel's: things exist before they are
/// named and are named no more before they go. A second diff is empty.
pub fn diff(desired: &Table, observed: Option<&Table>) -> Vec<Op> {
    let empty = Table { name: desired.name.clone(), ..Table::default() };
    let Some(old) = observed else {
        let mut ops = vec![Op::AddTable];
        ops.extend(changes(desired, &empty));
        return ops;
    };
    if !convertible(desired, old) {
        let mut ops = vec![Op::DelTable, Op::AddTable];
        ops.extend(changes(desired, &empty));
        return ops;
    }
    changes(desired, old)
}

/// The kernel cannot change a set's type or a chain's hook: then the table is made anew, in the same transaction.
/// It happens when a new version of coracle adopts an old one's table.
fn convertible(desired: &Table, old: &Table) -> bool {
    let sets = desired.sets.iter().all(|(name, s)| old.sets.get(name).is_none_or(|o| o.same_shape(s)));
    sets && desired.chains.iter().all(|(name, c)| old.chains.get(name).is_none_or(|o| o.base == c.base))
}

fn changes(new: &Table, old: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    let added = new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name));
    ops.extend(added.map(|(name, s)| Op::AddSet(name.clone(), Set { elements: BTreeMap::new(), ..s.clone() })));
    let added = new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name));
    ops.extend(added.map(|(name, c)| Op::AddChain(name.clone(), c.base)));
    ops.extend(old.sets.iter().filter_map(|(name, set)| obsolete(name, set, new.sets.get(name))));
    ops.extend(rules(new, old));
    ops.extend(new.sets.iter().filter_map(|(name, set)| missing(name, set, old.sets.get(name))));
    ops.extend(old.chains.keys().filter(|n| !new.chains.contains_key(*n)).map(|n| Op::DelChain(n.clone())));
    ops.extend(old.sets.keys().filter(|n| !new.sets.contains_key(*n)).map(|n| Op::DelSet(n.clone())));
    ops
}

/// Elements that must go.
fn obsolete(name: &str, old: &Set, new: Option<&Set>) -> Option<Op> {
    let stays = |key: &Vec<u8>, item: &Item| match new {
        Some(s) if s.timeout.is_some() => matches!(item, Item::Value(v) if s.valid.contains(v)),
        Some(s) => s.elements.get(key) == Some(item),
        // Elements go with their set, but a verdict holds on to its chain until then.
        None => !old.is_verdict_map(),
    };
    let gone: Vec<_> = old.elements.iter().filter(|(k, i)| !stays(k, i)).map(|(k, _)| k.clone()).collect();
    (!gone.is_empty()).then(|| Op::DelElements(name.to_string(), gone))
}

/// Elements that must come.
fn missing(name: &str, new: &Set, old: Option<&Set>) -> Option<Op> {
    let known = |key: &Vec<u8>, item: &Item| old.is_some_and(|o| o.elements.get(key) == Some(item));
    let fresh = new.elements.iter().filter(|(k, i)| !known(k, i));
    let fresh: Vec<_> = fresh.map(|(k, i)| (k.clone(), i.clone())).collect();
    (!fresh.is_empty()).then(|| Op::AddElements(name.to_string(), fresh))
}

/// A chain whose rules differ gets all of them anew: ours are short.
fn rules(new: &Table, old: &Table) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, chain) in &old.chains {
        let same = new.chains.get(name).is_some_and(|n| n.rules == chain.rules);
        if !same && !chain.rules.is_empty() {
            ops.push(Op::Flush(name.clone()));
        }
    }
    for (name, chain) in &new.chains {
        if old.chains.get(name).is_none_or(|o| o.rules != chain.rules) {
            ops.extend(chain.rules.iter().map(|r| Op::AddRule(name.clone(), r.clone())));
        }
    }
    ops
}
