//! EndpointSlices: the addresses behind a service, a hundred a slice, each staying in its slice for as long as it can.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service, ServicePort},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use kube::{Resource, api::ObjectMeta};

use super::{Context, Controller, Loop, pods, services};
use crate::client::{Action, Informer, ObjectKey, Plan, Result, WorkQueue, is_owned_by, meta_labels, owner_reference};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The index of slices by the service they say they belong to.
const BY_SERVICE: &str = "service";
/// The most endpoints in a slice, as in Kubernetes: a change of one pod rewrites at most this much.
const SLICE_SIZE: usize = 100;

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (services, pods) = (context.informers.of::<Service>(), context.informers.of::<Pod>());
    let (slices, nodes) = (context.informers.of::<EndpointSlice>(), context.informers.of::<Node>());
    slices.add_index(BY_SERVICE, |slice| service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect());
    let queue = Arc::new(WorkQueue::default());
    services.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    slices.feed(queue.clone(), |change| change.either().filter_map(|s| service_of(s, MANAGER)).collect::<Vec<_>>());
    services::wake_by_pods(&pods, services.clone(), queue.clone());
    context.run(Slices { services, pods, slices, nodes }, queue)
}

/// The service of a slice, if `manager` writes it.
pub(super) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = meta_labels(&slice.metadata);
    let its = labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == manager);
    let name = labels.get(SERVICE_LABEL).filter(|_| its)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name))
}

struct Slices {
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    slices: Arc<Informer<EndpointSlice>>,
    nodes: Arc<Informer<Node>>,
}

#[derive(Default)]
struct View {
    service: Option<Arc<Service>>,
    /// The pods it selects.
    pods: Vec<Arc<Pod>>,
    /// Our slices of it.
    slices: Vec<Arc<EndpointSlice>>,
    /// Node to zone, for nodes that say theirs.
    zones: BTreeMap<String, String>,
}

impl Controller for Slices {
    type Key = ObjectKey;
    type View = View;
    const NAME: &'static str = "endpoint-slice-controller";

    async fn observe(&self, key: &ObjectKey) -> Result<View> {
        let Some(service) = self.services.get(key) else {
            return Ok(View::default());
        };
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| services::selects(&service, pod));
        let zone = |node: &Arc<Node>| {
            Some((node.metadata.name.clone()?, meta_labels(&node.metadata).get(ZONE_LABEL)?.clone()))
        };
        let zones = self.nodes.list().iter().filter_map(zone).collect();
        Ok(View { service: Some(service), pods, slices: self.slices.by_index(BY_SERVICE, &key.to_string()), zones })
    }

    fn plan(&self, _: &ObjectKey, view: &View, _: Timestamp) -> Plan<Action> {
        plan(view)
    }
}

/// The ports of a slice, in the service's order: all its endpoints have them.
pub(super) type Ports = Vec<EndpointPort>;
/// Endpoints by address, for each set of ports they have.
pub(super) type Groups = Vec<(Ports, BTreeMap<String, Endpoint>)>;

/// Slices of a deleted service are the garbage collector's.
fn plan(view: &View) -> Plan<Action> {
    let Some(service) = view.service.as_deref() else {
        return Plan::default();
    };
    if services::selector(service).is_none() || service.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let (blank, groups) = (blank(service, MANAGER, services::labels(service)), wanted(service, view));
    let none = groups.is_empty();
    let (mut steps, mut left) = spread(&blank, SLICE_SIZE, groups, &view.slices);
    // A service without endpoints keeps one empty slice: readers tell "none" from "not yet".
    if none {
        steps.extend(match left.pop() {
            Some(last) => update(&blank, last, Vec::new()),
            None => Some(Action::create(&blank)),
        });
    }
    steps.extend(left.into_iter().map(Action::delete));
    Plan::of(steps)
}

