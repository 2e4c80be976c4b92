//! `coracle describe`: an object, what belongs to it, and its events.
//!
//! Kinds that have a page of their own in kubectl have it here, byte for byte; any other kind is shown field by field. A page
//! is text with tabs; [`tabs`] makes columns of it.
mod allocated;
mod config;
mod container;
mod generic;
mod node;
mod pod;
mod service;
mod tabs;
mod volume;
mod workload;

use std::fmt::Write;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::Value;

use super::door::{Door, status, with_query};
use super::error::Failures;
use super::events;
use super::objects::Objects;
use super::output::items;
use super::resource::{Discovery, Item, Resource};
use crate::api::meta;

pub use pod::template_rows as template;
pub use tabs::align;

/// Flags of `describe`.
#[derive(Args)]
pub struct Describe {
    #[command(flatten)]
    objects: Objects,
    /// With the events (true), or without
    #[arg(long, default_value = "true")]
    show_events: bool,
}

/// What a page may ask for besides its object.
pub struct Context<'a> {
    door: &'a Door,
    discovery: &'a Discovery,
}

impl Context<'_> {
    /// Objects of a kind, selected by a query.
    pub async fn list(&self, kind: &str, namespace: Option<&str>, query: &[(&str, &str)]) -> Result<Vec<Value>> {
        let path = with_query(&self.discovery.find(kind)?.path(namespace), query);
        Ok(meta::list(&self.door.get(&path).await?, &["items"]).to_vec())
    }
}

impl Describe {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        ensure!(
            !self.objects.is_empty(),
            "You must specify the type of resource to describe. Use \"kubectl api-resources\" for a complete list of supported resources."
        );
        let discovery = Discovery::load(door).await?;
        let context = Context { door, discovery: &discovery };
        let (mut first, mut failures) = (true, Failures::default());
        for item in self.objects.wanted(&discovery)? {
            match self.found(door, &item).await {
                Err(error) => failures.note(Err(error)),
                Ok((found, exact)) => {
                    for object in found {
                        if !std::mem::take(&mut first) && exact {
                            println!("\n");
                        }
                        let end = if exact { "" } else { "\n" };
                        print!("{}{end}", self.page(&context, &item.resource, &object).await?);
                    }
                }
            }
        }
        failures.end()?;
        if first {
            self.objects.scope.say_nothing_found(true);
        }
        Ok(())
    }

    /// What is meant, and whether exactly that: a name that does not exist may be the beginning of one.
    async fn found(&self, door: &Door, item: &Item) -> Result<(Vec<Value>, bool)> {
        let error = match door.get(&self.objects.path(item)).await {
            Ok(found) => return Ok((items(&found), true)),
            Err(error) => error,
        };
        if item.name.is_empty() || status(&error).is_none_or(|status| status.code != 404) {
            return Err(error);
        }
        let mut found = items(&door.get(&item.resource.path(Some(&item.namespace))).await?);
        found.retain(|object| meta::name(object).starts_with(&item.name));
        if found.is_empty() { Err(error) } else { Ok((found, false)) }
    }

    async fn page(&self, context: &Context<'_>, resource: &Resource, object: &Value) -> Result<String> {
        let mut page = match resource.kind.as_str() {
            "Pod" => pod::page(object),
            "Deployment" => workload::deployment(context, object).await?,
            "ReplicaSet" => workload::replica_set(context, object).await?,
            "Service" => service::page(context, object).await?,
            "Endpoints" => service::endpoints_page(object),
            "EndpointSlice" => service::slice_page(object),
            "Node" => node::page(context, object).await?,
            "ConfigMap" => config::config_map(object),
            "Secret" => config::secret(object),
            "Namespace" => config::namespace(object),
            "ServiceAccount" => config::service_account(object),
            "RoleBinding" | "ClusterRoleBinding" => config::binding(object),
            _ => generic::page(object),
        };
        // kubectl shows no events of these.
        let silent = ["Secret", "Namespace", "RoleBinding", "ClusterRoleBinding"].contains(&resource.kind.as_str());
        if self.show_events && !silent {
            page.push_str(&self.events(context, object).await?);
        }
        // What a terminal would obey is shown instead.
        Ok(tabs::align(&page.replace('\x1b', "^[").replace('\r', "\\r")))
    }

    async fn events(&self, context: &Context<'_>, object: &Value) -> Result<String> {
        // Events about what has no namespace are kept in "default" and may know it by its name only.
        let namespaced = !meta::namespace(object).is_empty();
        let selector = if namespaced {
            format!("involvedObject.uid={}", meta::uid(object))
        } else {
            format!("involvedObject.name={},involvedObject.kind={}", meta::name(object), meta::text(object, &["kind"]))
        };
        let namespace = Some(meta::namespace(object)).filter(|_| namespaced);
        let mut all = context.list("events", namespace, &[("fieldSelector", &selector)]).await?;
        if all.is_empty() {
            return Ok("Events:\t<none>\n".into());
        }
        all.sort_by_key(|event| meta::text(event, &["lastTimestamp"]).to_owned());
        let mut out =
            String::from("Events:\n  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t----\t----\t-------\n");
        for event in &all {
            let source = meta::text(event, &["source", "component"]);
            let from = if source.is_empty() { meta::text(event, &["reportingComponent"]) } else { source };
            let place = match meta::text(event, &["involvedObject", "fieldPath"]) {
                "" => String::new(),
                field => format!("{field}: "),
            };
            if let [age, kind, reason, _, message] = events::cells(event, jiff::Timestamp::now()).as_slice() {
                row(&mut out, 1, &[kind, reason, age, from, &format!("{place}{message}")]);
            }
        }
        Ok(out)
    }
}

