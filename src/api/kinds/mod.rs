//! The table of kinds: one row each. Adding a kind is adding a row (and its columns and rules).
//!
//! A row names the REST surface of a kind and carries its behaviour as plain function pointers. The verbs are written once, in
//! the API server, over this table; nothing elsewhere knows a kind by name that it does not need to.
mod apps;
mod check;
mod cluster;
mod common;
mod config;
mod endpoints;
mod event;
pub mod names;
mod node;
mod objectmeta;
pub mod pod;
mod rbac;
mod reviews;
pub(crate) mod service;
mod template;
#[cfg(test)]
mod tests;

use super::error::FieldError;
use super::printers;
use super::schema::{self, Def};
use k8s_openapi::{NamespaceResourceScope, Resource};
use serde_json::Value;
use std::any::TypeId;
use std::sync::{LazyLock, OnceLock};

pub use check::At;
pub use common::{SCALE, scale_of};

/// Which part of an object a request writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sub {
    /// The object itself.
    Main,
    /// `/status`
    Status,
    /// `/scale`
    Scale,
    /// `/binding`
    Binding,
    /// `/eviction`
    Eviction,
    /// `/finalize`
    Finalize,
    /// `/token`
    Token,
    /// `/log`
    Log,
    /// `/exec`
    Exec,
    /// `/attach`
    Attach,
    /// `/portforward`
    PortForward,
}

impl Sub {
    /// All with their names in URLs.
    const NAMES: &[(Sub, &str)] = &[
        (Sub::Main, ""),
        (Sub::Status, "status"),
        (Sub::Scale, "scale"),
        (Sub::Binding, "binding"),
        (Sub::Eviction, "eviction"),
        (Sub::Finalize, "finalize"),
        (Sub::Token, "token"),
        (Sub::Log, "log"),
        (Sub::Exec, "exec"),
        (Sub::Attach, "attach"),
        (Sub::PortForward, "portforward"),
    ];

    /// The subresource of that name in a URL.
    pub fn parse(name: &str) -> Option<Sub> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(sub, _)| *sub)
    }

    /// Its name in a URL; "" for the object itself.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(sub, _)| *sub == self).map_or("", |(_, name)| name)
    }
}

/// How objects of a kind behave on a write. All pure.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Fills in what the user left out.
    pub default: fn(&mut Value),
    /// Clears what this request may not write and carries over what it may not touch. `old` is `None` on create.
    pub prepare: fn(&mut Value, Option<&Value>, Sub),
    /// What is wrong with the object (or with the change from `old`), metadata excluded.
    pub validate: fn(&At, Option<&Value>, Sub),
    /// What deserves a `Warning` header without being wrong.
    pub warnings: fn(&At),
}

impl Strategy {
    /// Does nothing beyond what every kind does.
    pub(super) const PLAIN: Strategy =
        Strategy { default: |_| {}, prepare: |_, _, _| {}, validate: |_, _, _| {}, warnings: |_| {} };
}

/// A printer column of `kubectl get`.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading, as the table carries it (`Name`; kubectl upper-cases it).
    pub name: &'static str,
    /// `string`, `integer`, `date`, …
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What the column says.
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
    /// What it says of an object.
    pub cell: printers::Cell,
}

/// One kind of object.
pub struct Kind {
    /// API group; "" is core.
    pub group: &'static str,
    /// Version, `v1`.
    pub version: &'static str,
    /// `Pod`
    pub kind: &'static str,
    /// `pods`
    pub plural: &'static str,
    /// `po`
    pub short_names: &'static [&'static str],
    /// `all`
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// `create`, `get`, `list`, `watch`, `update`, `patch`, `delete`, `deletecollection`; only `create` for reviews.
    pub verbs: &'static [&'static str],
    /// Subresources by their name in the URL.
    pub subresources: &'static [&'static str],
    /// What every answer about the kind warns of, where something else has taken its place.
    pub deprecated: Option<&'static str>,
    /// Behaviour on writes.
    pub strategy: Strategy,
    /// Printer columns.
    pub columns: &'static [Column],
    /// Selectable fields beyond `metadata.name` and `metadata.namespace`, with their values.
    pub fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// Kubernetes' schema of the kind, from k8s-openapi.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// The type tree made from `schema`, on first use.
    pub(super) types: OnceLock<&'static Def>,
}

