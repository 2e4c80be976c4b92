//! `coracle apply`: server-side apply, always. The server merges and remembers who set which field, so there is no copy
//! of the last configuration in an annotation; another manager's fields are a conflict unless it is forced.
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::delete::{Cascade, options};
use super::door::{Door, MANAGER, Patch, status, with_query};
use super::error::{Failures, plain};
use super::output::{Also, DryRun, Form, Print, list};
use super::prune::{Applied, Prune};
use super::resource::{Discovery, Item};
use super::scope::{FOREVER, Files, Manifest, duration};
use super::wait;
use crate::api::meta;

/// Flags of `apply`.
#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    print: Print,
    /// Namespace for objects that do not name one, else default
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only the objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Take over fields that others manage
    #[arg(long)]
    force_conflicts: bool,
    /// Only say what would be done (client), or do everything but store it (server)
    #[arg(long, value_enum, default_value = "none")]
    dry_run: DryRun,
    /// In whose name fields are managed
    #[arg(long, default_value = MANAGER)]
    field_manager: String,
    /// What unknown fields are: strict (an error), warn or ignore
    #[arg(long, value_enum, default_value = "strict")]
    validate: Validate,
    /// Apply to a subresource, as in status; with --server-side
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Every apply here is a server-side apply; with this it is called so, and takes only the flags that kubectl takes with it
    #[arg(long)]
    server_side: bool,
    /// Take over fields that others manage (a client-side apply knows no such conflict), and delete and create again what the
    /// server refuses to change; as in kubectl not with --server-side
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    prune: Prune,
    /// What happens to what an object owns that --force or --prune deletes
    #[arg(long, value_enum, default_value = "background", num_args = 0..=1, require_equals = true, default_missing_value = "background")]
    cascade: Cascade,
    /// Seconds a pod has to end by itself that --force or --prune deletes
    #[arg(long, default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    grace_period: i64,
    /// How long --force waits for an object to be gone; 0 is as long as it takes
    #[arg(long, default_value = "0s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    client_side: ClientSide,
}

/// What kubectl's client-side apply has and a server-side apply has no use for.
#[derive(Args)]
struct ClientSide {
    /// Changes nothing: the server merges, and knows its kinds
    #[arg(long, default_value = "true")]
    openapi_patch: bool,
    /// Changes nothing: a conflict is an error unless --force-conflicts is given
    #[arg(long, default_value = "true")]
    overwrite: bool,
    /// Changes nothing, as in kubectl
    #[arg(long)]
    wait: bool,
}

/// What becomes of fields that nobody knows.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Validate {
    #[value(alias = "true")]
    Strict,
    Warn,
    #[value(alias = "false")]
    Ignore,
}

