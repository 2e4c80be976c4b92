//! A question and the table -> an answer.

use super::DOMAIN;
use super::zone::{Port, Records, Zone, undashed};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::Ipv4Addr;

/// Seconds a client may keep an answer: short, since endpoints come and go.
const TTL: u32 = 5;
/// All SRV records of a service weigh the same.
const WEIGHT: u16 = 100;
/// How many aliases are followed, as in CoreDNS: services can name each other without end.
const MAX_ALIASES: usize = 8;

/// What is to be said.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These records; further ones that help (addresses of SRV targets).
    Records(Vec<Record>, Vec<Record>),
    /// These aliases; what the last one stands for, this name, is not ours: add what another resolver says of it.
    Alias(Vec<Record>, Name),
    /// The name exists, but has no records of this type.
    NoData,
    /// No such name.
    NxDomain,
    /// Not ours: ask another resolver.
    Elsewhere,
}

/// Answers a question. `turn` rotates lists of addresses, so that clients that take the first spread out. Aliases are
/// followed to their addresses, since the stub resolvers that ask us do not.
pub fn answer(zone: &Zone, name: &Name, wanted: RecordType, turn: usize) -> Answer {
    let (mut chain, extra) = match look_up(zone, name, wanted, turn) {
        Answer::Records(records, extra) => (records, extra),
        other => return other,
    };
    while matches!(wanted, RecordType::A | RecordType::AAAA)
        && chain.len() < MAX_ALIASES
        && let Some(RData::CNAME(CNAME(target))) = chain.last().map(Record::data)
        && chain.iter().all(|alias| alias.name() != target)
    {
        let target = target.clone();
        match look_up(zone, &target, wanted, turn) {
            Answer::Records(records, _) => chain.extend(records),
            Answer::Elsewhere => return Answer::Alias(chain, target),
            _ => break,
        }
    }
    Answer::Records(chain, extra)
}

fn look_up(zone: &Zone, name: &Name, wanted: RecordType, turn: usize) -> Answer {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => reverse(zone, name, [a, b, c, d], wanted),
        [inner @ .., "cluster", "local"] => {
            let mut found = inside(zone, name, inner, wanted);
            if let Answer::Records(records, _) = &mut found
                && !records.is_empty()
            {
                let turn = turn % records.len();
                records.rotate_left(turn);
            }
            found
        }
        _ => Answer::Elsewhere,
    }
}

/// The SOA record that goes with “no”, so that resolvers know how long to believe it.
pub fn authority() -> Option<Record> {
    let zone = absolute("");
    let soa = SOA::new(absolute("ns.dns")?, absolute("hostmaster")?, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(zone?, TTL, RData::SOA(soa)))
}

/// `<relative>.cluster.local.`
fn absolute(relative: &str) -> Option<Name> {
    let dot = if relative.is_empty() { "" } else { "." };
    Name::from_utf8(format!("{relative}{dot}{DOMAIN}.")).ok()
}

fn reverse(zone: &Zone, name: &Name, octets: [&str; 4], wanted: RecordType) -> Answer {
    let Ok(address) = octets.join(".").parse::<Ipv4Addr>() else {
        return Answer::Elsewhere;
    };
    let names = zone.names_of(address);
    if names.is_empty() {
        return Answer::Elsewhere;
    }
    if wanted != RecordType::PTR {
        return Answer::NoData;
    }
    let targets = names.iter().filter_map(|n| absolute(n));
    Answer::Records(targets.map(|to| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(to)))).collect(), Vec::new())
}

fn inside(zone: &Zone, name: &Name, labels: &[&str], wanted: RecordType) -> Answer {
    match labels {
        [] | ["svc"] | ["pod"] => Answer::NoData,
        [namespace, "svc" | "pod"] if zone.has_namespace(namespace) => Answer::NoData,
        [address, _, "pod"] => match undashed(address) {
            Some(address) => addresses(name, vec![address], wanted),
            None => Answer::NxDomain,
        },
        [service, namespace, "svc"] => match zone.get(namespace, service) {
            Some(records) => service_itself(name, records, wanted),
            None => Answer::NxDomain,
        },
        [host, service, namespace, "svc"] => match zone.get(namespace, service) {
            Some(Records::Headless(endpoints) | Records::Cluster { endpoints, .. }) => {
                let here: Vec<Ipv4Addr> = endpoints.iter().filter(|e| e.host == *host).map(|e| e.address).collect();
                if here.is_empty() { Answer::NxDomain } else { addresses(name, here, wanted) }
            }
            _ => Answer::NxDomain,
        },
        [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
            (Some(port), Some(protocol)) => {
                let Some(records) = zone.get(namespace, service) else {
                    return Answer::NxDomain;
                };
                let service = format!("{service}.{namespace}.svc");
                service_ports(name, &service, records, wanted, |p| p.name == port && p.protocol == protocol)
            }
            _ => Answer::NxDomain,
        },
        _ => Answer::NxDomain,
    }
}

