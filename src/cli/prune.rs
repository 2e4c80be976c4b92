//! `coracle apply --prune`: deletes what was applied before and is in no manifest any more.
//!
//! kubectl knows what was applied by the annotation that its client-side apply leaves. A server-side apply leaves none, but the
//! server keeps who applied: an entry of managedFields with the operation Apply. Both count here, the entry only in the
//! name of this apply's field manager, so that other appliers' objects stay.
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::door::{Door, with_query};
use super::output::{DryRun, Printer, items};
use super::resource::{Discovery, Item, Resource};
use crate::api::meta;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What kubectl looks at, of the kinds that there are here.
const KINDS: &str = "core/v1/ConfigMap core/v1/Endpoints core/v1/Namespace core/v1/Pod core/v1/Secret core/v1/Service \
                     apps/v1/Deployment apps/v1/ReplicaSet";

/// Flags about pruning.
#[derive(Args)]
pub struct Prune {
    /// Delete what was applied before (by kubectl, or by this field manager) and is in none of the files; needs -l or --all
    #[arg(long)]
    prune: bool,
    /// With --prune: whatever its labels
    #[arg(long)]
    all: bool,
    /// With --prune: only this kind, as in core/v1/ConfigMap (several times)
    #[arg(long, value_name = "GROUP/VERSION/KIND")]
    prune_allowlist: Vec<String>,
}

/// What an apply has done, and for whom: the rest is pruned.
pub struct Applied<'a> {
    pub selector: &'a str,
    pub manager: &'a str,
    pub dry_run: DryRun,
    /// DeleteOptions.
    pub options: Value,
    /// Where to look for what has a namespace.
    pub namespaces: BTreeSet<String>,
    /// Of the objects that stay.
    pub uids: BTreeSet<String>,
}

impl Prune {
    /// What cannot be said in one line.
    pub fn check(&self, selector: &str, force: bool, server_side: bool) -> Result<()> {
        ensure!(!self.all || selector.is_empty(), "cannot set --all and --selector at the same time");
        ensure!(!self.prune || !force, "--force cannot be used with --prune");
        ensure!(
            !self.prune || self.all || !selector.is_empty(),
            "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector"
        );
        ensure!(
            !self.prune || !server_side,
            "--prune is in alpha and doesn't currently work on objects created by server-side apply"
        );
        Ok(())
    }

    /// The kinds to look at.
    pub fn kinds<'a>(&self, discovery: &'a Discovery) -> Result<Vec<&'a Resource>> {
        let find = |kind: &str| {
            let [group, version, kind] = kind.split('/').collect::<Vec<_>>()[..] else {
                bail!("invalid GroupVersionKind format: {kind}, please follow <group/version/kind>");
            };
            let version = if group == "core" { version.to_owned() } else { format!("{group}/{version}") };
            discovery.of_object(&json!({"apiVersion": version, "kind": kind}))
        };
        match self.prune_allowlist.as_slice() {
            _ if !self.prune => Ok(Vec::new()),
            [] => KINDS.split(' ').map(find).collect(),
            given => given.iter().map(|kind| find(kind)).collect(),
        }
    }
}

impl Applied<'_> {
    /// Deletes what else was applied, namespace by namespace, then what has none.
    pub async fn prune(&self, door: &Door, kinds: &[&Resource], printer: &mut Printer) -> Result<()> {
        let (namespaced, others): (Vec<&Resource>, _) = kinds.iter().partition(|kind| kind.namespaced);
        for namespace in &self.namespaces {
            for kind in &namespaced {
                self.prune_kind(door, kind, namespace, printer).await?;
            }
        }
        for kind in others {
            self.prune_kind(door, kind, "", printer).await?;
        }
        Ok(())
    }

    async fn prune_kind(&self, door: &Door, kind: &Resource, namespace: &str, printer: &mut Printer) -> Result<()> {
        let path = with_query(&kind.path(Some(namespace)), &[("labelSelector", self.selector)]);
        let list = door.get(&path).await.with_context(|| format!("error pruning {}", kind.plural_name()))?;
        for object in items(&list) {
            if self.uids.contains(meta::uid(&object)) || !was_applied(&object, self.manager) {
                continue;
            }
            let item = Item::object(kind, namespace, meta::name(&object))?;
            if self.dry_run != DryRun::Client {
                let deleted = door.delete(&item.path(), &self.options).await;
                deleted.with_context(|| format!("error pruning {}", item.named()))?;
            }
            printer.done(&item.named(), &object, &format!("pruned{}", self.dry_run.suffix()))?;
        }
        Ok(())
    }
}

/// Whether the object is from an apply: kubectl's, or one of this manager.
fn was_applied(object: &Value, manager: &str) -> bool {
    let applied = |entry: &Value| {
        let is = |field: &str, value: &str| meta::text(entry, &[field]) == value;
        is("operation", "Apply") && is("manager", manager) && is("subresource", "")
    };
    meta::annotation(object, LAST_APPLIED).is_some()
        || meta::list(object, &["metadata", "managedFields"]).iter().any(applied)
}
