//! Services as an nf_tables table: pure.
//!
//! ```text
//! prerouting ─┐                            ┌─▶ service-<ns/name/port>   dnat to one of its endpoints, or reject
//! output ─────┴▶ dispatch ─ vmap @services ┤
//!                         └ vmap @nodeports ─▶ nodeport-<…>             mark, then the same; policy Local: the same
//!                                                                       for our own, local endpoints for others
//! postrouting: masquerade what is marked, what comes back to its sender, what leaves the cluster
//! ```
//!
//! However many services there are, a packet meets one lookup in `services` (and, when it is for the node itself, one in
//! `nodeports`); and only the first packet of a flow, because the kernel remembers translations.
//!
//! One departure from kube-proxy: endpoints take turns (`numgen inc`) instead of being drawn at random.
use super::{
    Cluster, Endpoint, Protocol, ServicePort, Services,
    nft::{
        Base, Chain, Data, Expr, Field, Hook, Item, Part, Reject, Rule, Set, SetRef, Slot, Table, To, Verdict, concat,
    },
};
use ipnetwork::Ipv4Network;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Packets with this mark get the node's address as source. Kubernetes' own mark for it.
const MASQUERADE_MARK: u32 = 0x4000;
/// What the node itself sends has this mark from the output hook on, if any service has policy Local, which must tell
/// it from what other nodes send. Nothing takes it off: only a flow's first packet has it, and no route asks for it.
const NODE_MARK: u32 = 0x2000;
const SERVICES: &str = "services";
const NODEPORTS: &str = "nodeports";
const HAIRPIN: &str = "hairpin";
const DISPATCH: &str = "dispatch";
const SERVICE_KEY: [Field; 3] = [Field::Ipv4, Field::Proto, Field::Port];
const NODEPORT_KEY: [Field; 2] = [Field::Proto, Field::Port];
const ENDPOINT: [Field; 2] = [Field::Ipv4, Field::Port];
/// `RTN_LOCAL`, what the routing table calls an address of this machine.
const LOCAL: [u8; 4] = 2u32.to_ne_bytes();
/// Before and after routing, where the kernel's own translation hooks sit.
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

/// The host's table: what nodes send to the outside gets the host's address. It only has an effect where the host
/// forwards, which we leave as it is.
pub fn host_table(cluster: &Cluster) -> Table {
    let mut rule = within(Part::Saddr, cluster.underlay, true);
    rule.extend(within(Part::Daddr, cluster.underlay, false));
    rule.push(Expr::Masquerade);
    let chain = Chain { base: Some(Base { hook: Hook::Postrouting, priority: SRCNAT }), rules: vec![rule] };
    Table { name: cluster.table(), chains: [("postrouting".to_string(), chain)].into(), ..Table::default() }
}

/// A node's table.
pub fn node_table(cluster: &Cluster, services: &Services) -> Table {
    let mut table = Table { name: cluster.table(), ..Table::default() };
    let mut by_address = Set::new(&SERVICE_KEY, Data::Verdict);
    let mut by_port = Set::new(&NODEPORT_KEY, Data::Verdict);
    let mut hairpin = Set::new(&[Field::Ipv4, Field::Ipv4], Data::None);
    for port in &services.ports {
        let name = port.name.replace(':', "/");
        let (chain, entry) = (format!("service-{name}"), format!("nodeport-{name}"));
        let goto = |chain: &str| Item::Verdict(Verdict::Goto(chain.to_string()));
        for ip in &port.addresses {
            // An address that is not the cluster's own is under the external policy, as the node port is.
            let inside = port.external.is_none() || cluster.service_cidr.contains(*ip);
            by_address.elements.insert(service_key(*ip, port), goto(if inside { &chain } else { &entry }));
        }
        for e in backends(port) {
            hairpin.elements.insert(concat(&[&e.ip.octets(), &e.ip.octets()]), Item::None);
        }
        let affinity = port.affinity.map(|seconds| (format!("affinity-{name}"), u64::from(seconds) * 1000));
        if let Some((set, timeout)) = &affinity {
            table.sets.insert(set.clone(), affinity_map(*timeout, port));
        }
        if let Some(number) = port.node_port {
            let key = concat(&[&[port.protocol.number()], &number.to_be_bytes()]);
            by_port.elements.insert(key, goto(&entry));
        }
        if port.node_port.is_some() || port.external.is_some() {
            table.chains.insert(entry, rules(from_outside(cluster, &chain, port, &affinity)));
        }
        table.chains.insert(chain, rules(cluster_address(cluster, port, &affinity)));
    }
    table.sets.extend([
        (SERVICES.to_string(), by_address),
        (NODEPORTS.to_string(), by_port),
        (HAIRPIN.to_string(), hairpin),
    ]);
    table.chains.extend(frame(cluster, services.ports.iter().any(|p| p.external.is_some())));
    table
}

