//! Endpoints: the addresses behind a service, in their old form.
use super::check::At;
use super::common::fill;
use super::{Kind, Strategy, Sub, names};
use crate::api::printers;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

/// The row.
pub fn rows() -> Vec<Kind> {
    vec![Kind {
        short_names: &["ep"],
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        strategy: Strategy { default: defaults, validate: rules, ..Strategy::PLAIN },
        columns: printers::ENDPOINTS,
        ..Kind::row::<core::Endpoints>()
    }]
}

fn defaults(endpoints: &mut Value) {
    fill(endpoints, "subsets.*.ports.*", json!({"protocol": "TCP"}));
}

fn rules(new: &At, _: Option<&Value>, _: Sub) {
    for subset in new.each("subsets") {
        if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
            subset.required("must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            subset.each(list).for_each(|address| address.needs_form("ip", names::ip));
        }
        for port in subset.each("ports") {
            port.port("port");
            port.one_of("protocol", &["SCTP", "TCP", "UDP"]);
        }
    }
}
