//! What kinds the server has, and how people name them: `po`, `deploy/web`, `svc,ep`, `all`.
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::door::Door;
use super::scope::Manifest;
use crate::api::meta;

/// One kind as discovery describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// API group, "" for core.
    pub group: String,
    /// Version in the group.
    pub version: String,
    /// `pods`, as in paths.
    pub plural: String,
    /// `Pod`.
    pub kind: String,
    singular: String,
    short: Vec<String>,
    categories: Vec<String>,
    /// Lives in a namespace.
    pub namespaced: bool,
    listable: bool,
}

impl Resource {
    /// Path of the collection; cluster-wide without a namespace.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let base = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|namespace| self.namespaced && !namespace.is_empty()) {
            Some(namespace) => format!("{base}/namespaces/{namespace}/{}", self.plural),
            None => format!("{base}/{}", self.plural),
        }
    }

    /// `deployment.apps/web`, `pod/x`: how results name an object.
    pub fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.typed(&self.singular))
    }

    /// `deployment.apps`, `pod`: the type in front of a quoted name.
    pub fn type_name(&self) -> String {
        self.typed(&self.singular)
    }

    /// `deployments.apps`, `pods`: the type in messages of the server.
    pub fn plural_name(&self) -> String {
        self.typed(&self.plural)
    }

    /// `ReplicaSet.apps`: the kind with its group.
    pub fn kind_name(&self) -> String {
        self.typed(&self.kind)
    }

    fn typed(&self, word: &str) -> String {
        if self.group.is_empty() { word.to_owned() } else { format!("{word}.{}", self.group) }
    }

    /// `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    fn is_called(&self, word: &str) -> bool {
        let (name, group) = word.split_once('.').unwrap_or((word, ""));
        let group = group.strip_prefix(&format!("{}.", self.version)).unwrap_or(group);
        let group_fits = group.is_empty() || group == self.group || group == self.version;
        group_fits && (name == self.plural || name == self.singular || self.short.iter().any(|short| short == name))
    }
}

/// One object that is meant, or all of a kind.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its kind.
    pub resource: Resource,
    /// Where it is; "" is everywhere.
    pub namespace: String,
    /// Its name; "" is the whole collection.
    pub name: String,
    /// The manifest that named it.
    pub file: Option<String>,
}

impl Item {
    fn collection(resource: &Resource, namespace: &str) -> Item {
        Item { resource: resource.clone(), namespace: namespace.to_owned(), name: String::new(), file: None }
    }

    /// One object. A name that is empty by accident must not stand for all.
    pub fn object(resource: &Resource, namespace: &str, name: &str) -> Result<Item> {
        ensure!(!name.is_empty(), "resource name may not be empty");
        Ok(Item { name: name.to_owned(), ..Item::collection(resource, namespace) })
    }

    /// The path of the object or the collection.
    pub fn path(&self) -> String {
        let collection = self.resource.path(Some(&self.namespace));
        if self.name.is_empty() { collection } else { format!("{collection}/{}", self.name) }
    }

    /// `deployment.apps/web`: how results name it.
    pub fn named(&self) -> String {
        self.resource.named(&self.name)
    }

    /// `deployments.apps "web"`: how errors name it.
    pub fn quoted(&self) -> String {
        format!("{} {:?}", self.resource.plural_name(), self.name)
    }
}

/// All kinds of the server.
pub struct Discovery(Vec<Resource>);

