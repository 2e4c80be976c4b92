//! Roles and their bindings.
use super::check::At;
use super::common::{each_mut, fill};
use super::{Kind, Strategy, Sub, names};
use crate::api::printers;
use k8s_openapi::api::rbac::v1 as rbac;
use serde_json::{Value, json};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The rows.
pub fn rows() -> Vec<Kind> {
    let role = |row: Kind| Kind {
        strategy: Strategy { validate: role_rules, ..Strategy::PLAIN },
        columns: printers::NAME_CREATED,
        ..row
    };
    let binding = |row: Kind| Kind {
        strategy: Strategy { default: binding_defaults, validate: binding_rules, ..Strategy::PLAIN },
        columns: printers::BINDING,
        ..row
    };
    vec![
        binding(Kind::row::<rbac::ClusterRoleBinding>()),
        role(Kind::row::<rbac::ClusterRole>()),
        binding(Kind::row::<rbac::RoleBinding>()),
        role(Kind::row::<rbac::Role>()),
    ]
}

fn role_rules(new: &At, _: Option<&Value>, _: Sub) {
    for rule in new.each("rules") {
        let none = |field: &str| rule.list(field).is_empty();
        if none("verbs") {
            rule.child("verbs").required("verbs must contain at least one value");
        }
        if !none("nonResourceURLs") {
            let urls = rule.child("nonResourceURLs");
            if new.text("kind") == "Role" {
                urls.invalid("namespaced rules cannot apply to non-resource URLs");
            } else if !none("apiGroups") || !none("resources") || !none("resourceNames") {
                urls.invalid("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if none("apiGroups") {
            rule.child("apiGroups").required("resource rules must supply at least one api group");
        }
        if none("resources") {
            rule.child("resources").required("resource rules must supply at least one resource");
        }
    }
}

fn binding_defaults(binding: &mut Value) {
    fill(binding, "roleRef", json!({"apiGroup": GROUP}));
    each_mut(binding, "subjects.*", &mut |subject| {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            fill(subject, "", json!({"apiGroup": GROUP}));
        }
    });
}

fn binding_rules(new: &At, old: Option<&Value>, _: Sub) {
    let role = new.child("roleRef");
    role.one_of("apiGroup", &[GROUP]);
    let cluster = new.text("kind") == "ClusterRoleBinding";
    let kinds: &[&str] = if cluster { &["ClusterRole"] } else { &["ClusterRole", "Role"] };
    if !kinds.contains(&role.text("kind")) {
        role.child("kind").not_supported(kinds);
    }
    role.needs_form("name", names::path_segment);
    if old.is_some_and(|old| old["roleRef"] != *role.value) {
        role.invalid("cannot change roleRef");
    }
    new.each("subjects").for_each(|subject| self::subject(&subject));
}

fn subject(subject: &At) {
    subject.needs("name");
    let kind = subject.text("kind");
    let group = match kind {
        "ServiceAccount" => "",
        "User" | "Group" => GROUP,
        _ => return subject.child("kind").not_supported(&["ServiceAccount", "User", "Group"]),
    };
    if subject.text("apiGroup") != group {
        subject.child("apiGroup").not_supported(&[group]);
    }
    if kind == "ServiceAccount" {
        subject.form("name", names::dns_subdomain);
        subject.needs("namespace");
    }
}
