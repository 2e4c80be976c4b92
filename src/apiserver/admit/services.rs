//! Cluster IPs and node ports: who has which, and the next free one.
//!
//! What is taken is read off the Services in the store, followed by a watch that is emptied whenever somebody asks. So
//! there is no second record that could disagree, and a deleted Service gives back what it had.
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde_json::{Value, json};

use crate::api::kinds::service::{ALLOCATE, balances, keep_allocated, uses};
use crate::api::{ApiError, FieldError, Kind, meta};
use crate::apiserver::Config;
use crate::apiserver::registry::Followed;
use crate::store::Store;

/// Where Services are stored.
const PREFIX: &str = "/registry/services/";
/// Addresses at the start of the range that are not given out unasked, so that well-known ones can be asked for.
const RESERVED: u32 = 256;

/// The allocator.
pub(crate) struct Services {
    taken: Followed<Holding>,
    /// Held from looking for a free address until the Service that has it is in the store.
    turn: tokio::sync::Mutex<()>,
}

/// What a Service has.
#[derive(Debug, Default, PartialEq)]
struct Holding {
    ips: Vec<Ipv4Addr>,
    /// Protocol and port.
    ports: Vec<(String, u16)>,
}

impl Services {
    pub(crate) fn new(store: Store) -> Self {
        Self { taken: Followed::new(store, PREFIX, Holding::of), turn: tokio::sync::Mutex::default() }
    }

    /// The right to write a Service; for other kinds nothing is held.
    pub(crate) async fn guard(&self, kind: &Kind) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if kind.kind == "Service" { Some(self.turn.lock().await) } else { None }
    }

    /// Gives `new` the addresses and ports it needs and keeps those it had.
    pub(crate) fn allocate(&self, config: &Config, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let taken = self.taken.now()?;
        let own = format!("{PREFIX}{}/{}", meta::namespace(new), meta::name(new));
        let others = || taken.iter().filter(|(key, _)| **key != own);
        let ips = others().flat_map(|(_, h)| h.ips.iter().copied()).collect();
        let ports = others().flat_map(|(_, h)| h.ports.iter().cloned()).collect();
        if let (Some(spec), Some(old)) = (new.get_mut("spec").filter(|spec| spec.is_object()), old) {
            keep_allocated(spec, &old["spec"]);
        }
        let mut errors = give_ip(new, config.service_cidr, &ips);
        errors.extend(give_ports(new, config.node_ports, &ports));
        if errors.is_empty() {
            return Ok(());
        }
        let name = meta::name(new);
        Err(ApiError::invalid("", "Service", name, &errors))
    }
}

impl Holding {
    fn of(service: &Value) -> Self {
        let ips = meta::list(service, &["spec", "clusterIPs"]);
        let ports = meta::list(service, &["spec", "ports"]).iter();
        Self {
            ips: ips.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
            ports: ports.filter_map(node_port).collect(),
        }
    }
}

fn node_port(port: &Value) -> Option<(String, u16)> {
    let number = u16::try_from(port["nodePort"].as_u64()?).ok()?;
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    (number > 0).then(|| (protocol.to_owned(), number))
}

/// Sets `clusterIP` and what goes with it.
fn give_ip(new: &mut Value, cidr: Ipv4Network, taken: &BTreeSet<Ipv4Addr>) -> Vec<FieldError> {
    if !uses(&new["spec"]).0 {
        return Vec::new();
    }
    let first = meta::list(new, &["spec", "clusterIPs"]).first();
    let asked = match meta::text(new, &["spec", "clusterIP"]) {
        "" => first.and_then(Value::as_str).unwrap_or(""),
        asked => asked,
    }
    .to_owned();
    let refuse = |why: String| vec![FieldError::invalid("spec.clusterIPs", json!([asked]), why)];
    let ip = match asked.as_str() {
        "None" => "None".to_owned(),
        "" => match free_ip(cidr, taken) {
            Some(ip) => ip.to_string(),
            None => return refuse("failed to allocate IP: range is full".into()),
        },
        text => match text.parse::<Ipv4Addr>() {
            // What is not an address is the validation's to refuse.
            Err(_) => return Vec::new(),
            Ok(ip) if !usable(cidr, ip) => {
                return refuse(format!(
                    "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
                ));
            }
            Ok(ip) if taken.contains(&ip) => {
                return refuse(format!("failed to allocate IP {ip}: provided IP is already allocated"));
            }
            Ok(_) => asked,
        },
    };
    let spec = meta::map_mut(new, &["spec"]);
    spec.insert("clusterIP".into(), ip.clone().into());
    spec.insert("clusterIPs".into(), json!([ip]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| "SingleStack".into());
    Vec::new()
}

/// Neither the network's own address nor the broadcast one.
fn usable(cidr: Ipv4Network, ip: Ipv4Addr) -> bool {
    cidr.contains(ip) && ip != cidr.network() && ip != cidr.broadcast()
}

/// The lowest free address past the reserved ones, or else among them.
fn free_ip(cidr: Ipv4Network, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(cidr.network()) + 1, u32::from(cidr.broadcast()));
    let start = first + RESERVED.min(last.saturating_sub(first) / 16);
    (start..last).chain(first..start).map(Ipv4Addr::from).find(|ip| !taken.contains(ip))
}

