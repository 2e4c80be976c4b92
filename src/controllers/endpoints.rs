//! Endpoints: the older form of what EndpointSlices say, one object a service, for who still reads it.
use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServicePort};
use kube::api::ObjectMeta;

use super::{Context, Controller, Loop, pods, services};
use crate::client::{Action, Informer, ObjectKey, Plan, Result, WorkQueue, meta_labels};

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The most addresses in one object, as in Kubernetes; EndpointSlices have them all.
const CAPACITY: usize = 1000;

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (services, pods) = (context.informers.of::<Service>(), context.informers.of::<Pod>());
    let endpoints = context.informers.of::<Endpoints>();
    let queue = Arc::new(WorkQueue::default());
    services.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    endpoints.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    services::wake_by_pods(&pods, services.clone(), queue.clone());
    context.run(EndpointsOf { services, pods, endpoints }, queue)
}

struct EndpointsOf {
    services: Arc<Informer<Service>>,
    pods: Arc<Informer<Pod>>,
    endpoints: Arc<Informer<Endpoints>>,
}

#[derive(Default)]
struct View {
    service: Option<Arc<Service>>,
    /// The pods it selects.
    pods: Vec<Arc<Pod>>,
    endpoints: Option<Arc<Endpoints>>,
}

impl Controller for EndpointsOf {
    type Key = ObjectKey;
    type View = View;
    const NAME: &'static str = "endpoint-controller";

    async fn observe(&self, key: &ObjectKey) -> Result<View> {
        let (service, endpoints) = (self.services.get(key), self.endpoints.get(key));
        let mut pods = Vec::new();
        if let Some(service) = &service {
            pods = self.pods.list_in(&key.namespace);
            pods.retain(|pod| services::selects(service, pod));
        }
        Ok(View { service, pods, endpoints })
    }

    fn plan(&self, _: &ObjectKey, view: &View, _: Timestamp) -> Plan<Action> {
        plan(view)
    }
}

fn plan(view: &View) -> Plan<Action> {
    let Some(service) = view.service.as_deref() else {
        // The service is gone, and nothing owns what is left of it. What others wrote without a service is theirs.
        let ours = |endpoints: &&Arc<Endpoints>| meta_labels(&endpoints.metadata).contains_key(MANAGED_BY_LABEL);
        let left = view.endpoints.as_ref().filter(ours);
        return Plan::of(left.map(|endpoints| Action::delete(endpoints.as_ref())).into_iter().collect());
    };
    if services::selector(service).is_none() || service.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let wanted = endpoints(service, &view.pods);
    let Some(old) = view.endpoints.as_deref() else {
        return Plan::of(vec![Action::create(&wanted)]);
    };
    let mut new = Endpoints { subsets: wanted.subsets, ..old.clone() };
    new.metadata.labels = wanted.metadata.labels;
    let annotations = new.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    annotations.extend(wanted.metadata.annotations.unwrap_or_default());
    Plan::of(Action::update(old, &new).into_iter().collect())
}

/// The ports of a subset, and its ready and not ready addresses, by address.
type Subsets = Vec<(Vec<EndpointPort>, [BTreeMap<String, EndpointAddress>; 2])>;

fn endpoints(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let mut subsets: Subsets = Vec::new();
    let unready = services::publishes_unready(service);
    let (mut count, mut over) = (0, false);
    for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
        let Some(address) = services::address(pod) else {
            continue;
        };
        if pod.metadata.deletion_timestamp.is_some() && !unready {
            continue;
        }
        if count == CAPACITY {
            over = true;
            continue;
        }
        count += 1;
        let list = usize::from(!(unready || pods::is_ready(pod)));
        let lists = services::members(&mut subsets, ports(service, pod));
        lists[list].insert(address.to_owned(), endpoint_address(service, pod, address));
    }
    let subsets: Vec<_> = subsets.into_iter().map(subset).collect();
    let mut labels = services::labels(service);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: over.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())])),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn subset((ports, [ready, unready]): (Vec<EndpointPort>, [BTreeMap<String, EndpointAddress>; 2])) -> EndpointSubset {
    let list = |addresses: BTreeMap<String, EndpointAddress>| {
        (!addresses.is_empty()).then(|| addresses.into_values().collect())
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(unready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let port = |(port, number): (&ServicePort, i32)| EndpointPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: number,
        protocol: Some(services::protocol(port)),
        app_protocol: port.app_protocol.clone(),
    };
    services::ports(service, pod).map(port).collect()
}

fn endpoint_address(service: &Service, pod: &Pod, address: &str) -> EndpointAddress {
    EndpointAddress {
        ip: address.to_owned(),
        hostname: services::hostname(pod, service),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(services::reference(pod)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::tests::world::World;

    #[test]
    fn addresses_are_listed_by_readiness_and_ports_and_go_with_the_service() {
        let mut world = World::default();
        let service = json!({"metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
        world.put(&serde_json::from_value::<Service>(service).unwrap());
        for (name, port, ready) in [("a", 1, "True"), ("b", 1, "False"), ("c", 2, "True")] {
            let pod = json!({
                "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
                "status": {"podIP": format!("10.0.0.{name}"), "conditions": [{"type": "Ready", "status": ready}]},
            });
            world.put(&serde_json::from_value::<Pod>(pod).unwrap());
        }
        let view =
            |world: &World| View { service: world.list().pop(), pods: world.list(), endpoints: world.list().pop() };
        let steps = plan(&view(&world)).steps;
        world.perform(&steps);
        let endpoints = world.list::<Endpoints>().pop().unwrap();
        let ips = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        let subsets = endpoints.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 2);
        assert_eq!(
            (ips(&subsets[0].addresses), ips(&subsets[0].not_ready_addresses)),
            (vec!["10.0.0.a".into()], vec!["10.0.0.b".into()])
        );
        assert_eq!(plan(&view(&world)), Plan::default(), "a second plan is empty");
        let left = View { service: None, pods: Vec::new(), endpoints: Some(endpoints) };
        assert_eq!(plan(&left).steps.len(), 1);
    }
}