/// kubectl's copy of a whole manifest; nobody wants to see it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One line of cells, `level` steps in.
pub fn row(out: &mut String, level: usize, cells: &[&str]) {
    let line = cells.join("\t");
    // Writing into a String cannot fail.
    writeln!(out, "{:indent$}{line}", "", indent = level * 2).expect("a String takes everything");
}

/// A line with a title and a value, not indented.
pub fn put(out: &mut String, title: &str, value: &str) {
    row(out, 0, &[title, value]);
}

/// A line with a title and a value, unless there is no value.
pub fn maybe(out: &mut String, level: usize, title: &str, value: &str) {
    if !value.is_empty() {
        row(out, level, &[title, value]);
    }
}

/// A name and where it is.
pub fn head(out: &mut String, object: &Value) {
    put(out, "Name:", meta::name(object));
    put(out, "Namespace:", meta::namespace(object));
}

/// Most pages begin with a name, where it is, labels and annotations.
pub fn begin(object: &Value) -> String {
    let mut out = String::new();
    head(&mut out, object);
    tags(&mut out, object);
    out
}

/// Labels and annotations.
pub fn tags(out: &mut String, object: &Value) {
    labels(out, 0, "Labels:", meta::labels(object));
    annotations(out, 0, meta::map(object, &["metadata", "annotations"]));
}

/// The controller that made the object.
pub fn owner(out: &mut String, object: &Value) {
    if let Some(owner) = meta::controller_of(object) {
        put(out, "Controlled By:", &format!("{}/{}", meta::text(owner, &["kind"]), meta::text(owner, &["name"])));
    }
}

/// Keys and values in the order of the keys.
pub fn sorted(map: Option<&serde_json::Map<String, Value>>) -> Vec<(&String, &Value)> {
    let mut pairs: Vec<(&String, &Value)> = map.into_iter().flatten().collect();
    pairs.sort_by_key(|(key, _)| key.as_str());
    pairs
}

/// Labels or something like them, a line each.
pub fn labels(out: &mut String, level: usize, title: &str, all: Option<&serde_json::Map<String, Value>>) {
    let pairs = sorted(all);
    if pairs.is_empty() {
        return row(out, level, &[title, "<none>"]);
    }
    for (index, (key, value)) in pairs.iter().enumerate() {
        let pair = format!("{key}={}", value.as_str().unwrap_or(""));
        row(out, if index == 0 { level } else { 0 }, &[if index == 0 { title } else { "" }, &pair]);
    }
}

/// Annotations: a long or multi-line one begins below its key.
pub fn annotations(out: &mut String, level: usize, all: Option<&serde_json::Map<String, Value>>) {
    const LONG: usize = 140;
    let mut title = "Annotations:";
    let mut level = level;
    for (key, value) in sorted(all).into_iter().filter(|(key, _)| *key != LAST_APPLIED) {
        let value = value.as_str().unwrap_or("");
        let value = value.strip_suffix('\n').unwrap_or(value);
        if value.len() + key.len() + 2 <= LONG && !value.contains('\n') {
            row(out, level, &[title, &format!("{key}: {value}")]);
        } else {
            row(out, level, &[title, &format!("{key}:")]);
            for line in value.split('\n') {
                let cut = (0..=line.len().min(LONG - 2)).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
                row(out, 0, &["", &format!("  {}{}", &line[..cut], if cut < line.len() { "..." } else { "" })]);
            }
        }
        (title, level) = ("", 0);
    }
    if !title.is_empty() {
        row(out, level, &[title, "<none>"]);
    }
}

/// A `metav1.LabelSelector` in the form of `-l`.
pub fn selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".into() };
    let mut terms: Vec<(&str, String)> = sorted(meta::map(selector, &["matchLabels"]))
        .into_iter()
        .map(|(key, value)| (key.as_str(), format!("{key}={}", value.as_str().unwrap_or(""))))
        .collect();
    for expression in meta::list(selector, &["matchExpressions"]) {
        let key = meta::text(expression, &["key"]);
        let mut values: Vec<&str> = meta::list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let term = match meta::text(expression, &["operator"]) {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        };
        terms.push((key, term));
    }
    terms.sort_by_key(|(key, _)| *key);
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    if terms.is_empty() { "<none>".into() } else { terms.join(",") }
}

/// Whether what a reference names may be missing.
pub fn optional(reference: &Value) -> String {
    format!("Optional: {}", meta::at(reference, &["optional"]) == Some(&Value::Bool(true)))
}

/// With a capital letter at the beginning.
pub fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// A time as kubectl prints it: RFC 1123 with the offset.
pub fn time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        Err(_) => "<unset>".into(),
    }
}