impl Apply {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        ensure!(!self.files.is_empty(), "must specify one of -f and -k");
        let mut printer = self.print.printer(Also::Sentences)?;
        let discovery = Discovery::load(door).await?;
        let kinds = self.prune.kinds(&discovery)?;
        self.check()?;
        let manifests = self.files.read(&self.selector)?;
        ensure!(!manifests.is_empty(), "no objects passed to apply");
        let sentences = matches!(printer.form, Form::Own { .. } | Form::Name);
        let (mut failures, mut objects) = (Failures::default(), Vec::new());
        let mut applied = Applied {
            selector: &self.selector,
            manager: &self.field_manager,
            dry_run: self.dry_run,
            options: options(self.cascade, self.grace_period, self.dry_run),
            namespaces: BTreeSet::from_iter(self.namespace.clone()),
            uids: BTreeSet::new(),
        };
        for manifest in &manifests {
            match self.manifest(door, &discovery, manifest).await {
                Ok((item, object, outcome)) => {
                    applied.namespaces.extend(item.resource.namespaced.then(|| item.namespace.clone()));
                    applied.uids.insert(meta::uid(&object).to_owned());
                    if sentences {
                        let word = if self.server_side { "serverside-applied" } else { outcome };
                        printer.done(&item.named(), &object, &format!("{word}{}", self.dry_run.suffix()))?;
                    } else {
                        objects.push(object);
                    }
                }
                // kubectl names the file unless it is a server-side apply.
                Err(error) if self.server_side => failures.note(Err(error)),
                Err(error) => failures.note(Err(error.context(format!("error when applying {:?}", manifest.file)))),
            }
        }
        failures.end()?;
        match objects.as_slice() {
            [] => {}
            [object] => printer.object(object)?,
            _ => printer.object(&list(objects, json!({})))?,
        }
        applied.prune(door, &kinds, &mut printer).await
    }

    /// What cannot be said in one line.
    fn check(&self) -> Result<()> {
        ensure!(
            !self.server_side || self.dry_run != DryRun::Client,
            "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)"
        );
        ensure!(!self.server_side || !self.force, "--force cannot be used with --server-side");
        ensure!(self.dry_run != DryRun::Server || !self.force, "--dry-run=server cannot be used with --force");
        self.prune.check(&self.selector, self.force, self.server_side)?;
        ensure!(
            self.server_side || self.subresource.is_empty(),
            "--subresource can only be specified for --server-side"
        );
        Ok(())
    }

    /// Applies one manifest: what it is about, the object, and what became of it in kubectl's word.
    async fn manifest(
        &self,
        door: &Door,
        discovery: &Discovery,
        manifest: &Manifest,
    ) -> Result<(Item, Value, &'static str)> {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        let item =
            discovery.item(manifest, namespace).with_context(|| format!("unable to recognize {:?}", manifest.file))?;
        if self.dry_run == DryRun::Client {
            // As in kubectl, where there is an object already it is shown as it is.
            let (mut object, outcome) = match door.find(&item.path()).await? {
                Some(object) => (object, "configured"),
                None => (manifest.object.clone(), "created"),
            };
            if item.resource.namespaced {
                meta::set(&mut object, "namespace", item.namespace.as_str());
            }
            return Ok((item, object, outcome));
        }
        let query = [
            ("force", if self.force_conflicts || self.force { "true" } else { "" }),
            ("dryRun", self.dry_run.query()),
            ("fieldManager", &self.field_manager),
            ("fieldValidation", &format!("{:?}", self.validate)),
        ];
        match one(door, &item, &manifest.object, &self.subresource, &query).await {
            Err(error) if self.force && status(&error).is_some_and(|status| [409, 422].contains(&status.code)) => {
                let Some(before) = door.find(&item.path()).await? else { return Err(error) };
                let object = self.again(door, &item, before, manifest.object.clone(), &query).await?;
                Ok((item, object, "configured"))
            }
            applied => applied.map(|(object, outcome)| (item, object, outcome)),
        }
    }

    /// Deletes an object and creates it as it should be; if that cannot be, as it was.
    async fn again(
        &self,
        door: &Door,
        item: &Item,
        mut before: Value,
        mut wanted: Value,
        query: &[(&str, &str)],
    ) -> Result<Value> {
        door.delete(&item.path(), &options(self.cascade, self.grace_period, DryRun::None)).await?;
        let time = if self.timeout.is_zero() { FOREVER } else { self.timeout };
        wait::until_gone(door, item, meta::uid(&before), time).await?;
        meta::unset(&mut wanted, "resourceVersion");
        match one(door, item, &wanted, "", query).await {
            Ok((object, _)) => Ok(object),
            Err(error) => {
                meta::unset(&mut before, "resourceVersion");
                let path =
                    with_query(&item.resource.path(Some(&item.namespace)), &[("fieldManager", &self.field_manager)]);
                let restored = door.post(&path, &before).await;
                restored.map_err(|second| anyhow::anyhow!(
                    "An error occurred force-replacing the existing object with the newly provided one:\n\n{}.\n\nAdditionally, an error occurred attempting to restore the original object:\n\n{}",
                    plain(&error), plain(&second)
                ))?;
                Err(error)
            }
        }
    }
}

/// Applies one object: what it is then, and what became of it in kubectl's word.
pub async fn one(
    door: &Door,
    item: &Item,
    object: &Value,
    subresource: &str,
    query: &[(&str, &str)],
) -> Result<(Value, &'static str)> {
    let before = door.find(&item.path()).await?;
    let path = if subresource.is_empty() { item.path() } else { format!("{}/{subresource}", item.path()) };
    let after = door.patch(&with_query(&path, query), Patch::Apply, object).await?;
    let outcome = match before {
        None => "created",
        Some(before) if meta::resource_version(&before) == meta::resource_version(&after) => "unchanged",
        Some(_) => "configured",
    };
    Ok((after, outcome))
}
