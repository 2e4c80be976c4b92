//! Deployments and ReplicaSets.
use super::check::At;
use super::common::fill;
use super::{Kind, Strategy, Sub, pod, template};
use crate::api::{meta, printers};
use k8s_openapi::api::apps::v1 as apps;
use serde_json::{Value, json};

/// The rows.
pub fn rows() -> Vec<Kind> {
    let deployment = Kind {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &["scale", "status"],
        strategy: Strategy {
            default: deployment_defaults,
            prepare: deployment_prepare,
            validate: deployment_rules,
            warnings: template::warnings,
        },
        columns: printers::DEPLOYMENT,
        ..Kind::row::<apps::Deployment>()
    };
    let replica_set = Kind {
        short_names: &["rs"],
        categories: &["all"],
        subresources: &["scale", "status"],
        strategy: Strategy {
            default: replica_set_defaults,
            prepare: replica_set_prepare,
            validate: replica_set_rules,
            warnings: template::warnings,
        },
        columns: printers::REPLICA_SET,
        fields: |r: &Value| {
            let replicas = meta::int(r, &["status", "replicas"]).unwrap_or(0);
            vec![("status.replicas", replicas.to_string())]
        },
        ..Kind::row::<apps::ReplicaSet>()
    };
    vec![deployment, replica_set]
}

fn deployment_defaults(deployment: &mut Value) {
    pod::defaults::template(deployment, "spec.template");
    let spec = json!({"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "strategy": {}});
    fill(deployment, "spec", spec);
    fill(deployment, "spec.strategy", json!({"type": "RollingUpdate"}));
    if meta::text(deployment, &["spec", "strategy", "type"]) == "RollingUpdate" {
        fill(deployment, "spec.strategy", json!({"rollingUpdate": {}}));
        fill(deployment, "spec.strategy.rollingUpdate", json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
    }
}

fn deployment_prepare(deployment: &mut Value, old: Option<&Value>, sub: Sub) {
    match old {
        None => deployment["status"] = json!({}),
        // The labels of a deployment are not for its controller's status writes to change.
        Some(old) if sub == Sub::Status => meta::keep(deployment, old, "labels"),
        Some(_) => {}
    }
}

fn deployment_rules(new: &At, old: Option<&Value>, sub: Sub) {
    if sub == Sub::Status {
        return counts(new);
    }
    let spec = new.child("spec");
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        spec.not_negative(field);
    }
    template::selector(new, "deployment");
    template::template(new, "Deployment");
    if let Some(strategy) = spec.given("strategy") {
        self::strategy(&strategy);
    }
    let ready = spec.int("minReadySeconds").unwrap_or(0);
    if spec.int("progressDeadlineSeconds").is_some_and(|deadline| (0..=ready).contains(&deadline)) {
        spec.child("progressDeadlineSeconds").invalid("must be greater than minReadySeconds");
    }
    new.immutable(old, "spec.selector");
}

fn strategy(strategy: &At) {
    strategy.one_of("type", &["Recreate", "RollingUpdate"]);
    let Some(rolling) = strategy.given("rollingUpdate") else {
        return;
    };
    if strategy.text("type") == "Recreate" {
        return rolling.forbidden("may not be specified when strategy `type` is 'Recreate'");
    }
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    template::count_or_percent(&unavailable);
    template::count_or_percent(&surge);
    if template::is_zero(unavailable.value) && template::is_zero(surge.value) {
        let value = rolling.get("maxUnavailable").cloned().unwrap_or_else(|| 0.into());
        unavailable.invalid_as(value, "may not be 0 when `maxSurge` is 0");
    }
    let percent = unavailable.value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        unavailable.invalid("must not be greater than 100%");
    }
}

fn replica_set_defaults(replica_set: &mut Value) {
    pod::defaults::template(replica_set, "spec.template");
    fill(replica_set, "spec", json!({"replicas": 1}));
}

fn replica_set_prepare(replica_set: &mut Value, old: Option<&Value>, _: Sub) {
    if old.is_none() {
        replica_set["status"] = json!({"replicas": 0});
    }
}

fn replica_set_rules(new: &At, old: Option<&Value>, sub: Sub) {
    if sub == Sub::Status {
        return counts(new);
    }
    let spec = new.child("spec");
    spec.not_negative("replicas");
    spec.not_negative("minReadySeconds");
    template::selector(new, "deployment");
    template::template(new, "ReplicaSet");
    new.immutable(old, "spec.selector");
}

/// Counters of a status: not negative, and no part exceeds the whole.
fn counts(new: &At) {
    let status = new.child("status");
    for field in ["observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        status.not_negative(field);
    }
    let count = |field: &str| status.int(field).unwrap_or(0);
    for part in ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        if count(part) > count("replicas") {
            status.child(part).invalid_as(count(part), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let why = "cannot be greater than readyReplicas";
        status.child("availableReplicas").invalid_as(count("availableReplicas"), why);
    }
}
