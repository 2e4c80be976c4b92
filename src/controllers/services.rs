//! Which pods a service has, at which ports; shared by Endpoints and EndpointSlices.
use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::pods;
use crate::client::{Change, Informer, ObjectKey, WorkQueue, meta_labels};

/// Says on slices and endpoints that the service has no address of its own.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// A service's selector; `None` for services whose endpoints are somebody else's business.
pub(super) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

/// Whether the service has no cluster address.
fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether pods that are not ready are published too.
pub(super) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// Whether the service selects the pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = meta_labels(&pod.metadata);
    selector(service).is_some_and(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
}

/// The number of the service's port on this pod: given, the same as the service's, or by the name of a container port.
/// `None` when the pod has no port of that name.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    // Restartable init containers (sidecars) serve as well.
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
        .next()
}

/// The service's ports with their numbers on this pod; those that the pod does not have are left out.
pub(super) fn ports<'a>(service: &'a Service, pod: &'a Pod) -> impl Iterator<Item = (&'a ServicePort, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.filter_map(|port| Some((port, target_port(port, pod)?)))
}

/// The members of the group that has these ports.
pub(super) fn members<P: PartialEq, M: Default>(groups: &mut Vec<(P, M)>, ports: P) -> &mut M {
    let place = groups.iter().position(|(known, _)| *known == ports).unwrap_or_else(|| {
        groups.push((ports, M::default()));
        groups.len() - 1
    });
    &mut groups[place].1
}

/// The port's protocol.
pub(super) fn protocol(port: &ServicePort) -> String {
    port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())
}

/// The service's labels, and the one that says that it is headless if it is.
pub(super) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = meta_labels(&service.metadata).clone();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// The pod as an endpoint refers to it.
pub(super) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The pod's IPv4 address.
pub(super) fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    all.into_iter().find(|ip| !ip.is_empty() && !ip.contains(':'))
}

/// The pod's own DNS name below the service, if it has one.
pub(super) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| named && !hostname.is_empty())
}

/// Wakes the services that select a pod when something changes that they publish of it.
pub(super) fn wake_by_pods(pods: &Informer<Pod>, services: Arc<Informer<Service>>, queue: Arc<WorkQueue<ObjectKey>>) {
    pods.feed(queue, move |change| {
        if !matters(change) {
            return Vec::new();
        }
        let namespace = change.latest().metadata.namespace.clone().unwrap_or_default();
        let concerned = |service: &&Arc<Service>| change.either().any(|pod| selects(service, pod));
        services.list_in(&namespace).iter().filter(concerned).map(|s| ObjectKey::of(s.as_ref())).collect()
    });
}

fn matters(change: &Change<Pod>) -> bool {
    let published = |pod: &Arc<Pod>| {
        let spec = pod.spec.as_ref();
        (
            address(pod).map(str::to_owned),
            pods::is_ready(pod),
            pods::is_terminal(pod),
            pod.metadata.deletion_timestamp.is_some(),
            spec.and_then(|spec| spec.node_name.clone()),
            pod.metadata.labels.clone(),
        )
    };
    change.old.as_ref().map(published) != change.new.as_ref().map(published)
}
