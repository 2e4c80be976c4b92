//! Other people's chains: enough of them to tell who drops what we forward. Read only; nothing here changes a rule.
use crate::net::{Error, Result, attr::Value, socket::Netlink};
use netlink_sys::protocols::NETLINK_NETFILTER;

const GETCHAIN: u16 = (10 << 8) | 4;
/// Length of `nfgenmsg`, which precedes the attributes; its first byte is the family.
const HEADER: usize = 4;
/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NF_DROP`.
const DROP: u32 = 0;

/// A chain of any table of the calling thread's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// `ip`, `ip6`, `inet`, `bridge`, … as nft prints it.
    pub family: &'static str,
    pub table: String,
    pub name: String,
    /// It sees forwarded packets and drops those no rule of it accepts.
    pub drops_forwarded: bool,
}

/// All chains of all tables; none where the kernel has no nf_tables.
pub fn foreign_chains() -> Result<Vec<ForeignChain>> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
    let frames = match netlink.dump(GETCHAIN, &[0; HEADER], "listing nf_tables chains") {
        Ok(frames) => frames,
        Err(Error::Kernel { .. }) => return Ok(Vec::new()),
        Err(other) => return Err(other),
    };
    let mut out = Vec::new();
    for frame in frames.iter().filter(|f| f.payload.len() >= HEADER) {
        out.push(read_chain(&frame.payload)?);
    }
    Ok(out)
}

fn read_chain(payload: &[u8]) -> Result<ForeignChain> {
    let attrs = Value(&payload[HEADER..]).attrs();
    let hook = attrs.get(4).and_then(|hook| hook.attrs().get(1));
    let policy = attrs.get(5).map(Value::be32).transpose()?;
    Ok(ForeignChain {
        family: match payload[0] {
            1 => "inet",
            2 => "ip",
            3 => "arp",
            5 => "netdev",
            7 => "bridge",
            10 => "ip6",
            _ => "unknown",
        },
        table: attrs.need(1)?.text()?,
        name: attrs.need(3)?.text()?,
        drops_forwarded: hook.map(Value::be32).transpose()? == Some(FORWARD)
            && policy == Some(DROP)
            && matches!(payload[0], 1 | 2),
    })
}
