//! EndpointSlice mirroring: the Endpoints that people write for a service without selector, as the slices that the
//! proxy and DNS read.
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointPort as Port, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};

use super::{
    Context, Controller, Loop,
    endpointslice::{Groups, blank, service_of, spread},
    services::members,
};
use crate::client::{Action, Informer, ObjectKey, Plan, Result, WorkQueue, meta_labels};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Says of Endpoints that they are the lock of an election and not addresses.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// The index of our slices by their service.
const BY_SERVICE: &str = "mirrored";
/// The most addresses of a subset that are mirrored, as in Kubernetes: they fit one slice.
const SUBSET_SIZE: usize = 1000;

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (services, endpoints) = (context.informers.of::<Service>(), context.informers.of::<Endpoints>());
    let slices = context.informers.of::<EndpointSlice>();
    slices.add_index(BY_SERVICE, |slice| service_of(slice, MANAGER).map(|key| key.to_string()).into_iter().collect());
    let queue = Arc::new(WorkQueue::default());
    services.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    endpoints.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    slices.feed(queue.clone(), |change| change.either().filter_map(|s| service_of(s, MANAGER)).collect::<Vec<_>>());
    context.run(Mirror { services, endpoints, slices }, queue)
}

struct Mirror {
    services: Arc<Informer<Service>>,
    endpoints: Arc<Informer<Endpoints>>,
    slices: Arc<Informer<EndpointSlice>>,
}

struct View {
    service: Option<Arc<Service>>,
    endpoints: Option<Arc<Endpoints>>,
    /// Our slices of them.
    slices: Vec<Arc<EndpointSlice>>,
}

impl Controller for Mirror {
    type Key = ObjectKey;
    type View = View;
    const NAME: &'static str = "endpoint-slice-mirroring-controller";

    async fn observe(&self, key: &ObjectKey) -> Result<View> {
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        Ok(View { service: self.services.get(key), endpoints: self.endpoints.get(key), slices })
    }

    fn plan(&self, _: &ObjectKey, view: &View, _: Timestamp) -> Plan<Action> {
        plan(view)
    }
}

fn plan(view: &View) -> Plan<Action> {
    // What is not mirrored has no slices, as Endpoints without addresses have none.
    let nothing = Endpoints::default();
    let both = view.endpoints.as_deref().zip(view.service.as_deref());
    let endpoints =
        both.filter(|(endpoints, of)| is_mirrored(endpoints, of)).map_or(&nothing, |(endpoints, _)| endpoints);
    let blank = blank(endpoints, MANAGER, meta_labels(&endpoints.metadata).clone());
    let (mut steps, left) = spread(&blank, SUBSET_SIZE, groups(endpoints), &view.slices);
    steps.extend(left.into_iter().map(Action::delete));
    Plan::of(steps)
}

/// Not those of a service with selector: its slices are computed from pods, and so are its Endpoints.
fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let meta = &endpoints.metadata;
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let skipped = meta_labels(meta).get(SKIP_LABEL).is_some_and(|skip| skip == "true");
    let lock = meta.annotations.as_ref().is_some_and(|all| all.contains_key(LEADER_ANNOTATION));
    selector.is_none_or(|selector| selector.is_empty()) && !skipped && !lock && meta.deletion_timestamp.is_none()
}

