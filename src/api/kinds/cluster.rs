//! What components tell each other: EndpointSlices and Leases.
use super::check::At;
use super::common::fill;
use super::{Kind, Strategy, Sub, names};
use crate::api::printers;
use k8s_openapi::api::{coordination::v1 as coordination, discovery::v1 as discovery};
use serde_json::{Value, json};

/// Most endpoints of a slice.
const MAX_ENDPOINTS: usize = 1000;
/// Most addresses of an endpoint.
const MAX_ADDRESSES: usize = 100;

/// The rows.
pub fn rows() -> Vec<Kind> {
    let lease = Kind {
        strategy: Strategy { validate: lease_rules, ..Strategy::PLAIN },
        columns: printers::LEASE,
        ..Kind::row::<coordination::Lease>()
    };
    let slice = Kind {
        strategy: Strategy { default: slice_defaults, validate: slice_rules, ..Strategy::PLAIN },
        columns: printers::ENDPOINT_SLICE,
        ..Kind::row::<discovery::EndpointSlice>()
    };
    vec![lease, slice]
}

fn lease_rules(new: &At, _: Option<&Value>, _: Sub) {
    let spec = new.child("spec");
    if spec.int("leaseDurationSeconds").is_some_and(|n| n <= 0) {
        spec.child("leaseDurationSeconds").invalid("must be greater than 0");
    }
    spec.not_negative("leaseTransitions");
}

fn slice_defaults(slice: &mut Value) {
    fill(slice, "ports.*", json!({"name": "", "protocol": "TCP"}));
}

fn slice_rules(new: &At, old: Option<&Value>, _: Sub) {
    let kind = new.text("addressType");
    new.needs("addressType");
    new.one_of("addressType", &["FQDN", "IPv4", "IPv6"]);
    new.child("endpoints").at_most_items(MAX_ENDPOINTS);
    for endpoint in new.each("endpoints") {
        let addresses = endpoint.child("addresses");
        if endpoint.list("addresses").is_empty() {
            addresses.required("must contain at least 1 address");
        }
        addresses.at_most_items(MAX_ADDRESSES);
        for (address, text) in endpoint.each_text("addresses") {
            let form = if kind == "FQDN" { names::dns_subdomain } else { names::ip };
            address.says(text, form(text));
        }
    }
    let mut seen = Vec::new();
    for port in new.each("ports") {
        let name = port.text("name");
        port.form("name", names::dns_label);
        port.one_of("protocol", &["SCTP", "TCP", "UDP"]);
        if seen.contains(&name) {
            port.child("name").duplicate_as(name);
        }
        seen.push(name);
    }
    new.immutable(old, "addressType");
}
