//! What a node should serve, from the objects: pure.
use crate::net::{Cluster, Endpoint, NodeNet, Protocol, ServicePort, Services};
use k8s_openapi::api::{
    core::v1::{Node, Service, ServicePort as Port},
    discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
};

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS: i32 = 10_800;

/// All services of the cluster, before they are looked at from one node.
pub struct View(Vec<Candidate>);

/// Endpoints and the nodes they run on.
type Placed = BTreeSet<(Endpoint, Option<String>)>;

/// One port of a Service, before it is looked at from one node.
struct Candidate {
    /// At the cluster's own addresses.
    port: ServicePort,
    /// Its addresses for the world: those of load balancers.
    outside: BTreeSet<Ipv4Addr>,
    /// The ready ones, and those that end but still serve.
    endpoints: [Placed; 2],
    internal_local: bool,
    external_local: bool,
}

impl View {
    pub fn new(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> View {
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
            let name = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
            if let (Some(namespace), Some(name)) = (&slice.metadata.namespace, name) {
                by_service.entry((namespace, name)).or_default().push(slice);
            }
        }
        let mut out: Vec<_> = services
            .iter()
            .flat_map(|s| {
                let key = (
                    s.metadata.namespace.as_deref().unwrap_or_default(),
                    s.metadata.name.as_deref().unwrap_or_default(),
                );
                candidates(s, key, by_service.get(&key).map_or(&[], Vec::as_slice))
            })
            .collect();
        out.sort_by(|a, b| a.port.name.cmp(&b.port.name));
        View(out)
    }

    /// As the node of that name must serve them.
    pub fn services(&self, node: &str) -> Services {
        Services { ports: self.0.iter().flat_map(|c| c.on(node)).collect() }
    }
}

impl Candidate {
    /// As that node must serve it. The internal policy is for the cluster's own addresses alone: with Local, what leads
    /// in from outside is a port of its own.
    fn on(&self, node: &str) -> Vec<ServicePort> {
        let here = || self.usable(Some(node));
        let open = self.port.node_port.is_some() || !self.outside.is_empty();
        let external = (self.external_local && open).then(here);
        let mut port = ServicePort { endpoints: self.usable(None), external, ..self.port.clone() };
        if !self.internal_local {
            port.addresses.extend(&self.outside);
            return vec![port];
        }
        let inside = ServicePort { endpoints: here(), node_port: None, ..self.port.clone() };
        port.name += "/outside";
        port.addresses = self.outside.clone();
        if open { vec![inside, port] } else { vec![inside] }
    }

    /// The endpoints on a node, or on any: those that are ready; when none is, those that still serve while they end, so
    /// that the last pod of a rolling update does not take the service with it.
    fn usable(&self, node: Option<&str>) -> BTreeSet<Endpoint> {
        let fit = |placed: &Placed| -> BTreeSet<_> {
            placed.iter().filter(|(_, n)| node.is_none() || n.as_deref() == node).map(|(e, _)| *e).collect()
        };
        self.endpoints.iter().map(fit).find(|some| !some.is_empty()).unwrap_or_default()
    }
}

fn candidates(service: &Service, (namespace, name): (&str, &str), slices: &[&EndpointSlice]) -> Vec<Candidate> {
    let Some(spec) = &service.spec else {
        return vec![];
    };
    let [own, outside] = addresses(service);
    if own.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return vec![];
    }
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let configured = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
    let affinity = sticky.then(|| configured.unwrap_or(AFFINITY_SECONDS).max(1) as u32);
    let has_node_ports = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let protocol = protocol(p.protocol.as_deref())?;
        let word = p.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| p.port.to_string());
        let port = ServicePort {
            name: format!("{namespace}/{name}:{word}"),
            protocol,
            addresses: own.clone(),
            port: p.port.try_into().ok()?,
            node_port: p.node_port.filter(|n| has_node_ports && *n > 0).and_then(|n| n.try_into().ok()),
            endpoints: BTreeSet::new(),
            external: None,
            affinity,
        };
        Some(Candidate {
            port,
            outside: outside.clone(),
            endpoints: endpoints(slices, p),
            internal_local: local(&spec.internal_traffic_policy),
            external_local: local(&spec.external_traffic_policy),
        })
    });
    ports.collect()
}

/// Cluster IPs; load balancer IPs. None for headless services. externalIPs are left out: with them whoever may make a
/// Service takes others' traffic, that to cluster DNS too (CVE-2020-8554).
fn addresses(service: &Service) -> [BTreeSet<Ipv4Addr>; 2] {
    let Some(spec) = &service.spec else {
        return Default::default();
    };
    let own = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    let own: BTreeSet<Ipv4Addr> = own.filter_map(|ip| ip.parse().ok()).collect();
    if own.is_empty() {
        return Default::default();
    }
    let balancer =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref()).into_iter().flatten();
    [own, balancer.filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()]
}

