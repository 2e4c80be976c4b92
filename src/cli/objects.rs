//! Which objects a verb is about: kubectl's resource builder, as flags and as what they mean.
use anyhow::{Result, ensure};
use clap::Args;

use super::door::Door;
use super::resource::{Discovery, Item};
use super::scope::{Files, Scope, Select};
use crate::api::meta;

/// Flags of every verb about objects.
#[derive(Args)]
pub struct Objects {
    /// TYPE[,TYPE] [NAME...] or TYPE/NAME...
    pub words: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub scope: Scope,
    #[command(flatten)]
    pub select: Select,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

/// The flags of verbs that take fewer.
#[derive(Args)]
pub struct Named {
    /// TYPE[,TYPE] [NAME...] or TYPE/NAME...
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Label selector, as in app=web,tier!=db
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
}

impl Named {
    /// What they say, in a namespace.
    pub fn objects(&self, namespace: &str) -> Objects {
        Objects {
            words: self.words.clone(),
            files: self.files.clone(),
            scope: Scope { namespace: namespace.to_owned(), ..Scope::default() },
            select: Select { selector: self.selector.clone(), ..Select::default() },
            all: false,
        }
    }
}

impl Objects {
    /// Nothing was named at all.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.files.is_empty()
    }

    /// For verbs that change or wait: a type alone does not mean all of its objects.
    pub fn must_name(&self) -> Result<()> {
        let names = self.words.len() != 1 || self.words[0].contains('/') || self.all || !self.select.is_empty();
        ensure!(names, "resource(s) were provided, but no name was specified");
        Ok(())
    }

    /// What was named: objects, and whole collections.
    pub fn wanted(&self, discovery: &Discovery) -> Result<Vec<Item>> {
        self.check()?;
        if self.files.is_empty() {
            return discovery.items(&self.words, self.scope.namespace().unwrap_or(""));
        }
        let manifests = self.files.read(&self.select.selector)?;
        manifests.iter().map(|manifest| discovery.item(manifest, &self.scope.namespace)).collect()
    }

    /// The path of an item, with the selection of its collection.
    pub fn path(&self, item: &Item) -> String {
        if item.name.is_empty() { self.select.query(&item.path()) } else { item.path() }
    }

    /// Objects one by one: collections are listed.
    pub async fn items(&self, door: &Door, discovery: &Discovery) -> Result<Vec<Item>> {
        let mut all = Vec::new();
        for item in self.wanted(discovery)? {
            if !item.name.is_empty() {
                all.push(item);
                continue;
            }
            let list = door.get(&self.path(&item)).await?;
            all.extend(meta::list(&list, &["items"]).iter().map(|object| {
                let (namespace, name) = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
                Item { namespace, name, ..item.clone() }
            }));
        }
        Ok(all)
    }

    /// What cannot be said in one line.
    fn check(&self) -> Result<()> {
        if !self.files.is_empty() {
            ensure!(
                self.words.is_empty(),
                "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well"
            );
            return Ok(());
        }
        ensure!(
            !self.is_empty(),
            "You must provide one or more resources by argument or filename.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   '<resource> <name>'\n   '<resource>'"
        );
        ensure!(!self.all || self.select.is_empty(), "setting 'all' parameter but found a non empty selector. ");
        let pairs = self.words.iter().any(|word| word.contains('/'));
        if pairs || self.words.len() > 1 {
            let selected = self.all || !self.select.is_empty();
            ensure!(
                !(selected && pairs),
                "selectors and the all flag cannot be used when passing resource/name arguments"
            );
            ensure!(!selected, "name cannot be provided when a selector is specified");
            ensure!(!self.scope.all_namespaces, "a resource cannot be retrieved by name across all namespaces");
        }
        Ok(())
    }
}
