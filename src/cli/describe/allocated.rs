//! What the pods of a node ask for and may use, as `describe node` adds it up.
use std::collections::BTreeMap;

use serde_json::Value;

use super::{put, row};
use crate::api::quantity::{self, Quantity};
use crate::api::{duration, meta};

/// The amounts of a pod or of several, by resource.
type Amounts = BTreeMap<String, Quantity>;

/// A line a pod, and the sums.
pub fn rows(out: &mut String, node: &Value, pods: &[Value]) {
    let allocatable = amounts(node, &["status", "allocatable"]);
    let share = |amounts: &Amounts, name: &str| {
        let amount = amounts.get(name).copied().unwrap_or_default();
        let all = allocatable.get(name).copied().unwrap_or_default();
        let part = |amount: Quantity| if name == "cpu" { amount.milli() } else { amount.value() } as f64;
        let percent = if all.is_zero() { 0.0 } else { part(amount) / part(all) * 100.0 };
        format!("{amount} ({}%)", percent as i64)
    };
    put(out, "Non-terminated Pods:", &format!("({} in total)", pods.len()));
    row(out, 1, &["Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"]);
    row(out, 1, &["---------", "----", "", "------------", "----------", "---------------", "-------------", "---"]);
    let mut sums = [Amounts::new(), Amounts::new()];
    for pod in pods {
        let [requests, limits] = ["requests", "limits"].map(|field| of_pod(pod, field));
        let age = duration::since(meta::text(pod, &["metadata", "creationTimestamp"]), jiff::Timestamp::now());
        let mut cells = vec![meta::namespace(pod).to_owned(), meta::name(pod).to_owned(), String::new()];
        cells.extend(["cpu", "memory"].iter().flat_map(|name| [share(&requests, name), share(&limits, name)]));
        cells.push(age);
        row(out, 1, &cells.iter().map(String::as_str).collect::<Vec<_>>());
        add(&mut sums[0], &requests);
        add(&mut sums[1], &limits);
    }
    row(out, 0, &["Allocated resources:"]);
    row(out, 1, &["(Total limits may be over 100 percent, i.e., overcommitted.)"]);
    row(out, 1, &["Resource", "Requests", "Limits"]);
    row(out, 1, &["--------", "--------", "------"]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        row(out, 1, &[name, &share(&sums[0], name), &share(&sums[1], name)]);
    }
}

fn amounts(object: &Value, path: &[&str]) -> Amounts {
    let all = meta::map(object, path).into_iter().flatten();
    all.filter_map(|(name, amount)| Some((name.clone(), quantity::of(amount)?))).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(sum) => *sum = *sum + *amount,
            None => drop(sum.insert(name.clone(), *amount)),
        }
    }
}

/// All containers together, or the largest moment of the start: an init container with the sidecars before it.
fn of_pod(pod: &Value, field: &str) -> Amounts {
    let (mut running, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    for container in meta::list(pod, &["spec", "containers"]) {
        add(&mut running, &amounts(container, &["resources", field]));
    }
    for container in meta::list(pod, &["spec", "initContainers"]) {
        let mut moment = sidecars.clone();
        add(&mut moment, &amounts(container, &["resources", field]));
        if meta::text(container, &["restartPolicy"]) == "Always" {
            sidecars = moment.clone();
        }
        raise(&mut starting, moment);
    }
    add(&mut running, &sidecars);
    raise(&mut running, starting);
    // What the pod as a whole asks for wins.
    running.extend(amounts(pod, &["spec", "resources", field]));
    running
}

fn raise(to: &mut Amounts, at_least: Amounts) {
    for (name, amount) in at_least {
        let now = to.entry(name).or_insert(amount);
        *now = (*now).max(amount);
    }
}