/// The endpoints of a port: those that are ready, and those that end but still serve.
fn endpoints(slices: &[&EndpointSlice], port: &Port) -> [Placed; 2] {
    let all = slices.iter().flat_map(|slice| {
        let numbers = slice.ports.iter().flatten().filter(|p| {
            p.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && protocol(p.protocol.as_deref()) == protocol(port.protocol.as_deref())
        });
        numbers
            .filter_map(|p| p.port?.try_into().ok())
            .flat_map(|number: u16| slice.endpoints.iter().map(move |e| (e, number)))
    });
    let all: Vec<_> = all.collect();
    let pick = |fit: fn(&SliceEndpoint) -> bool| -> Placed {
        all.iter()
            .filter(|(e, _)| fit(e))
            .filter_map(|(e, port)| {
                Some((Endpoint { ip: e.addresses.first()?.parse().ok()?, port: *port }, e.node_name.clone()))
            })
            .collect()
    };
    [
        pick(|e| e.conditions.as_ref().and_then(|c| c.ready) != Some(false)),
        pick(|e| e.conditions.as_ref().is_some_and(|c| c.serving == Some(true) && c.terminating == Some(true))),
    ]
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The nodes as the overlay needs them; those without addresses yet are left out.
pub fn peers(cluster: &Cluster, nodes: &[Arc<Node>]) -> Vec<NodeNet> {
    let peer = |node: &Arc<Node>| {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        let underlay_ip: Ipv4Addr = addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()?;
        let pod_cidr = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
        // A node of another network (the host itself, say) is no peer of this overlay.
        let index = cluster.index_of(underlay_ip)?;
        Some(NodeNet { name: node.metadata.name.clone()?, index, underlay_ip, pod_cidr })
    };
    nodes.iter().filter_map(peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(yaml: &str) -> Arc<Service> {
        Arc::new(serde_json::from_value(serde_yaml::from_str(yaml).unwrap()).unwrap())
    }

    const WEB: &str = "{metadata: {namespace: d, name: web}, spec: {type: NodePort, clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], ports: [{name: http, port: 80, nodePort: 30080, targetPort: web}]}}";

    /// `name:ready,serving,terminating@node` for each endpoint.
    fn slice(service: &str, port_name: &str, port: u16, endpoints: &[(&str, &str, &str)]) -> Arc<EndpointSlice> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(ip, state, node)| serde_json::json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": *state == "ready", "serving": *state != "down", "terminating": *state == "ending"}}))
            .collect();
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "d", "name": format!("{service}-x"), "labels": {SERVICE_NAME: service}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
            }))
            .unwrap(),
        )
    }

    fn ends(set: &BTreeSet<Endpoint>) -> Vec<String> {
        set.iter().map(|e| format!("{}:{}", e.ip, e.port)).collect()
    }

    #[test]
    fn ready_endpoints_of_the_port_of_that_name() {
        let slices = [
            slice(
                "web",
                "http",
                8080,
                &[("10.244.1.2", "ready", "n1"), ("10.244.2.2", "down", "n2"), ("10.244.2.3", "ending", "n2")],
            ),
            slice("web", "admin", 9090, &[("10.244.1.2", "ready", "n1")]),
            slice("other", "http", 8080, &[("10.244.9.9", "ready", "n1")]),
        ];
        let got = View::new(&[service(WEB)], &slices).services("n1");
        assert_eq!(got.ports.len(), 1);
        let port = &got.ports[0];
        assert_eq!((port.name.as_str(), port.port, port.node_port), ("d/web:http", 80, Some(30080)));
        assert_eq!(ends(&port.endpoints), ["10.244.1.2:8080"]);
        assert_eq!(port.external, None);
    }

    #[test]
    fn the_last_endpoints_serve_while_they_end() {
        let slices = [slice("web", "http", 8080, &[("10.244.2.2", "down", "n2"), ("10.244.2.3", "ending", "n2")])];
        let got = View::new(&[service(WEB)], &slices).services("n1");
        assert_eq!(ends(&got.ports[0].endpoints), ["10.244.2.3:8080"]);
    }

    #[test]
    fn local_policies_look_from_the_node() {
        let (internal, external) = (", internalTrafficPolicy: Local", ", externalTrafficPolicy: Local");
        let both = [internal, external].concat();
        let world = "d/web:http/outside at 192.0.2.9 30080: 10.244.1.2:8080 10.244.2.2:8080";
        let whole = "d/web:http at 10.96.0.20 192.0.2.9 30080: 10.244.1.2:8080 10.244.2.2:8080";
        for (policies, node, want) in [
            ("", "n1", vec![whole.to_string()]),
            (external, "n1", vec![format!("{whole} or 10.244.1.2:8080")]),
            (external, "n3", vec![format!("{whole} or 10.244.3.2:8080")]),
            (external, "n4", vec![format!("{whole} or ")]),
            (internal, "n1", vec!["d/web:http at 10.96.0.20 0: 10.244.1.2:8080".into(), world.into()]),
            (internal, "n3", vec!["d/web:http at 10.96.0.20 0: 10.244.3.2:8080".into(), world.into()]),
            (internal, "n4", vec!["d/web:http at 10.96.0.20 0: ".into(), world.into()]),
            (
                both.as_str(),
                "n2",
                vec!["d/web:http at 10.96.0.20 0: 10.244.2.2:8080".into(), format!("{world} or 10.244.2.2:8080")],
            ),
        ] {
            assert_eq!(seen(policies, node), want, "{policies} on {node}");
        }
    }

    /// What a node serves for `WEB` with a load balancer and these policies: `name at addresses node-port: endpoints or
    /// external endpoints`. On n3 the only endpoint is one that ends, n4 has none.
    fn seen(policies: &str, node: &str) -> Vec<String> {
        let open = WEB.strip_suffix('}').unwrap().replace("NodePort", &format!("NodePort{policies}"));
        let web = format!("{open}, status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.9}}]}}}}}}");
        let ready = [("10.244.1.2", "ready", "n1"), ("10.244.2.2", "ready", "n2"), ("10.244.3.2", "ending", "n3")];
        let words = |p: &ServicePort| {
            let at: Vec<_> = p.addresses.iter().map(Ipv4Addr::to_string).collect();
            let external = p.external.as_ref().map(|e| format!(" or {}", ends(e).join(" "))).unwrap_or_default();
            let (at, to) = (at.join(" "), ends(&p.endpoints).join(" "));
            format!("{} at {at} {}: {to}{external}", p.name, p.node_port.unwrap_or_default())
        };
        let view = View::new(&[service(&web)], &[slice("web", "http", 8080, &ready)]);
        view.services(node).ports.iter().map(words).collect()
    }

    #[test]
    fn an_internal_service_has_nothing_outside() {
        let policies =
            "ClusterIP, internalTrafficPolicy: Local, externalTrafficPolicy: Local, sessionAffinity: ClientIP";
        let slices = [slice("web", "http", 8080, &[("10.244.1.2", "ready", "n1"), ("10.244.2.2", "ready", "n2")])];
        let got = View::new(&[service(&WEB.replace("NodePort", policies))], &slices).services("n1");
        let [port] = &got.ports[..] else { panic!("{got:?}") };
        assert_eq!((ends(&port.endpoints), &port.external), (vec!["10.244.1.2:8080".to_string()], &None));
        assert_eq!(port.affinity, Some(10_800));
    }

    #[test]
    fn headless_and_external_names_have_no_rules() {
        for spec in [
            "clusterIP: None, ports: [{port: 80}]",
            "type: ExternalName, externalName: example.org",
            "ports: [{port: 80}]",
        ] {
            let s = service(&format!("{{metadata: {{namespace: d, name: x}}, spec: {{{spec}}}}}"));
            assert!(View::new(&[s], &[]).services("n1").ports.is_empty(), "{spec}");
        }
    }

    #[test]
    fn peers_are_nodes_with_both_addresses() {
        let node = |yaml: &str| Arc::new(serde_json::from_value::<Node>(serde_yaml::from_str(yaml).unwrap()).unwrap());
        let cluster = Cluster {
            name: "t".into(),
            underlay: "172.30.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            mtu: 1500,
        };
        let nodes = [
            node(
                "{metadata: {name: n2}, spec: {podCIDR: 10.244.2.0/24}, status: {addresses: [{type: Hostname, address: n2}, {type: InternalIP, address: 172.30.0.12}]}}",
            ),
            node("{metadata: {name: new}, spec: {podCIDR: 10.244.3.0/24}}"),
            node(
                "{metadata: {name: far}, spec: {podCIDR: 10.244.4.0/24}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}",
            ),
        ];
        assert_eq!(peers(&cluster, &nodes), [cluster.node("n2", 2).unwrap()]);
    }
}