/// Houses the endpoints in slices of at most `size` that are like `blank`; also returns those that nobody needs.
pub(super) fn spread<'a>(
    blank: &EndpointSlice,
    size: usize,
    mut groups: Groups,
    slices: &'a [Arc<EndpointSlice>],
) -> (Vec<Action>, Vec<&'a EndpointSlice>) {
    let (mut steps, mut left) = (Vec::new(), Vec::new());
    for slice in slices.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
        let mut endpoints = Vec::new();
        if let Some((ports, waiting)) = groups.iter_mut().find(|(ports, _)| same_ports(slice, ports)) {
            endpoints = retain(slice, waiting);
            // Who is not in any other slice either moves in here, but never disturbs a slice that needs no change for
            // it: a new slice is cheaper for every reader than a shifted one.
            let space = size.saturating_sub(endpoints.len());
            let homeless: Vec<String> = homeless(waiting, ports, slices).into_iter().take(space).collect();
            endpoints.extend(homeless.iter().filter_map(|address| waiting.remove(address)));
        }
        if endpoints.is_empty() {
            left.push(slice.as_ref());
        } else {
            steps.extend(update(blank, slice, endpoints));
        }
    }
    for (ports, waiting) in groups {
        let waiting: Vec<Endpoint> = waiting.into_values().collect();
        for endpoints in waiting.chunks(size) {
            let (endpoints, ports) = (endpoints.to_vec(), Some(ports.clone()));
            steps.push(Action::create(&EndpointSlice { endpoints, ports, ..blank.clone() }));
        }
    }
    (steps, left)
}

/// The endpoints the service shall have.
fn wanted(service: &Service, view: &View) -> Groups {
    let mut groups = Groups::new();
    for pod in view.pods.iter().filter(|pod| !pods::is_terminal(pod)) {
        if let Some(address) = services::address(pod) {
            let endpoint = endpoint(service, pod, address, &view.zones);
            services::members(&mut groups, ports(service, pod)).insert(address.to_owned(), endpoint);
        }
    }
    groups
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    let port = |(port, number): (&ServicePort, i32)| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(services::protocol(port)),
        app_protocol: port.app_protocol.clone(),
    };
    services::ports(service, pod).map(port).collect()
}

fn endpoint(service: &Service, pod: &Pod, address: &str, zones: &BTreeMap<String, String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(services::publishes_unready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: services::hostname(pod, service),
        zone: node.as_ref().and_then(|node| zones.get(node).cloned()),
        node_name: node,
        target_ref: Some(services::reference(pod)),
        ..Endpoint::default()
    }
}

fn same_ports(slice: &EndpointSlice, ports: &Ports) -> bool {
    let normal =
        |port: &EndpointPort| EndpointPort { name: Some(port.name.clone().unwrap_or_default()), ..port.clone() };
    slice.ports.iter().flatten().map(normal).eq(ports.iter().cloned()) && slice.address_type == "IPv4"
}

/// Takes from `wanted` those that live in the slice already.
fn retain(slice: &EndpointSlice, wanted: &mut BTreeMap<String, Endpoint>) -> Vec<Endpoint> {
    addresses(slice).filter_map(|address| wanted.remove(address)).collect()
}

fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = &String> {
    slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses)
}

/// Those of `waiting` that are in none of the slices with these ports.
fn homeless(waiting: &BTreeMap<String, Endpoint>, ports: &Ports, slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let same = slices.iter().filter(|slice| same_ports(slice, ports));
    let housed: BTreeSet<&String> = same.flat_map(|slice| addresses(slice)).collect();
    waiting.keys().filter(|address| !housed.contains(address)).cloned().collect()
}

fn update(blank: &EndpointSlice, old: &EndpointSlice, endpoints: Vec<Endpoint>) -> Option<Action> {
    let mut new = EndpointSlice { endpoints, ..old.clone() };
    new.metadata.labels = blank.metadata.labels.clone();
    let owners = &blank.metadata.owner_references;
    if !owners.iter().flatten().all(|owner| is_owned_by(&old.metadata, &owner.uid)) {
        new.metadata.owner_references = owners.clone();
    }
    Action::update(old, &new)
}

