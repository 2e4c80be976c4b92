//! Authorisation: may this user do that? Answered from the roles and bindings in the store.

use serde_json::Value;

use super::identity::{Identity, MASTERS, SERVICE_ACCOUNT};
use super::registry::Followed;
use crate::api::{ApiError, meta};
use crate::store::Store;

/// Where roles and bindings are stored.
const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    /// Empty: at the cluster scope.
    pub(super) namespace: String,
    pub(super) name: String,
    /// Set for a path that is no resource; then all but the verb is empty.
    pub(super) path: String,
}

impl Attributes {
    /// `pods` or `pods/log`.
    fn full_resource(&self) -> String {
        match self.subresource.as_str() {
            "" => self.resource.clone(),
            sub => format!("{}/{sub}", self.resource),
        }
    }

    /// The refusal, as Kubernetes words it.
    pub(super) fn refusal(&self, user: &str) -> ApiError {
        if !self.path.is_empty() {
            let why = format!("User {user:?} cannot {} path {:?}", self.verb, self.path);
            return ApiError::forbidden("", "", "", &why);
        }
        let place = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let why = format!(
            "User {user:?} cannot {} resource {:?} in API group {:?} {place}",
            self.verb,
            self.full_resource(),
            self.group
        );
        ApiError::forbidden(&self.group, &self.resource, &self.name, &why)
    }
}

/// One rule of a role.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    pub(super) verbs: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) names: Vec<String>,
    pub(super) paths: Vec<String>,
}

impl Rule {
    fn parse(rule: &Value) -> Self {
        let strings = |field: &str| {
            let list = meta::list(rule, &[field]).iter();
            list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        Self {
            verbs: strings("verbs"),
            groups: strings("apiGroups"),
            resources: strings("resources"),
            names: strings("resourceNames"),
            paths: strings("nonResourceURLs"),
        }
    }

    fn allows(&self, wish: &Attributes) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|v| v == "*" || v == value);
        if !has(&self.verbs, &wish.verb) {
            return false;
        }
        if !wish.path.is_empty() {
            return self.paths.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => wish.path.starts_with(start),
                None => *pattern == wish.path,
            });
        }
        let any_of = format!("*/{}", wish.subresource);
        has(&self.groups, &wish.group)
            && (has(&self.resources, &wish.full_resource())
                || (!wish.subresource.is_empty() && self.resources.contains(&any_of)))
            && (self.names.is_empty() || self.names.contains(&wish.name))
    }
}

/// Who has which role. The namespace is empty for cluster bindings.
#[derive(Debug)]
struct Binding {
    namespace: String,
    subjects: Vec<(String, String)>,
    /// Key in the store.
    role: String,
}

impl Binding {
    fn parse(binding: &Value) -> Self {
        let namespace = meta::namespace(binding).to_owned();
        let subject = |subject: &Value| {
            let name = meta::text(subject, &["name"]);
            match meta::text(subject, &["kind"]) {
                "ServiceAccount" => {
                    let own = meta::text(subject, &["namespace"]);
                    ("User".to_owned(), format!("{SERVICE_ACCOUNT}{own}:{name}"))
                }
                kind => (kind.to_owned(), name.to_owned()),
            }
        };
        let role = meta::text(binding, &["roleRef", "name"]);
        let role = match meta::text(binding, &["roleRef", "kind"]) {
            "Role" => format!("{PREFIX}roles/{namespace}/{role}"),
            _ => format!("{PREFIX}clusterroles/{role}"),
        };
        Self { subjects: meta::list(binding, &["subjects"]).iter().map(subject).collect(), role, namespace }
    }

    fn is_about(&self, who: &Identity) -> bool {
        self.subjects.iter().any(|(kind, name)| match kind.as_str() {
            "User" => *name == who.user,
            "Group" => who.groups.contains(name),
            _ => false,
        })
    }
}

/// What is stored below [`PREFIX`].
enum Policy {
    Role(Vec<Rule>),
    Binding(Binding),
}

impl Policy {
    fn parse(object: &Value) -> Self {
        if meta::text(object, &["kind"]).ends_with("Binding") {
            return Self::Binding(Binding::parse(object));
        }
        Self::Role(meta::list(object, &["rules"]).iter().map(Rule::parse).collect())
    }
}

/// The authoriser.
pub(super) struct Rbac {
    policy: Followed<Policy>,
}

impl Rbac {
    pub(super) fn new(store: Store) -> Self {
        Self { policy: Followed::new(store, PREFIX, Policy::parse) }
    }

    /// Refuses what no rule allows.
    pub(super) fn authorize(&self, who: &Identity, wish: &Attributes) -> Result<(), ApiError> {
        if self.allows(who, wish)? {
            return Ok(());
        }
        Err(wish.refusal(&who.user))
    }

    /// Whether some rule allows it.
    pub(super) fn allows(&self, who: &Identity, wish: &Attributes) -> Result<bool, ApiError> {
        if who.groups.iter().any(|g| g == MASTERS) {
            return Ok(true);
        }
        self.with_rules(who, &wish.namespace, |mut rules| Iterator::any(&mut rules, |rule| rule.allows(wish)))
    }

    /// All rules that apply to somebody in a namespace.
    pub(super) fn rules(&self, who: &Identity, namespace: &str) -> Result<Vec<Rule>, ApiError> {
        if who.groups.iter().any(|g| g == MASTERS) {
            let all = || vec!["*".to_owned()];
            let everything = Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() };
            let paths = Rule { verbs: all(), paths: all(), ..Rule::default() };
            return Ok(vec![everything, paths]);
        }
        self.with_rules(who, namespace, |rules| rules.cloned().collect())
    }

    fn with_rules<T>(
        &self,
        who: &Identity,
        namespace: &str,
        ask: impl FnOnce(&mut dyn Iterator<Item = &Rule>) -> T,
    ) -> Result<T, ApiError> {
        let policy = self.policy.now()?;
        let rules_of = |binding: &Binding| match policy.get(&binding.role) {
            Some(Policy::Role(rules)) => rules.as_slice(),
            _ => &[],
        };
        let mut rules = policy
            .values()
            .filter_map(|policy| if let Policy::Binding(binding) = policy { Some(binding) } else { None })
            .filter(|b| b.namespace.is_empty() || b.namespace == namespace)
            .filter(|b| b.is_about(who))
            .flat_map(rules_of);
        Ok(ask(&mut rules))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wish(verb: &str, resource: &str, sub: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: "default".into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let rule = Rule::parse(&json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/status"]}));
        assert!(rule.allows(&wish("get", "pods", "", "a")));
        assert!(rule.allows(&wish("get", "nodes", "status", "a")));
        assert!(!rule.allows(&wish("get", "pods", "log", "a")));
        assert!(!rule.allows(&wish("list", "pods", "", "")));
        let named =
            Rule::parse(&json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]}));
        assert!(named.allows(&wish("get", "pods", "", "a")));
        assert!(!named.allows(&wish("get", "pods", "", "b")));
    }

    #[test]
    fn paths_match_exactly_or_by_their_start() {
        let rule = Rule::parse(&json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(rule.allows(&path("/healthz")));
        assert!(rule.allows(&path("/api/v1")));
        assert!(!rule.allows(&path("/healthz/etcd")));
    }

    #[test]
    fn refusals_are_worded_like_kubernetes() {
        assert_eq!(
            wish("get", "pods", "log", "a").refusal("jane").message,
            "pods \"a\" is forbidden: User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"default\""
        );
    }
}