fn rules(rules: Vec<Rule>) -> Chain {
    Chain { base: None, rules }
}

fn service_key(ip: Ipv4Addr, port: &ServicePort) -> Vec<u8> {
    concat(&[&ip.octets(), &[port.protocol.number()], &port.port.to_be_bytes()])
}

/// All endpoints a port leads to, from inside or outside.
fn backends(port: &ServicePort) -> impl Iterator<Item = &Endpoint> {
    port.endpoints.iter().chain(port.external.iter().flatten())
}

/// The chains that are the same whatever services there are, but for the mark that a policy Local asks for.
fn frame(cluster: &Cluster, local: bool) -> [(String, Chain); 4] {
    let to_dispatch = vec![Expr::Verdict(Verdict::Jump(DISPATCH.into()))];
    let from_node = if local { set_mark(NODE_MARK) } else { vec![] };
    let base = |hook, priority, rules| Chain { base: Some(Base { hook, priority }), rules };
    [
        ("prerouting".into(), base(Hook::Prerouting, DSTNAT, vec![to_dispatch.clone()])),
        ("output".into(), base(Hook::Output, DSTNAT, vec![[from_node, to_dispatch].concat()])),
        (DISPATCH.into(), rules(dispatch(cluster))),
        ("postrouting".into(), base(Hook::Postrouting, SRCNAT, postrouting(cluster))),
    ]
}

fn dispatch(cluster: &Cluster) -> Vec<Rule> {
    let services = vec![
        Expr::load(Part::Daddr, 0),
        Expr::load(Part::L4Proto, 1),
        Expr::load(Part::Dport, 2),
        Expr::find(SERVICES, 0, To::Verdict),
    ];
    // An address of the service range that no service has would wander to the default route and off the host.
    let [tcp, other] = reject().map(|tail| [within(Part::Daddr, cluster.service_cidr, true), tail].concat());
    let loopback = Ipv4Network::new(Ipv4Addr::LOCALHOST, 8).expect("8 is a prefix");
    let local = [
        vec![Expr::load(Part::DaddrType, 0), Expr::equals(0, &LOCAL)],
        within(Part::Daddr, loopback, false),
        vec![Expr::load(Part::L4Proto, 0), Expr::load(Part::Dport, 1)],
        vec![Expr::find(NODEPORTS, 0, To::Verdict)],
    ];
    vec![services, tcp, other, local.concat()]
}

fn postrouting(cluster: &Cluster) -> Vec<Rule> {
    // The mark goes before the packet may be wrapped into VXLAN: the wrapper inherits it and is not to be translated.
    let marked = [has_mark(MASQUERADE_MARK), set_mark(0), vec![Expr::Masquerade]];
    // A pod that reaches itself through a service must get the answer back through the node.
    let hairpin = vec![
        Expr::load(Part::Saddr, 0),
        Expr::load(Part::Daddr, 1),
        Expr::find(HAIRPIN, 0, To::Match),
        Expr::Masquerade,
    ];
    let leaving = [
        within(Part::Saddr, cluster.pod_cidr, true),
        within(Part::Daddr, cluster.pod_cidr, false),
        within(Part::Daddr, cluster.service_cidr, false),
        vec![Expr::Masquerade],
    ];
    vec![marked.concat(), hairpin, leaving.concat()]
}

/// What happens to packets for the service's own address.
fn cluster_address(cluster: &Cluster, port: &ServicePort, affinity: &Option<(String, u64)>) -> Vec<Rule> {
    if port.endpoints.is_empty() {
        return refuse(port.protocol);
    }
    // From outside the pod network (a node, somebody else): the endpoint's answer must come back this way.
    let foreign = [within(Part::Saddr, cluster.pod_cidr, false), set_mark(MASQUERADE_MARK)].concat();
    [vec![foreign], balance(&port.endpoints, affinity)].concat()
}