/// A slice as `manager` writes it for the service of the owner's name, yet without endpoints.
pub(super) fn blank<O: Resource<DynamicType = ()>>(
    owner: &O,
    manager: &str,
    mut labels: BTreeMap<String, String>,
) -> EndpointSlice {
    let ObjectKey { namespace, name } = ObjectKey::of(owner);
    let generate_name = Some(format!("{name}-"));
    labels.extend([(SERVICE_LABEL.to_owned(), name), (MANAGED_BY_LABEL.to_owned(), manager.to_owned())]);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name,
            namespace: Some(namespace),
            labels: Some(labels),
            owner_references: Some(vec![owner_reference(owner)]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        ..EndpointSlice::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::tests::world::World;

    fn world(spec: serde_json::Value) -> World {
        let mut world = World::default();
        let service = json!({"metadata": {"name": "web", "namespace": "ns", "labels": {"team": "a"}}, "spec": spec});
        world.put(&serde_json::from_value::<Service>(service).unwrap());
        world
    }

    fn add(world: &mut World, number: usize, ready: bool) {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": format!("p{number:03}"), "namespace": "ns", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", number / 250, number % 250),
                "conditions": [{"type": "Ready", "status": status}]},
        });
        world.put(&serde_json::from_value::<Pod>(pod).unwrap());
    }

    fn settle(world: &mut World) -> Vec<Arc<EndpointSlice>> {
        for _ in 0..5 {
            let view = View {
                service: world.list().pop(),
                pods: world.list(),
                slices: world.list(),
                zones: BTreeMap::from([("n".to_owned(), "z".to_owned())]),
            };
            let steps = plan(&view).steps;
            if steps.is_empty() {
                return world.list();
            }
            world.perform(&steps);
        }
        panic!("does not settle");
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let mut world = world(json!({"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80}]}));
        let slices = settle(&mut world);
        assert_eq!(slices.len(), 1);
        assert!(slices[0].endpoints.is_empty());
        let labels = slices[0].metadata.labels.clone().unwrap();
        let expected = json!({"team": "a", "kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
        assert_eq!(serde_json::to_value(labels).unwrap(), expected);
    }

    #[test]
    fn endpoints_say_what_can_be_said_of_their_pods() {
        let mut world =
            world(json!({"selector": {"app": "web"}, "ports": [{"name": "w", "port": 80, "targetPort": "http"}]}));
        add(&mut world, 1, true);
        add(&mut world, 2, false);
        add(&mut world, 3, true);
        world.change::<Pod>(|pod| {
            if pod.metadata.name.as_deref() == Some("p003") {
                pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
            }
        });
        let slices = settle(&mut world);
        assert_eq!(slices.len(), 1);
        let say = |endpoint: &Endpoint| {
            let is = endpoint.conditions.clone().unwrap();
            (endpoint.addresses[0].clone(), is.ready.unwrap(), is.serving.unwrap(), is.terminating.unwrap())
        };
        let endpoints: Vec<_> = slices[0].endpoints.iter().map(say).collect();
        let expected =
            [("10.0.0.1", true, true, false), ("10.0.0.2", false, false, false), ("10.0.0.3", false, true, true)];
        assert_eq!(endpoints, expected.map(|(ip, a, b, c)| (ip.to_owned(), a, b, c)));
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(slices[0].endpoints[0].zone.as_deref(), Some("z"));
    }

    #[test]
    fn a_hundred_fit_a_slice_and_who_lives_in_one_stays_there() {
        let mut world = world(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
        (0..150).for_each(|number| add(&mut world, number, true));
        let mut sizes: Vec<_> = settle(&mut world).iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [50, 100]);
        let before = world.list::<EndpointSlice>();
        (150..160).for_each(|number| add(&mut world, number, true));
        let after = settle(&mut world);
        assert_eq!(after.len(), 2);
        for (old, new) in before.iter().zip(&after) {
            let kept = |address| addresses(new).any(|other| other == address);
            assert!(addresses(old).all(kept));
        }
    }

    #[test]
    fn a_service_without_selector_is_left_alone() {
        assert!(settle(&mut world(json!({"ports": [{"port": 80}]}))).is_empty());
    }
}