fn groups(endpoints: &Endpoints) -> Groups {
    let mut groups = Groups::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let ipv4 = ready.chain(unready).filter(|(address, _)| !address.ip.contains(':'));
        let members = members(&mut groups, ports);
        for (address, ready) in ipv4.take(SUBSET_SIZE) {
            members.entry(address.ip.clone()).or_insert_with(|| endpoint(address, ready));
        }
    }
    groups
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::Resource;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;
    use crate::controllers::tests::world::World;

    /// A service without selector, and what somebody wrote for it.
    fn world() -> World {
        let mut world = World::default();
        let service = json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {"ports": [{"port": 5432}]}});
        world.put(&serde_json::from_value::<Service>(service).unwrap());
        let endpoints = json!({"metadata": {"name": "db", "namespace": "ns", "labels": {"team": "a"}}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1", "hostname": "one"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
            {"addresses": [{"ip": "10.0.0.3"}, {"ip": "fd00::3"}], "ports": [{"port": 9000, "protocol": "TCP"}]},
        ]});
        world.put(&serde_json::from_value::<Endpoints>(endpoints).unwrap());
        world
    }

    fn settle(world: &mut World) -> Vec<Arc<EndpointSlice>> {
        for _ in 0..3 {
            let view = View { service: world.list().pop(), endpoints: world.list().pop(), slices: world.list() };
            let steps = plan(&view).steps;
            if steps.is_empty() {
                return world.list();
            }
            world.perform(&steps);
        }
        panic!("does not settle");
    }

    #[test]
    fn every_subset_has_its_slice_which_follows_it() {
        let mut world = world();
        let slices = settle(&mut world);
        let say = |slice: &Arc<EndpointSlice>| json!([slice.endpoints, slice.ports]);
        let first = json!([
            [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "hostname": "one"},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}],
            [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        ]);
        let second = json!([
            [{"addresses": ["10.0.0.3"], "conditions": {"ready": true}}],
            [{"name": "", "port": 9000, "protocol": "TCP"}],
        ]);
        assert_eq!(slices.iter().map(say).collect::<Vec<_>>(), [first, second]);
        let labels = json!({"team": "a", "kubernetes.io/service-name": "db",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"});
        assert_eq!(json!(slices[0].metadata.labels), labels);
        assert_eq!(slices[0].metadata.owner_references.as_ref().unwrap()[0].kind, "Endpoints");

        world.change::<Endpoints>(|endpoints| {
            let subsets = endpoints.subsets.as_mut().unwrap();
            let shared = subsets[0].addresses.clone().unwrap();
            subsets[1].addresses.as_mut().unwrap().extend(shared);
        });
        let sizes: Vec<_> = settle(&mut world).iter().map(|slice| slice.endpoints.len()).collect();
        assert_eq!(sizes, [2, 2], "an address of two subsets is in both slices");

        world.change::<Endpoints>(|endpoints| {
            let subsets = endpoints.subsets.as_mut().unwrap();
            subsets.pop();
            subsets[0].not_ready_addresses = None;
        });
        let after = settle(&mut world);
        assert_eq!((after.len(), &after[0].metadata.name), (1, &slices[0].metadata.name), "the slice stays");
        assert_eq!(after[0].endpoints, slices[0].endpoints[..1]);
    }

    fn remove<K: Resource<DynamicType = ()> + DeserializeOwned>(world: &mut World) {
        let object = world.list::<K>().pop().unwrap();
        world.perform(&[Action::delete(object.as_ref())]);
    }

    #[test]
    fn what_is_not_mirrored_has_no_slices() {
        let one = |key: &str, value: &str| Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
        let changes: [&dyn Fn(&mut World); 6] = [
            &|world: &mut World| {
                world.change::<Endpoints>(|endpoints| endpoints.metadata.labels = one(SKIP_LABEL, "true"))
            },
            &|world: &mut World| {
                world.change::<Endpoints>(|endpoints| endpoints.metadata.annotations = one(LEADER_ANNOTATION, "{}"))
            },
            &|world: &mut World| world.change::<Endpoints>(|endpoints| endpoints.subsets = None),
            &|world: &mut World| {
                world.change::<Service>(|service| service.spec.as_mut().unwrap().selector = one("app", "db"))
            },
            &remove::<Endpoints>,
            &remove::<Service>,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut world = world();
            assert_eq!(settle(&mut world).len(), 2);
            change(&mut world);
            assert!(settle(&mut world).is_empty(), "change {number}");
        }
    }
}
