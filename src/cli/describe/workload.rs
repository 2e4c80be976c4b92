//! The pages of Deployments and ReplicaSets.
use anyhow::Result;
use serde_json::Value;

use super::{Context, head, owner, pod, put, row, selector, tags, time};
use crate::api::meta;
use crate::cli::jsonpath;

/// A Deployment's page.
pub async fn deployment(context: &Context<'_>, object: &Value) -> Result<String> {
    let mut out = String::new();
    head(&mut out, object);
    put(&mut out, "CreationTimestamp:", &time(meta::text(object, &["metadata", "creationTimestamp"])));
    tags(&mut out, object);
    put(&mut out, "Selector:", &selector(meta::at(object, &["spec", "selector"])));
    numbers(&mut out, object);
    out.push_str(&pod::template_rows(meta::at(object, &["spec", "template"]).unwrap_or(&Value::Null)));
    conditions(&mut out, object);
    replica_sets(context, &mut out, object).await?;
    Ok(out)
}

/// How many there are, and how they are exchanged.
fn numbers(out: &mut String, object: &Value) {
    let count = |field: &str| meta::int(object, &["status", field]).unwrap_or(0);
    let replicas = format!(
        "{} desired | {} updated | {} total | {} available | {} unavailable",
        meta::int(object, &["spec", "replicas"]).unwrap_or(1),
        count("updatedReplicas"),
        count("replicas"),
        count("availableReplicas"),
        count("unavailableReplicas")
    );
    put(out, "Replicas:", &replicas);
    put(out, "StrategyType:", meta::text(object, &["spec", "strategy", "type"]));
    put(out, "MinReadySeconds:", &meta::int(object, &["spec", "minReadySeconds"]).unwrap_or(0).to_string());
    if let Some(rolling) = meta::at(object, &["spec", "strategy", "rollingUpdate"]) {
        let part = |field: &str| rolling.get(field).map(jsonpath::text).unwrap_or_default();
        put(
            out,
            "RollingUpdateStrategy:",
            &format!("{} max unavailable, {} max surge", part("maxUnavailable"), part("maxSurge")),
        );
    }
}

async fn replica_sets(context: &Context<'_>, out: &mut String, object: &Value) -> Result<()> {
    let query = selector(meta::at(object, &["spec", "selector"]));
    let sets = context.list("replicasets", Some(meta::namespace(object)), &[("labelSelector", &query)]).await?;
    let revision = |set: &Value| meta::annotation(set, "deployment.kubernetes.io/revision").map(str::to_owned);
    let own =
        |set: &&Value| meta::controller_of(set).is_some_and(|owner| meta::text(owner, &["uid"]) == meta::uid(object));
    let current = revision(object);
    let line = |set: &Value| {
        let created = meta::int(set, &["status", "replicas"]).unwrap_or(0);
        format!(
            "{} ({created}/{} replicas created)",
            meta::name(set),
            meta::int(set, &["spec", "replicas"]).unwrap_or(0)
        )
    };
    let (new, old): (Vec<&Value>, Vec<&Value>) = sets.iter().filter(own).partition(|set| revision(set) == current);
    if new.is_empty() && old.is_empty() {
        return Ok(());
    }
    for (title, sets) in [("OldReplicaSets:", old), ("NewReplicaSet:", new)] {
        let words: Vec<String> = sets.into_iter().map(line).collect();
        row(out, 0, &[title, &if words.is_empty() { "<none>".to_owned() } else { words.join(", ") }]);
    }
    Ok(())
}

/// A ReplicaSet's page.
pub async fn replica_set(context: &Context<'_>, object: &Value) -> Result<String> {
    let mut out = String::new();
    head(&mut out, object);
    let selector = selector(meta::at(object, &["spec", "selector"]));
    put(&mut out, "Selector:", &selector);
    tags(&mut out, object);
    owner(&mut out, object);
    let current = meta::int(object, &["status", "replicas"]).unwrap_or(0);
    put(
        &mut out,
        "Replicas:",
        &format!("{current} current / {} desired", meta::int(object, &["spec", "replicas"]).unwrap_or(1)),
    );
    let pods = context.list("pods", Some(meta::namespace(object)), &[("labelSelector", &selector)]).await?;
    let own =
        |pod: &&Value| meta::controller_of(pod).is_some_and(|owner| meta::text(owner, &["uid"]) == meta::uid(object));
    let phase =
        |name: &str| pods.iter().filter(own).filter(|pod| meta::text(pod, &["status", "phase"]) == name).count();
    let status = format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        phase("Running"),
        phase("Pending"),
        phase("Succeeded"),
        phase("Failed")
    );
    put(&mut out, "Pods Status:", &status);
    out.push_str(&pod::template_rows(meta::at(object, &["spec", "template"]).unwrap_or(&Value::Null)));
    conditions(&mut out, object);
    Ok(out)
}

fn conditions(out: &mut String, object: &Value) {
    let all = meta::list(object, &["status", "conditions"]);
    if all.is_empty() {
        return;
    }
    row(out, 0, &["Conditions:"]);
    row(out, 1, &["Type", "Status", "Reason"]);
    row(out, 1, &["----", "------", "------"]);
    for condition in all {
        let text = |field: &str| meta::text(condition, &[field]);
        row(out, 1, &[&format!("{} ", text("type")), text("status"), text("reason")]);
    }
}