/// Sets every `nodePort` that is missing.
fn give_ports(new: &mut Value, (low, high): (u16, u16), taken: &BTreeSet<(String, u16)>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !uses(&new["spec"]).1 {
        return errors;
    }
    // A number that is asked for is given even then.
    let only_asked = balances(&new["spec"]) && new["spec"][ALLOCATE] == false;
    let mut own = BTreeSet::new();
    let ports = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let is_taken = |n: u16| taken.contains(&(protocol.clone(), n));
        let asked = port["nodePort"].as_u64().unwrap_or(0);
        let given = match u16::try_from(asked) {
            Ok(0) if only_asked => continue,
            Ok(0) => match (low..=high).find(|n| !is_taken(*n) && !own.contains(n)) {
                Some(free) => free,
                None => {
                    let why = "failed to allocate a nodePort: range is full";
                    errors.push(FieldError::invalid(field, asked, why));
                    continue;
                }
            },
            Ok(asked) if (low..=high).contains(&asked) => {
                if is_taken(asked) {
                    let why = "provided port is already allocated";
                    errors.push(FieldError::invalid(field, asked, why));
                    continue;
                }
                asked
            }
            _ => {
                let why = format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
                errors.push(FieldError::invalid(field, asked, why));
                continue;
            }
        };
        own.insert(given);
        meta::map_mut(port, &[]).insert("nodePort".into(), given.into());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr() -> Ipv4Network {
        "10.96.0.0/24".parse().unwrap()
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec})
    }

    #[test]
    fn the_lowest_free_address_past_the_reserved_ones_is_given() {
        let mut taken = BTreeSet::new();
        let first = free_ip(cidr(), &taken).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 96, 0, 16));
        taken.insert(first);
        assert_eq!(free_ip(cidr(), &taken).unwrap(), Ipv4Addr::new(10, 96, 0, 17));
        taken.extend((1..255).map(|n| Ipv4Addr::new(10, 96, 0, n)));
        assert_eq!(free_ip(cidr(), &taken), None);
    }

    #[test]
    fn an_address_that_is_taken_or_foreign_is_refused() {
        let taken = BTreeSet::from([Ipv4Addr::new(10, 96, 0, 1)]);
        let mut new = service(json!({"clusterIP": "10.96.0.1"}));
        let errors = give_ip(&mut new, cidr(), &taken);
        assert_eq!(
            errors[0].to_string(),
            "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: provided IP is already allocated"
        );
        let mut new = service(json!({"clusterIP": "10.97.0.1"}));
        assert_eq!(give_ip(&mut new, cidr(), &taken).len(), 1);
        let mut new = service(json!({"clusterIP": "None"}));
        assert!(give_ip(&mut new, cidr(), &taken).is_empty());
        assert_eq!(new["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn node_ports_are_given_unless_they_are_not_wanted() {
        let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]);
        let mut new = service(json!({"type": "NodePort", "ports": ports}));
        let taken = BTreeSet::from([("TCP".to_owned(), 30000)]);
        assert!(give_ports(&mut new, (30000, 30002), &taken).is_empty());
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert_eq!(new["spec"]["ports"][1]["nodePort"], 30002);
        let mut none = service(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports}));
        none["spec"]["ports"][1]["nodePort"] = 30001.into();
        assert!(give_ports(&mut none, (30000, 30002), &taken).is_empty());
        assert_eq!(none["spec"]["ports"][0].get("nodePort"), None);
        assert_eq!(none["spec"]["ports"][1]["nodePort"], 30001);
    }
}