impl Discovery {
    /// Two requests, whatever the number of groups.
    pub async fn load(door: &Door) -> Result<Discovery> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            all.extend(parse(&door.discovery(path).await?));
        }
        Ok(Discovery(all))
    }

    /// By plural, singular or short name, with or without the group.
    pub fn find(&self, word: &str) -> Result<&Resource> {
        let word = word.to_ascii_lowercase();
        let found = self.0.iter().find(|resource| resource.is_called(&word));
        found.with_context(|| format!("the server doesn't have a resource type {word:?}"))
    }

    /// By what a manifest says.
    pub fn of_object(&self, object: &Value) -> Result<&Resource> {
        let (api_version, kind) = (meta::text(object, &["apiVersion"]), meta::text(object, &["kind"]));
        let found = self.0.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version);
        found.with_context(|| format!("no matches for kind {kind:?} in version {api_version:?}"))
    }

    /// `pods`, `deploy/a svc/b`, `svc,ep`, `all`, `pods a b`.
    pub fn items(&self, words: &[String], namespace: &str) -> Result<Vec<Item>> {
        let Some((first, names)) = words.split_first() else {
            bail!("You must specify the type of resource, such as pods, or pods/NAME");
        };
        if words.iter().any(|word| word.contains('/')) {
            return words.iter().map(|word| self.pair(word, namespace)).collect();
        }
        let mut all = Vec::new();
        for word in first.split(',') {
            let category: Vec<&Resource> =
                self.0.iter().filter(|r| r.listable && r.categories.iter().any(|c| c == word)).collect();
            for resource in if category.is_empty() { vec![self.find(word)?] } else { category } {
                all.extend(names.is_empty().then(|| Item::collection(resource, namespace)));
                for name in names {
                    all.push(Item::object(resource, namespace, name)?);
                }
            }
        }
        Ok(all)
    }

    /// Exactly one object: `TYPE/NAME`, `TYPE NAME`, or `NAME` of the default type.
    pub fn one(&self, words: &[String], default: Option<&str>, namespace: &str) -> Result<Item> {
        match (words, default) {
            ([word], _) if word.contains('/') => self.pair(word, namespace),
            ([name], Some(kind)) => Item::object(self.find(kind)?, namespace, name),
            ([kind, name], _) => Item::object(self.find(kind)?, namespace, name),
            _ => bail!("exactly one object is needed, as TYPE/NAME"),
        }
    }

    /// What a manifest is about.
    pub fn item(&self, manifest: &Manifest, namespace: &str) -> Result<Item> {
        let (object, own) = (&manifest.object, meta::namespace(&manifest.object));
        let namespace = if own.is_empty() { namespace } else { own };
        let item = Item::object(self.of_object(object)?, namespace, meta::name(object))?;
        Ok(Item { file: Some(manifest.file.clone()), ..item })
    }

    fn pair(&self, word: &str, namespace: &str) -> Result<Item> {
        match word.split_once('/') {
            Some((kind, name)) if !name.is_empty() && !name.contains('/') => {
                Item::object(self.find(kind)?, namespace, name)
            }
            _ => bail!(
                "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'"
            ),
        }
    }
}

/// Reads an APIGroupDiscoveryList.
fn parse(document: &Value) -> Vec<Resource> {
    let mut all = Vec::new();
    for group in meta::list(document, &["items"]) {
        for version in meta::list(group, &["versions"]).iter().take(1) {
            for resource in meta::list(version, &["resources"]) {
                let words = |field: &str| -> Vec<String> {
                    let all = meta::list(resource, &[field]).iter();
                    all.filter_map(Value::as_str).map(str::to_owned).collect()
                };
                let kind = meta::text(resource, &["responseKind", "kind"]).to_owned();
                let singular = meta::text(resource, &["singularResource"]);
                all.push(Resource {
                    group: meta::name(group).to_owned(),
                    version: meta::text(version, &["version"]).to_owned(),
                    plural: meta::text(resource, &["resource"]).to_owned(),
                    singular: if singular.is_empty() { kind.to_ascii_lowercase() } else { singular.to_owned() },
                    kind,
                    short: words("shortNames"),
                    categories: words("categories"),
                    namespaced: meta::text(resource, &["scope"]) == "Namespaced",
                    listable: words("verbs").iter().any(|verb| verb == "list"),
                });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn discovery() -> Discovery {
        let resource = |plural: &str, kind: &str, short: &str, categories: &[&str]| {
            json!({"resource": plural, "responseKind": {"kind": kind}, "scope": "Namespaced", "singularResource": kind.to_lowercase(),
                "verbs": ["list"], "shortNames": [short], "categories": categories})
        };
        Discovery(parse(&json!({"items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [resource("pods", "Pod", "po", &["all"])]}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [resource("deployments", "Deployment", "deploy", &["all"])]}]},
        ]})))
    }

    #[test]
    fn kinds_are_found_by_every_name_people_use() {
        let all = discovery();
        for word in ["deploy", "deployments", "deployment", "deployments.apps", "deployments.v1.apps", "Deployment"] {
            assert_eq!(all.find(word).unwrap().kind, "Deployment", "{word}");
        }
        assert_eq!(all.find("deploy").unwrap().named("web"), "deployment.apps/web");
        assert_eq!(all.one(&["x".into()], Some("po"), "n").unwrap().path(), "/api/v1/namespaces/n/pods/x");
        assert_eq!(all.find("x").unwrap_err().to_string(), "the server doesn't have a resource type \"x\"");
    }

    #[test]
    fn arguments_become_items() {
        let all = discovery();
        let items = |words: &[&str]| -> Vec<String> {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            let items = all.items(&words, "n").unwrap();
            items.iter().map(|item| format!("{} {}", item.resource.plural, item.name)).collect()
        };
        assert_eq!(items(&["po,deploy", "a", "b"]), ["pods a", "pods b", "deployments a", "deployments b"]);
        assert_eq!(items(&["all"]), ["pods ", "deployments "]);
        assert_eq!(items(&["po/a", "deploy/b"]), ["pods a", "deployments b"]);
    }

    #[test]
    fn an_empty_name_is_not_the_whole_collection() {
        let all = discovery();
        assert!(all.items(&["po".into(), String::new()], "n").is_err());
        assert!(all.items(&["po/".into()], "n").is_err());
        let nameless = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}});
        assert!(all.item(&Manifest { file: "f".into(), object: nameless }, "n").is_err());
    }
}