fn addresses(name: &Name, all: Vec<Ipv4Addr>, wanted: RecordType) -> Answer {
    match wanted {
        RecordType::A | RecordType::ANY => {
            Answer::Records(all.into_iter().map(|ip| address_record(name, ip)).collect(), Vec::new())
        }
        _ => Answer::NoData,
    }
}

fn address_record(name: &Name, address: Ipv4Addr) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::A(A(address)))
}

fn service_itself(name: &Name, records: &Records, wanted: RecordType) -> Answer {
    if wanted == RecordType::SRV {
        let relative =
            name.iter().take(3).map(|l| String::from_utf8_lossy(l).to_lowercase()).collect::<Vec<_>>().join(".");
        return service_ports(name, &relative, records, wanted, |_| true);
    }
    match records {
        Records::Cluster { address, .. } => addresses(name, vec![*address], wanted),
        Records::Headless(endpoints) if endpoints.is_empty() => Answer::NxDomain,
        Records::Headless(endpoints) => addresses(name, endpoints.iter().map(|e| e.address).collect(), wanted),
        Records::External(target) => match Name::from_utf8(format!("{}.", target.trim_end_matches('.'))) {
            Ok(to) => Answer::Records(vec![Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(to)))], Vec::new()),
            Err(_) => Answer::NoData,
        },
    }
}

