//! What one network namespace contains (links, addresses, routes, neighbours, FDB, sysctls), and the pure
//! plan from what is there to what should be.
use ipnetwork::Ipv4Network;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

pub type Mac = [u8; 6];

/// Desired or observed state; observed: only links that were asked for, no kernel routes, no learned neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// In creation order: a link comes after its master and its underlying link.
    pub links: Vec<Link>,
    pub addresses: BTreeSet<Address>,
    pub routes: BTreeSet<Route>,
    pub neighbours: BTreeSet<Neighbour>,
    pub fdb: BTreeSet<Fdb>,
    /// Path below `/proc/sys` -> value.
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub kind: Kind,
    /// `None`: whatever it is.
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub up: bool,
    pub master: Option<String>,
    pub alias: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Loopback,
    Bridge,
    /// One end of a pair. Only the end that makes the pair knows its far end.
    Veth(Option<FarEnd>),
    Vxlan {
        vni: u32,
        local: Ipv4Addr,
        port: u16,
        over: String,
    },
    Other(String),
}

/// The end of a new veth pair that goes into another namespace; which one is the driver's knowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarEnd {
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub link: String,
    pub net: Ipv4Network,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub to: Ipv4Network,
    pub link: String,
    /// Always on-link: the gateway need not be inside a connected network.
    pub via: Option<Ipv4Addr>,
}

/// A permanent neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub link: String,
    pub ip: Ipv4Addr,
    pub mac: Mac,
}

/// A permanent forwarding entry of a VXLAN device: frames for `mac` go to `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fdb {
    pub link: String,
    pub mac: Mac,
    pub to: Ipv4Addr,
}

/// What to change about a link; only what differs is `Some`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    pub name: String,
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub up: Option<bool>,
    pub master: Option<String>,
    pub alias: Option<String>,
}

impl LinkChange {
    pub fn of(name: &str) -> Self {
        LinkChange { name: name.to_string(), ..LinkChange::default() }
    }
}

/// One change in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Sysctl {
        path: String,
        value: String,
    },
    DelLink(String),
    AddLink(Link),
    SetLink(LinkChange),
    DelAddress(Address),
    AddAddress(Address),
    DelRoute(Route),
    /// Adds, or replaces the route to the same destination.
    SetRoute(Route),
    DelNeighbour(Neighbour),
    SetNeighbour(Neighbour),
    DelFdb(Fdb),
    SetFdb(Fdb),
}

impl Link {
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Link { name: name.into(), kind, mac: None, mtu: None, up: true, master: None, alias: None }
    }
}

impl View {
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }
}

/// The steps from `observed` to `desired`. Only links named in `desired` are looked at; on those, entries that are
/// not desired go. Performing the plan and planning again yields nothing.
pub fn plan(desired: &View, observed: &View) -> Vec<Step> {
    let mut steps = Vec::new();
    for (path, value) in &desired.sysctls {
        // An absent sysctl (IPv6 switched off in the kernel) cannot be set, and needs not be.
        if observed.sysctls.get(path).is_some_and(|v| v != value) {
            steps.push(Step::Sysctl { path: path.clone(), value: value.clone() });
        }
    }
    let mut kept = BTreeSet::new();
    for want in &desired.links {
        match observed.link(&want.name) {
            Some(have) if same_kind(&want.kind, &have.kind) => {
                steps.extend(adjust(want, have));
                kept.insert(want.name.as_str());
            }
            have => {
                steps.extend(have.map(|l| Step::DelLink(l.name.clone())));
                steps.push(Step::AddLink(want.clone()));
            }
        }
    }
    // What sat on a link that is made anew went with the old one.
    let kept = |link: &String| kept.contains(link.as_str());
    steps.extend(addresses(desired, observed, &kept));
    steps.extend(neighbours(desired, observed, &kept));
    steps.extend(fdb(desired, observed, &kept));
    // Routes without a gateway first: the others may need them.
    let routes = routes(desired, observed, &kept);
    let (via, direct): (Vec<_>, Vec<_>) =
        routes.into_iter().partition(|s| matches!(s, Step::SetRoute(Route { via: Some(_), .. })));
    steps.into_iter().chain(direct).chain(via).collect()
}

type Kept<'a> = &'a dyn Fn(&String) -> bool;

fn addresses(desired: &View, observed: &View, kept: Kept) -> Vec<Step> {
    let (want, have) = (&desired.addresses, &observed.addresses);
    let key = |a: &Address| (a.link.clone(), a.net);
    entries(want, have, |a| kept(&a.link), key, Step::DelAddress, Step::AddAddress)
}

fn neighbours(desired: &View, observed: &View, kept: Kept) -> Vec<Step> {
    let (want, have) = (&desired.neighbours, &observed.neighbours);
    let key = |n: &Neighbour| (n.link.clone(), n.ip);
    entries(want, have, |n| kept(&n.link), key, Step::DelNeighbour, Step::SetNeighbour)
}

