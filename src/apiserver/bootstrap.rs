//! The objects every cluster has: namespaces, and the roles of users and components.
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::registry::{self, store_error};
use super::write::Context;
use super::{ApiServer, Identity};
use crate::api::{ApiError, Kind, find, meta};
use crate::store::{Expect, StoreError};

/// The API group of roles and bindings.
const RBAC: &str = "rbac.authorization.k8s.io";
/// The roles and their rules; the file explains itself.
const ROLES: &str = include_str!("roles.txt");

/// Who has which of the roles: a user, or a group.
const BINDINGS: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "Group", &["system:masters"]),
    ("system:discovery", "Group", &["system:authenticated"]),
    ("system:basic-user", "Group", &["system:authenticated"]),
    ("system:public-info-viewer", "Group", &["system:authenticated", "system:unauthenticated"]),
    ("system:service-account-issuer-discovery", "Group", &["system:serviceaccounts"]),
    ("system:monitoring", "Group", &["system:monitoring"]),
    ("system:node", "Group", &["system:nodes"]),
    ("system:kube-controller-manager", "User", &["system:kube-controller-manager"]),
    ("system:kube-scheduler", "User", &["system:kube-scheduler"]),
    ("system:node-proxier", "User", &["system:kube-proxy"]),
    ("system:coredns", "User", &["system:serviceaccount:kube-system:coredns"]),
];

impl ApiServer {
    /// Makes what is missing; what somebody changed is left as it is.
    pub(super) async fn bootstrap(&self) -> Result<(), ApiError> {
        let cx = Context { identity: Identity::master("system:apiserver"), now: jiff::Timestamp::now() };
        let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease"];
        let namespaces =
            namespaces.map(|name| json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}));
        let mut wanted: Vec<(&str, &str, Value)> = Vec::new();
        wanted.extend(namespaces.map(|o| ("", "namespaces", o)));
        wanted.extend(roles().into_iter().map(|o| (RBAC, "clusterroles", o)));
        wanted.extend(bindings().into_iter().map(|o| (RBAC, "clusterrolebindings", o)));
        let makes = wanted.into_iter().map(|(group, plural, object)| {
            let kind = find(group, "v1", plural);
            self.ensure(&cx, kind, object)
        });
        // Together, so that they share a commit.
        futures::future::try_join_all(makes).await.map(|_| ())
    }

    async fn ensure(&self, cx: &Context, kind: Option<&'static Kind>, mut object: Value) -> Result<(), ApiError> {
        let kind = kind.ok_or_else(ApiError::unknown_path)?;
        let key = registry::key(kind, "", meta::name(&object));
        if self.store.get(&key).is_some() {
            return Ok(());
        }
        kind.default(&mut object);
        kind.prepare(&mut object, None, crate::api::Sub::Main);
        meta::set(&mut object, "uid", uuid::Uuid::new_v4().to_string());
        meta::set(&mut object, "creationTimestamp", meta::time(cx.now));
        match self.put(kind, &key, Expect::Absent, object).await {
            Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
            Err(error) => Err(store_error(kind, "", error)),
        }
    }
}

/// The ClusterRoles of [`ROLES`], in the order in which they are first named.
fn roles() -> Vec<Value> {
    let mut rules: IndexMap<&str, Vec<Value>> = IndexMap::new();
    let lines = ROLES.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            [role, "as", other] => {
                let same = rules.get(other).cloned().unwrap_or_default();
                rules.entry(role).or_default().extend(same);
            }
            [role, verbs, group, what] => {
                rules.entry(role).or_default().push(rule(verbs, group, what));
            }
            _ => {}
        }
    }
    let role = |(name, rules): (&str, Vec<Value>)| {
        json!({
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
            },
            "rules": rules,
        })
    };
    rules.into_iter().map(role).collect()
}

fn rule(verbs: &str, group: &str, what: &str) -> Value {
    let verbs: Vec<&str> = verbs
        .split(',')
        .flat_map(|verb| match verb {
            "read" => vec!["get", "list", "watch"],
            "write" => vec!["create", "delete", "deletecollection", "patch", "update"],
            verb => vec![verb],
        })
        .collect();
    let what: Vec<&str> = what.split(',').collect();
    match group {
        "paths" => json!({"verbs": verbs, "nonResourceURLs": what}),
        "core" => json!({"verbs": verbs, "apiGroups": [""], "resources": what}),
        group => json!({"verbs": verbs, "apiGroups": [group], "resources": what}),
    }
}

fn bindings() -> Vec<Value> {
    let binding = |(role, kind, names): &(&str, &str, &[&str])| {
        let subject = |name: &&str| json!({"kind": kind, "apiGroup": RBAC, "name": name});
        json!({
            "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": names.iter().map(subject).collect::<Vec<_>>(),
        })
    };
    BINDINGS.iter().map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_rule_and_every_bound_role_exists() {
        let lines = ROLES.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        for line in lines {
            let words = line.split(' ').count();
            assert!(words == 4 || (words == 3 && line.contains(" as ")), "{line}");
        }
        let names: Vec<Value> = roles().iter().map(|r| r["metadata"]["name"].clone()).collect();
        for (role, _, _) in BINDINGS {
            assert!(names.contains(&json!(role)), "{role}");
        }
        let admin = roles().into_iter().find(|r| r["metadata"]["name"] == "admin");
        let rules = admin.unwrap()["rules"].as_array().unwrap().len();
        assert!(rules > 15, "admin may what edit and view may");
    }
}
