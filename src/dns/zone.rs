//! The table of names: what Services and EndpointSlices come to.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A named port: what SRV records are made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Empty for the only port of a service.
    pub name: String,
    /// Lower case: `tcp`, `udp`.
    pub protocol: String,
    pub number: u16,
}

/// One address behind a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// `hostname` of the endpoint, else its address with dashes.
    pub host: String,
    pub address: Ipv4Addr,
    pub ports: Vec<Port>,
}

/// What a service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Records {
    /// A virtual address; the endpoints behind it have names too.
    Cluster { address: Ipv4Addr, ports: Vec<Port>, endpoints: Vec<Endpoint> },
    /// The endpoints themselves, sorted.
    Headless(Vec<Endpoint>),
    /// Another name.
    External(String),
}

/// All services by namespace and name.
#[derive(Debug, Default)]
pub struct Zone {
    services: BTreeMap<String, BTreeMap<String, Records>>,
}

impl Zone {
    /// Sets or removes (`None`) the records of a service.
    pub fn set(&mut self, namespace: &str, name: &str, records: Option<Records>) {
        match records {
            Some(records) => {
                self.services.entry(namespace.into()).or_default().insert(name.into(), records);
            }
            None => {
                if let Some(services) = self.services.get_mut(namespace) {
                    services.remove(name);
                    if services.is_empty() {
                        self.services.remove(namespace);
                    }
                }
            }
        }
    }

    /// The records of a service.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Records> {
        self.services.get(namespace)?.get(name)
    }

    /// Whether any service is in the namespace: then the namespace's own name exists, without records.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.services.contains_key(namespace)
    }

    /// The names (below the domain) that an address has: the service of a virtual address, else the endpoints. Reverse
    /// look-ups are rare, so they search.
    pub fn names_of(&self, address: Ipv4Addr) -> Vec<String> {
        let mut names = Vec::new();
        for (namespace, services) in &self.services {
            for (service, records) in services {
                match records {
                    Records::Cluster { address: virtual_ip, .. } if *virtual_ip == address => {
                        names.push(format!("{service}.{namespace}.svc"));
                    }
                    Records::Headless(endpoints) | Records::Cluster { endpoints, .. } => {
                        let here = endpoints.iter().filter(|e| e.address == address);
                        names.extend(here.map(|e| format!("{}.{service}.{namespace}.svc", e.host)));
                    }
                    Records::External(_) => {}
                }
            }
        }
        names
    }
}

/// What a service comes to with its slices.
pub fn records(service: &Service, slices: &[Arc<EndpointSlice>]) -> Records {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Records::External(spec.external_name.unwrap_or_default());
    }
    let unready = spec.publish_not_ready_addresses == Some(true);
    let mut endpoints: BTreeSet<Endpoint> = BTreeSet::new();
    for slice in slices {
        let ports = slice.ports.clone().unwrap_or_default();
        let ports: Vec<Port> = ports.into_iter().filter_map(|p| port(p.name, p.protocol, p.port?)).collect();
        for endpoint in slice.endpoints.iter() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                continue;
            };
            if ready || unready {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                endpoints.insert(Endpoint { host, address, ports: ports.clone() });
            }
        }
    }
    let endpoints = endpoints.into_iter().collect();
    if let Some(address) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
        let ports = spec.ports.unwrap_or_default();
        let ports = ports.into_iter().filter_map(|p| port(p.name, p.protocol, p.port)).collect();
        return Records::Cluster { address, ports, endpoints };
    }
    Records::Headless(endpoints)
}

fn port(name: Option<String>, protocol: Option<String>, number: i32) -> Option<Port> {
    let protocol = protocol.as_deref().unwrap_or("TCP").to_lowercase();
    Some(Port { name: name.unwrap_or_default(), protocol, number: u16::try_from(number).ok()? })
}

/// `10-244-1-2`
pub fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
}

/// The address in `10-244-1-2`.
pub fn undashed(label: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = label.replace('-', ".").parse().ok()?;
    (dashed(address) == label).then_some(address)
}