/// What happens to packets for the service's port on a node, and with policy Local for its addresses outside.
fn from_outside(cluster: &Cluster, service: &str, port: &ServicePort, affinity: &Option<(String, u64)>) -> Vec<Rule> {
    let to_service = |first: Rule| [first, vec![Expr::Verdict(Verdict::Goto(service.into()))]].concat();
    let Some(local) = &port.external else {
        return vec![to_service(set_mark(MASQUERADE_MARK))];
    };
    // Policy Local is for clients elsewhere: pods and the node itself reach all, as if a balancer had sent them round.
    let ours = [within(Part::Saddr, cluster.pod_cidr, true), has_mark(NODE_MARK)].map(to_service);
    // A client elsewhere tries another node; being silent is what load balancers' checks expect.
    let others = if local.is_empty() { vec![vec![Expr::Verdict(Verdict::Drop)]] } else { balance(local, affinity) };
    [ours.to_vec(), others].concat()
}

const CLIENT: Slot = 0;
const TURN: Slot = 4;
const TARGET: Slot = 8;

/// Rules that translate to one of the endpoints (there is at least one).
///
/// While the kernel puts a transaction into effect there is an instant when the new rules run but the elements of their
/// new sets cannot be found yet. A packet of that instant would pass untranslated, and its connection with it. So the
/// last rule needs no set: it leads to an endpoint that is named in the rule itself.
fn balance(endpoints: &BTreeSet<Endpoint>, affinity: &Option<(String, u64)>) -> Vec<Rule> {
    let dnat = Expr::Dnat { addr: TARGET, port: TARGET + 1 };
    let fallback = endpoints.first().map(to).unwrap_or_default();
    let choices = if endpoints.len() > 1 { vec![in_turn(endpoints), fallback] } else { vec![fallback] };
    let Some((set, timeout)) = affinity else {
        return choices.into_iter().map(|c| [c, vec![dnat.clone()]].concat()).collect();
    };
    let client = Expr::load(Part::Saddr, CLIENT);
    let known = Expr::find(set, CLIENT, To::Slot(TARGET));
    let remember = Expr::Remember { set: set.clone(), key: CLIENT, data: TARGET, timeout: *timeout };
    let choices = [vec![vec![known]], choices].concat();
    choices.into_iter().map(|c| [vec![client.clone()], c, vec![remember.clone(), dnat.clone()]].concat()).collect()
}

/// The next endpoint of the list.
fn in_turn(endpoints: &BTreeSet<Endpoint>) -> Rule {
    let mut map = Set::new(&[Field::Number], Data::Value(ENDPOINT.to_vec()));
    for (i, e) in (0u32..).zip(endpoints) {
        map.elements.insert(i.to_ne_bytes().to_vec(), Item::Value(value(e)));
    }
    vec![
        Expr::Count { modulus: endpoints.len() as u32, to: TURN },
        Expr::Lookup { set: SetRef::Inline(map), from: TURN, to: To::Slot(TARGET) },
    ]
}

/// This endpoint.
fn to(only: &Endpoint) -> Rule {
    vec![Expr::immediate(TARGET, &only.ip.octets()), Expr::immediate(TARGET + 1, &only.port.to_be_bytes())]
}

fn affinity_map(timeout: u64, port: &ServicePort) -> Set {
    let mut map = Set::new(&[Field::Ipv4], Data::Value(ENDPOINT.to_vec()));
    map.timeout = Some(timeout);
    map.valid = backends(port).map(value).collect();
    map
}

fn value(e: &Endpoint) -> Vec<u8> {
    concat(&[&e.ip.octets(), &e.port.to_be_bytes()])
}

fn has_mark(mark: u32) -> Rule {
    vec![Expr::load(Part::Mark, 0), Expr::equals(0, &mark.to_ne_bytes())]
}

fn set_mark(mark: u32) -> Rule {
    vec![Expr::immediate(0, &mark.to_ne_bytes()), Expr::SetMark { from: 0 }]
}

/// The two ways to say no: TCP has its own.
fn reject() -> [Rule; 2] {
    let tcp =
        vec![Expr::load(Part::L4Proto, 0), Expr::equals(0, &[Protocol::Tcp.number()]), Expr::Reject(Reject::TcpReset)];
    [tcp, vec![Expr::Reject(Reject::PortUnreachable)]]
}

fn refuse(protocol: Protocol) -> Vec<Rule> {
    let how = if protocol == Protocol::Tcp { Reject::TcpReset } else { Reject::PortUnreachable };
    vec![vec![Expr::Reject(how)]]
}