fn fdb(desired: &View, observed: &View, kept: Kept) -> Vec<Step> {
    let key = |e: &Fdb| (e.link.clone(), e.mac);
    entries(&desired.fdb, &observed.fdb, |e| kept(&e.link), key, Step::DelFdb, Step::SetFdb)
}

fn routes(desired: &View, observed: &View, kept: Kept) -> Vec<Step> {
    let (want, have) = (&desired.routes, &observed.routes);
    entries(want, have, |r| kept(&r.link), |r| r.to, Step::DelRoute, Step::SetRoute)
}

/// The steps for one kind of entry. One with the key of another is put in its place: it is never missing in between.
fn entries<E: Ord + Clone, K: Ord>(
    want: &BTreeSet<E>,
    have: &BTreeSet<E>,
    kept: impl Fn(&E) -> bool,
    key: impl Fn(&E) -> K,
    del: fn(E) -> Step,
    set: fn(E) -> Step,
) -> Vec<Step> {
    let keys: BTreeSet<K> = want.iter().map(&key).collect();
    let gone = have.difference(want).filter(|e| kept(e) && !keys.contains(&key(e)));
    let new = want.iter().filter(|e| !kept(e) || !have.contains(e));
    gone.cloned().map(del).chain(new.cloned().map(set)).collect()
}

/// Whether the link can be kept: only what cannot be changed on a living one counts.
fn same_kind(want: &Kind, have: &Kind) -> bool {
    matches!((want, have), (Kind::Veth(_), Kind::Veth(_))) || want == have
}

fn adjust(want: &Link, have: &Link) -> Option<Step> {
    let changed = |want: &Option<String>, have: &Option<String>| want.clone().filter(|_| want != have);
    let change = LinkChange {
        name: want.name.clone(),
        mac: want.mac.filter(|_| want.mac != have.mac),
        mtu: want.mtu.filter(|_| want.mtu != have.mtu),
        up: (want.up != have.up).then_some(want.up),
        master: changed(&want.master, &have.master),
        alias: changed(&want.alias, &have.alias),
    };
    (change != LinkChange::of(&want.name)).then_some(Step::SetLink(change))
}

/// Prints in the words of `ip` and `bridge`, for people and golden tests.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Sysctl { path, value } => write!(f, "sysctl {path}={value}"),
            Step::DelLink(name) => write!(f, "link del {name}"),
            Step::AddLink(l) => write!(f, "link add {l}"),
            Step::SetLink(LinkChange { name, mac, mtu, up, master, alias }) => {
                write!(f, "link set {name}")?;
                details(f, *mac, *mtu, master, alias)?;
                match up {
                    Some(true) => write!(f, " up"),
                    Some(false) => write!(f, " down"),
                    None => Ok(()),
                }
            }
            Step::DelAddress(a) => write!(f, "addr del {} dev {}", a.net, a.link),
            Step::AddAddress(a) => write!(f, "addr add {} dev {}", a.net, a.link),
            Step::DelRoute(r) => write!(f, "route del {r}"),
            Step::SetRoute(r) => write!(f, "route replace {r}"),
            Step::DelNeighbour(n) => write!(f, "neigh del {} dev {}", n.ip, n.link),
            Step::SetNeighbour(n) => {
                write!(f, "neigh replace {} lladdr {} dev {} nud permanent", n.ip, colons(n.mac), n.link)
            }
            Step::DelFdb(e) => write!(f, "fdb del {} dev {} dst {}", colons(e.mac), e.link, e.to),
            Step::SetFdb(e) => write!(f, "fdb replace {} dev {} dst {} self permanent", colons(e.mac), e.link, e.to),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} type {}", self.name, self.kind)?;
        details(f, self.mac, self.mtu, &self.master, &self.alias)?;
        write!(f, "{}", if self.up { " up" } else { "" })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Loopback => write!(f, "loopback"),
            Kind::Bridge => write!(f, "bridge"),
            Kind::Veth(None) => write!(f, "veth"),
            Kind::Veth(Some(e)) => write!(f, "veth peer name {} address {} mtu {}", e.name, colons(e.mac), e.mtu),
            Kind::Vxlan { vni, local, port, over } => {
                write!(f, "vxlan id {vni} local {local} dstport {port} nolearning dev {over}")
            }
            Kind::Other(kind) => write!(f, "{kind}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to.prefix() {
            0 => write!(f, "default")?,
            _ => write!(f, "{}", self.to)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via} onlink")?;
        }
        write!(f, " dev {}", self.link)
    }
}

fn details(
    f: &mut fmt::Formatter<'_>,
    mac: Option<Mac>,
    mtu: Option<u32>,
    master: &Option<String>,
    alias: &Option<String>,
) -> fmt::Result {
    if let Some(mac) = mac {
        write!(f, " address {}", colons(mac))?;
    }
    if let Some(mtu) = mtu {
        write!(f, " mtu {mtu}")?;
    }
    if let Some(master) = master {
        write!(f, " master {master}")?;
    }
    match alias {
        Some(alias) => write!(f, " alias {alias}"),
        None => Ok(()),
    }
}

pub(crate) fn colons(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
