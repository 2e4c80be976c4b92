//! nf_tables, spoken directly: a typed model of one table, its encoding, and the difference of two as one transaction.
//!
//! The kernel's nf_tables is a small virtual machine. A rule is a list of expressions that load parts of the packet into
//! sixteen 32-bit registers, compare them, look them up in sets and maps, and end in a verdict or an address translation.
//! [`Expr`] is that machine's instruction set as far as we use it, one variant an instruction, so that three things can
//! share it without loss: the encoding ([`encode`], [`decode`]), a tracer that runs a packet through a table in memory (`trace`, for tests), and
//! a printer that turns registers back into nft's syntax ([`mod@print`]).
//!
//! ```text
//! desired Table ──┐
//!                 ├─▶ diff() -> Vec<Op> ──▶ one batch: BEGIN(generation) op op op END
//! observed Table ─┘                             │
//!      ▲                                        ▼ the kernel applies all of it or nothing,
//!      └── dump, or memory if the generation is still ours         refuses it if the generation moved
//! ```
//!
//! Every transaction names the generation of the rule set that its plan was made from. Somebody else's change in between
//! makes the kernel refuse it (`ERESTART`), and we read and plan again.
//!
//! `netlink-packet-netfilter` has types for half of these messages (no nat, numgen, fib, masq, reject, dynset); with the
//! other half as raw attributes the code would have two ways to say the same thing, so everything here is written with
//! the attribute writer of the room. Left out: other families than `ip`, intervals, counters, named objects, flow tables.
mod decode;
mod diff;
mod encode;
mod foreign;
mod kernel;
mod model;
mod print;
#[cfg(test)]
pub(crate) mod trace;

pub use diff::{Op, diff};
pub use foreign::{ForeignChain, foreign_chains};
pub use kernel::{FAMILY, Nft};
pub(crate) use model::concat;
pub use model::{
    Base, Chain, Data, Expr, Field, Hook, Item, Part, Reject, Rule, Set, SetRef, Slot, Table, To, Verdict,
};