/// Goes on if an address is (or is not) in a network.
fn within(part: Part, net: Ipv4Network, inside: bool) -> Rule {
    vec![
        Expr::load(part, 0),
        Expr::Mask { slot: 0, mask: net.mask().octets() },
        Expr::Cmp { slot: 0, equal: inside, value: net.network().octets().to_vec() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nft::{
        Op, diff,
        trace::{Fate, Packet, Tracer},
    };

    fn cluster() -> Cluster {
        Cluster {
            name: "t".into(),
            underlay: "172.30.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            mtu: 1500,
        }
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn ends(list: &[&str]) -> BTreeSet<Endpoint> {
        list.iter().map(|e| Endpoint { ip: ip(e), port: 8080 }).collect()
    }

    fn port(name: &str, address: &str, endpoints: &[&str]) -> ServicePort {
        ServicePort {
            name: name.into(),
            protocol: Protocol::Tcp,
            addresses: [ip(address)].into(),
            port: 80,
            node_port: None,
            endpoints: ends(endpoints),
            external: None,
            affinity: None,
        }
    }

    fn table(ports: Vec<ServicePort>) -> Table {
        node_table(&cluster(), &Services { ports })
    }

    /// Where the first packet of a TCP connection goes: `address:port`, with `*` if its source is masqueraded.
    fn go(tracer: &mut Tracer, from: &str, to: &str) -> String {
        let (daddr, dport) = to.split_once(':').unwrap();
        let packet = Packet {
            saddr: ip(from),
            daddr: ip(daddr),
            proto: 6,
            dport: dport.parse().unwrap(),
            local: daddr == "172.30.0.11",
            mark: 0,
        };
        let (fate, masqueraded) = tracer.flow(packet, from == "172.30.0.11");
        let text = match fate {
            Fate::Passed => to.to_string(),
            Fate::Translated(ip, port) => format!("{ip}:{port}"),
            Fate::Rejected(Reject::TcpReset) => "reset".into(),
            other => format!("{other:?}"),
        };
        if masqueraded { text + "*" } else { text }
    }

    const POD: &str = "10.244.1.9";

    #[test]
    fn where_packets_go() {
        let mut web = port("d/web:http", "10.96.0.20", &["10.244.1.2", "10.244.2.2"]);
        web.node_port = Some(30080);
        let mut local = port("d/local:http", "10.96.0.21", &["10.244.1.3", "10.244.2.3"]);
        local.node_port = Some(30081);
        local.external = Some(ends(&["10.244.1.3"]));
        let mut elsewhere = port("d/elsewhere:http", "10.96.0.22", &["10.244.2.3"]);
        elsewhere.node_port = Some(30082);
        elsewhere.external = Some(ends(&[]));
        elsewhere.addresses.insert(ip("192.0.2.9"));
        let none = port("d/none:http", "10.96.0.23", &[]);
        let table = table(vec![web, local, elsewhere, none]);
        let mut t = Tracer::new(&table);
        for (from, to, want) in [
            (POD, "10.96.0.20:80", "10.244.1.2:8080"),
            (POD, "10.96.0.20:80", "10.244.2.2:8080"),
            (POD, "10.96.0.20:80", "10.244.1.2:8080"),
            (POD, "10.96.0.20:81", "reset"),
            (POD, "10.96.9.9:80", "reset"),
            (POD, "10.96.0.23:80", "reset"),
            (POD, "10.244.2.2:8080", "10.244.2.2:8080"),
            (POD, "192.0.2.1:443", "192.0.2.1:443*"),
            (POD, "172.30.0.1:6443", "172.30.0.1:6443*"),
            ("10.244.2.3", "10.96.0.22:80", "10.244.2.3:8080*"),
            ("172.30.0.11", "10.96.0.22:80", "10.244.2.3:8080*"),
            ("172.30.0.1", "172.30.0.11:30080", "10.244.2.2:8080*"),
            ("172.30.0.1", "172.30.0.11:30081", "10.244.1.3:8080"),
            ("172.30.0.1", "172.30.0.11:30082", "Dropped"),
            ("172.30.0.12", "172.30.0.11:30082", "Dropped"),
            (POD, "172.30.0.11:30081", "10.244.1.3:8080"),
            (POD, "172.30.0.11:30081", "10.244.2.3:8080"),
            (POD, "172.30.0.11:30082", "10.244.2.3:8080"),
            ("172.30.0.11", "172.30.0.11:30082", "10.244.2.3:8080*"),
            ("172.30.0.1", "192.0.2.9:80", "Dropped"),
            (POD, "192.0.2.9:80", "10.244.2.3:8080"),
            ("172.30.0.11", "192.0.2.9:80", "10.244.2.3:8080*"),
            ("172.30.0.11", "192.0.2.1:443", "192.0.2.1:443"),
            ("172.30.0.1", "172.30.0.11:22", "172.30.0.11:22"),
            ("172.30.0.1", "10.244.1.2:80", "10.244.1.2:80"),
        ] {
            assert_eq!(go(&mut t, from, to), want, "{from} to {to}");
        }
        go(&mut t, POD, "10.96.0.20:80");
        assert_eq!(t.path, ["prerouting", "dispatch", "service-d/web/http", "postrouting"]);
    }

    #[test]
    fn only_policy_local_has_the_nodes_own_packets_marked() {
        let [plain, mut local] =
            [20, 21].map(|k| port(&format!("d/s{k}:http"), &format!("10.96.0.{k}"), &["10.244.1.2"]));
        local.external = Some(ends(&[]));
        let (without, with) = (table(vec![plain.clone()]), table(vec![plain, local]));
        let jump = vec![Expr::Verdict(Verdict::Jump(DISPATCH.into()))];
        assert_eq!(without.chains["output"].rules, vec![jump.clone()]);
        assert_eq!(with.chains["output"].rules, [[set_mark(NODE_MARK), jump].concat()]);
        assert_eq!(with.chains["prerouting"], without.chains["prerouting"]);
        assert_eq!(with.chains["service-d/s20/http"], without.chains["service-d/s20/http"]);
    }

    #[test]
    fn clients_with_affinity_come_back() {
        let mut sticky = port("d/sticky:http", "10.96.0.20", &["10.244.1.2", "10.244.2.2"]);
        sticky.affinity = Some(60);
        let table = table(vec![sticky]);
        let mut t = Tracer::new(&table);
        let first = go(&mut t, POD, "10.96.0.20:80");
        let other = go(&mut t, "10.244.1.8", "10.96.0.20:80");
        assert_ne!(first, other, "the next client has its own turn");
        assert_eq!(go(&mut t, POD, "10.96.0.20:80"), first);
        assert_eq!(go(&mut t, "10.244.1.8", "10.96.0.20:80"), other);
    }

    fn names(ops: &[Op]) -> Vec<String> {
        let short = |op: &Op| match op {
            Op::AddTable => "add table".into(),
            Op::DelTable => "delete table".into(),
            Op::AddChain(name, _) => format!("add chain {name}"),
            Op::DelChain(name) => format!("delete chain {name}"),
            Op::AddSet(name, _) => format!("add set {name}"),
            Op::DelSet(name) => format!("delete set {name}"),
            Op::AddElements(name, items) => format!("add {} to {name}", items.len()),
            Op::DelElements(name, keys) => format!("delete {} from {name}", keys.len()),
            Op::Flush(chain) => format!("flush {chain}"),
            Op::AddRule(chain, _) => format!("add rule to {chain}"),
        };
        ops.iter().map(short).collect()
    }

    #[test]
    fn a_change_is_what_differs() {
        let many = |count: u8| {
            (0..count).map(|k| port(&format!("d/s{k}:http"), &format!("10.96.1.{k}"), &["10.244.1.2", "10.244.2.2"]))
        };
        let old = table(many(100).collect());
        assert!(diff(&old, Some(&old)).is_empty(), "a second plan is empty");
        let mut ports: Vec<_> = many(100).collect();
        ports[50].endpoints = ends(&["10.244.2.2", "10.244.3.2"]);
        assert_eq!(
            names(&diff(&table(ports), Some(&old))),
            [
                "flush service-d/s50/http",
                "add rule to service-d/s50/http",
                "add rule to service-d/s50/http",
                "add rule to service-d/s50/http",
                "add 1 to hairpin",
            ]
        );
        assert_eq!(
            names(&diff(&table(many(99).collect()), Some(&old))),
            ["delete 1 from services", "flush service-d/s99/http", "delete chain service-d/s99/http"]
        );
        let [first, ..] = &diff(&old, None)[..] else { panic!() };
        assert_eq!(*first, Op::AddTable);
    }

    #[test]
    fn the_table_of_another_version_is_made_anew_in_one_transaction() {
        let new = table(vec![]);
        let mut old = new.clone();
        old.sets.get_mut(SERVICES).unwrap().key.pop();
        assert_eq!(names(&diff(&new, Some(&old)))[..2], ["delete table", "add table"]);
    }
}