impl Kind {
    /// A row with what most kinds have: every verb, columns NAME and AGE, no subresources, no rules.
    pub(super) fn row<T: Resource<Scope: 'static> + schemars::JsonSchema>() -> Kind {
        Kind {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            plural: T::URL_PATH_SEGMENT,
            short_names: &[],
            categories: &[],
            namespaced: TypeId::of::<T::Scope>() == TypeId::of::<NamespaceResourceScope>(),
            verbs: common::ALL_VERBS,
            subresources: &[],
            deprecated: None,
            strategy: Strategy::PLAIN,
            columns: printers::NAME_AGE,
            fields: |_| Vec::new(),
            schema: |generator| generator.subschema_for::<T>(),
            types: OnceLock::new(),
        }
    }
    /// `pod`
    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
    /// The group under which objects are stored: `events.k8s.io` Events are core Events.
    pub fn storage_group(&self) -> &'static str {
        if self.converts() { "" } else { self.group }
    }
    /// Whether what is stored has another form than what is served.
    pub fn converts(&self) -> bool {
        self.group == "events.k8s.io"
    }
    /// The stored form of an object of this kind.
    pub fn to_storage(&self, object: Value) -> Value {
        if self.converts() { event::to_core(object) } else { object }
    }
    /// The form this kind serves of a stored object.
    pub fn from_storage(&self, object: Value) -> Value {
        if self.converts() { event::from_core(object) } else { object }
    }
    /// Whether `/status` (or another subresource) exists.
    pub fn has(&self, sub: Sub) -> bool {
        sub == Sub::Main || self.subresources.contains(&sub.name())
    }
    /// The type tree of the kind.
    pub fn types(&self) -> &'static Def {
        self.types.get_or_init(|| schema::compile(self.schema))
    }
    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        (self.strategy.default)(object);
    }
    /// Prepares an object for being written: system metadata kept from `old`, status or spec kept from `old`, generation bumped.
    pub fn prepare(&self, new: &mut Value, old: Option<&Value>, sub: Sub) {
        common::prepare(self, new, old, sub);
        (self.strategy.prepare)(new, old, sub);
        common::generation(self, new, old);
    }
    /// Everything wrong with the object, metadata included. Empty = fine.
    pub fn validate(&self, new: &Value, old: Option<&Value>, sub: Sub) -> Vec<FieldError> {
        check::problems(new, |new| {
            objectmeta::validate(self, new, old);
            (self.strategy.validate)(new, old, sub);
        })
    }
    /// Texts for `Warning` headers.
    pub fn warnings(&self, new: &Value) -> Vec<String> {
        check::problems(new, self.strategy.warnings).iter().map(ToString::to_string).collect()
    }
    /// Cells of an object, one for each of `columns`.
    pub fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        self.columns.iter().map(|column| (column.cell)(object, now)).collect()
    }

    /// All selectable fields with their values.
    pub fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let mut out = vec![("metadata.name", super::meta::name(object).to_string())];
        if self.namespaced {
            out.push(("metadata.namespace", super::meta::namespace(object).to_string()));
        }
        out.extend((self.fields)(object));
        out
    }
}

/// The whole table, in discovery order.
pub fn kinds() -> &'static [Kind] {
    static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let core = [pod::rows, service::rows, endpoints::rows, config::rows, node::rows, event::core_rows];
        let groups = [apps::rows, event::rows, reviews::rows, rbac::rows, cluster::rows];
        core.into_iter().chain(groups).flat_map(|rows| rows()).collect()
    });
    &KINDS
}

/// The kind of a resource in a URL.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    kinds().iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The kind by its name.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    kinds().iter().find(|k| k.kind == kind && k.group == group && k.version == version)
}

/// Whether a text is padded standard base64 (what Go's decoder takes; newlines are ignored there and here).
pub(super) fn base64_ok(text: &str) -> bool {
    use base64::Engine;
    let joined: String;
    let text = if text.contains(['\n', '\r']) {
        joined = text.replace(['\n', '\r'], "");
        &joined
    } else {
        text
    };
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

/// The kind an object says it is.
pub fn of(object: &Value) -> Option<&'static Kind> {
    let api = object.get("apiVersion")?.as_str()?;
    let (group, version) = api.rsplit_once('/').unwrap_or(("", api));
    find_kind(group, version, object.get("kind")?.as_str()?)
}