/// SRV records of the ports that `pick` takes, with the addresses of their targets.
fn service_ports(
    name: &Name,
    service: &str,
    records: &Records,
    wanted: RecordType,
    pick: impl Fn(&Port) -> bool,
) -> Answer {
    let targets: Vec<(String, Ipv4Addr, &[Port])> = match records {
        Records::Cluster { address, ports, .. } => vec![(service.to_string(), *address, ports)],
        Records::Headless(endpoints) => {
            endpoints.iter().map(|e| (format!("{}.{service}", e.host), e.address, e.ports.as_slice())).collect()
        }
        Records::External(_) => Vec::new(),
    };
    let (mut srv, mut extra) = (Vec::new(), Vec::new());
    for (target, address, ports) in targets {
        let Some(target) = absolute(&target) else {
            continue;
        };
        let before = srv.len();
        srv.extend(ports.iter().filter(|p| pick(p)).map(|p| {
            let data = SRV::new(0, WEIGHT, p.number, target.clone());
            Record::from_rdata(name.clone(), TTL, RData::SRV(data))
        }));
        if srv.len() > before {
            extra.push(address_record(&target, address));
        }
    }
    match (srv.is_empty(), wanted) {
        (true, _) => Answer::NxDomain,
        (false, RecordType::SRV | RecordType::ANY) => Answer::Records(srv, extra),
        (false, _) => Answer::NoData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::records;
    use serde_json::json;
    use std::sync::Arc;

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let service = |spec| serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": spec})).unwrap();
        let slice = serde_json::from_value(
            json!({"addressType": "IPv4", "metadata": {}, "ports": [{"name": "db", "port": 5432, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.1.2"], "conditions": {"ready": true}, "hostname": "db-0"},
                {"addresses": ["10.244.2.3"], "conditions": {"ready": true}},
                {"addresses": ["10.244.3.4"], "conditions": {"ready": false}}]}),
        )
        .unwrap();
        let web = service(
            json!({"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        );
        zone.set("default", "web", Some(records(&web, &[])));
        let slices = [Arc::new(slice)];
        zone.set("default", "db", Some(records(&service(json!({"clusterIP": "None"})), &slices)));
        zone.set("default", "empty", Some(records(&service(json!({"clusterIP": "None"})), &[])));
        let all = service(json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
        zone.set("other", "all", Some(records(&all, &slices)));
        let front = service(json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}));
        zone.set("third", "front", Some(records(&front, &slices)));
        for (name, target) in [
            ("ext", "example.org"),
            ("near", "db.default.svc.cluster.local"),
            ("twice", "ext.other.svc.cluster.local"),
            ("gone", "nope.default.svc.cluster.local"),
            ("loop", "loop.other.svc.cluster.local"),
        ] {
            let service = service(json!({"type": "ExternalName", "externalName": target}));
            zone.set("other", name, Some(records(&service, &[])));
        }
        for n in 0..=MAX_ALIASES {
            let next = format!("{}.long.svc.cluster.local", n + 1);
            zone.set("long", &n.to_string(), Some(Records::External(next)));
        }
        zone
    }

    /// The answer in one line.
    fn ask(name: &str, wanted: RecordType) -> String {
        let shown = |all: &[Record]| all.iter().map(|r| r.data().to_string()).collect::<Vec<_>>().join(", ");
        match answer(&zone(), &Name::from_utf8(name).unwrap(), wanted, 0) {
            Answer::Records(records, extra) if extra.is_empty() => shown(&records),
            Answer::Records(records, extra) => format!("{} + {}", shown(&records), shown(&extra)),
            Answer::Alias(records, target) => format!("{} + {target}?", shown(&records)),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn names_have_the_records_of_the_specification() {
        use RecordType::{A, AAAA, CNAME, PTR, SRV};
        for (name, wanted, want) in [
            ("web.default.svc.cluster.local.", A, "10.96.0.9"),
            ("WEB.Default.svc.Cluster.local.", A, "10.96.0.9"),
            ("web.default.svc.cluster.local.", AAAA, "NoData"),
            ("nope.default.svc.cluster.local.", A, "NxDomain"),
            ("web.nowhere.svc.cluster.local.", A, "NxDomain"),
            ("_http._tcp.web.default.svc.cluster.local.", SRV, "0 100 80 web.default.svc.cluster.local. + 10.96.0.9"),
            ("_http._udp.web.default.svc.cluster.local.", SRV, "NxDomain"),
            ("_dns._udp.web.default.svc.cluster.local.", SRV, "0 100 53 web.default.svc.cluster.local. + 10.96.0.9"),
            ("db.default.svc.cluster.local.", A, "10.244.2.3, 10.244.1.2"),
            ("db-0.db.default.svc.cluster.local.", A, "10.244.1.2"),
            ("10-244-2-3.db.default.svc.cluster.local.", A, "10.244.2.3"),
            ("db-9.db.default.svc.cluster.local.", A, "NxDomain"),
            ("front.third.svc.cluster.local.", A, "10.96.0.10"),
            ("10-244-2-3.front.third.svc.cluster.local.", A, "10.244.2.3"),
            ("db-0.front.third.svc.cluster.local.", A, "10.244.1.2"),
            ("10-244-3-4.front.third.svc.cluster.local.", A, "NxDomain"),
            ("10.0.96.10.in-addr.arpa.", PTR, "front.third.svc.cluster.local."),
            (
                "_db._tcp.db.default.svc.cluster.local.",
                SRV,
                "0 100 5432 10-244-2-3.db.default.svc.cluster.local., 0 100 5432 db-0.db.default.svc.cluster.local. + 10.244.2.3, 10.244.1.2",
            ),
            ("empty.default.svc.cluster.local.", A, "NxDomain"),
            ("all.other.svc.cluster.local.", A, "10.244.2.3, 10.244.3.4, 10.244.1.2"),
            ("ext.other.svc.cluster.local.", CNAME, "example.org."),
            ("ext.other.svc.cluster.local.", A, "example.org. + example.org.?"),
            ("ext.other.svc.cluster.local.", AAAA, "example.org. + example.org.?"),
            ("twice.other.svc.cluster.local.", A, "ext.other.svc.cluster.local., example.org. + example.org.?"),
            ("near.other.svc.cluster.local.", A, "db.default.svc.cluster.local., 10.244.2.3, 10.244.1.2"),
            ("near.other.svc.cluster.local.", AAAA, "db.default.svc.cluster.local."),
            ("gone.other.svc.cluster.local.", A, "nope.default.svc.cluster.local."),
            ("loop.other.svc.cluster.local.", A, "loop.other.svc.cluster.local."),
            ("10-244-9-9.default.pod.cluster.local.", A, "10.244.9.9"),
            ("words.default.pod.cluster.local.", A, "NxDomain"),
            ("default.svc.cluster.local.", A, "NoData"),
            ("cluster.local.", A, "NoData"),
            ("9.0.96.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
            (
                "2.1.244.10.in-addr.arpa.",
                PTR,
                "db-0.db.default.svc.cluster.local., db-0.all.other.svc.cluster.local., db-0.front.third.svc.cluster.local.",
            ),
            ("1.1.1.1.in-addr.arpa.", PTR, "Elsewhere"),
            ("example.org.", A, "Elsewhere"),
        ] {
            assert_eq!(ask(name, wanted), want, "{name} {wanted}");
        }
    }

    #[test]
    fn aliases_of_aliases_end() {
        assert_eq!(ask("0.long.svc.cluster.local.", RecordType::A).split(", ").count(), MAX_ALIASES);
    }

    #[test]
    fn the_first_address_takes_turns_after_its_alias() {
        for (name, at) in [("db.default.svc.cluster.local.", 0), ("near.other.svc.cluster.local.", 1)] {
            let name = Name::from_utf8(name).unwrap();
            let address = |turn| match answer(&zone(), &name, RecordType::A, turn) {
                Answer::Records(records, _) => records[at].data().to_string(),
                other => panic!("{other:?}"),
            };
            assert_ne!(address(0), address(1));
        }
    }
}
