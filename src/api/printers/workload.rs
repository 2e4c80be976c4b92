//! Deployments and ReplicaSets.
use super::{AGE, NAME, integer, joined, selector, text, wide};
use crate::api::kinds::Column;
use crate::api::meta::{int, list, text as field};
use serde_json::Value;

const CONTAINERS: Column =
    wide("Containers", "Names of each container in the template.", |object, _| of_containers(object, "name"));
const IMAGES: Column =
    wide("Images", "Images referenced by each container in the template.", |object, _| of_containers(object, "image"));
const SELECTOR: Column =
    wide("Selector", "Which pods belong to the object.", |object, _| selector(&object["spec"]["selector"]));

/// Columns of Deployments.
pub const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Number of the pod with ready state", |object, _| {
        format!("{}/{}", status(object, "readyReplicas"), desired(object)).into()
    }),
    integer(
        "Up-to-date",
        "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
        |object, _| status(object, "updatedReplicas").into(),
    ),
    integer(
        "Available",
        "Total number of available pods (ready for at least minReadySeconds) targeted by this deployment.",
        |object, _| status(object, "availableReplicas").into(),
    ),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Columns of ReplicaSets.
pub const REPLICA_SET: &[Column] = &[
    NAME,
    integer("Desired", "The number of desired pods.", |object, _| desired(object).into()),
    integer("Current", "The most recently observed number of pods.", |object, _| status(object, "replicas").into()),
    integer("Ready", "The number of pods with a Ready condition.", |object, _| status(object, "readyReplicas").into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn desired(object: &Value) -> i64 {
    int(object, &["spec", "replicas"]).unwrap_or(0)
}

fn status(object: &Value, count: &str) -> i64 {
    int(object, &["status", count]).unwrap_or(0)
}

fn of_containers(object: &Value, what: &str) -> Value {
    joined(list(object, &["spec", "template", "spec", "containers"]).iter().map(|c| field(c, &[what])))
}
