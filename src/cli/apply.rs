//! `coracle apply`: server-side apply, always. The server merges and remembers who set which field, so there is no copy
//! of the last configuration in an annotation; another manager's fields are a conflict unless it is forced.
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::door::{Door, MANAGER, Patch, with_query};
use super::error::Failures;
use super::output::{Also, DryRun, Form, Print, list};
use super::resource::Discovery;
use super::scope::{Files, Manifest};
use crate::api::meta;

/// Flags of `apply`.
#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    print: Print,
    /// Namespace for objects that do not name one
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Only the objects with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Take over fields that others manage
    #[arg(long)]
    force_conflicts: bool,
    /// With server, do everything but store it
    #[arg(long, value_enum, default_value = "none")]
    dry_run: DryRun,
    /// In whose name fields are managed
    #[arg(long, default_value = MANAGER)]
    field_manager: String,
    /// What unknown fields are: strict (an error), warn or ignore
    #[arg(long, value_enum, default_value = "strict")]
    validate: Validate,
    /// Apply to a subresource, as in status
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Every apply here is a server-side apply; with this it is called so, as kubectl calls it
    #[arg(long)]
    server_side: bool,
    #[command(flatten)]
    client_side: ClientSide,
}

/// What kubectl's client-side apply has and a server-side apply has no use for.
#[derive(Args)]
struct ClientSide {
    /// Not done here: delete what is not wanted any more with `coracle delete -l LABELS`
    #[arg(long)]
    prune: bool,
    /// Changes nothing, as --prune-allowlist does not: they are for --prune
    #[arg(long, alias = "prune-allowlist", num_args = 0..=1)]
    all: Vec<String>,
    /// Not done here: replace an object with `coracle delete -f FILE && coracle apply -f FILE`
    #[arg(long)]
    force: bool,
    /// The server merges; false is refused
    #[arg(long, default_value = "true")]
    openapi_patch: bool,
    /// Changes nothing: a conflict is an error unless --force-conflicts is given
    #[arg(long, default_value = "true")]
    overwrite: bool,
    /// Changes nothing, as --cascade, --timeout and --wait do not: no apply here deletes
    #[arg(long, aliases = ["cascade", "timeout", "wait"], num_args = 0..=1, allow_negative_numbers = true)]
    grace_period: Vec<String>,
}

impl ClientSide {
    fn refuse(&self) -> Result<()> {
        ensure!(
            !self.prune,
            "--prune is not done here; delete what is not wanted any more, as with `coracle delete -l`"
        );
        ensure!(!self.force, "--force cannot be used with --server-side; use `coracle delete -f` and apply again");
        ensure!(self.openapi_patch, "--openapi-patch=false is not done here: the server merges; leave the flag out");
        Ok(())
    }
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
        self.client_side.refuse()?;
        ensure!(
            self.dry_run != DryRun::Client,
            "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)"
        );
        let mut printer = self.print.printer(Also::Sentences)?;
        let manifests = self.files.read(&self.selector)?;
        ensure!(!manifests.is_empty(), "no objects passed to apply");
        let discovery = Discovery::load(door).await?;
        let query = [
            ("force", if self.force_conflicts { "true" } else { "" }),
            ("dryRun", self.dry_run.query()),
            ("fieldManager", &self.field_manager),
            ("fieldValidation", &format!("{:?}", self.validate)),
        ];
        let (mut failures, mut applied) = (Failures::default(), Vec::new());
        for manifest in &manifests {
            match one(door, &discovery, manifest, &self.namespace, &self.subresource, &query).await {
                Ok((name, object, outcome)) if matches!(printer.form, Form::Own { .. } | Form::Name) => {
                    let word = if self.server_side { "serverside-applied" } else { outcome };
                    printer.done(&name, &object, &format!("{word}{}", self.dry_run.suffix()))?;
                }
                Ok((_, object, _)) => applied.push(object),
                // kubectl names the file unless it is a server-side apply.
                Err(error) if self.server_side => failures.note(Err(error)),
                Err(error) => failures.note(Err(error.context(format!("error when applying {:?}", manifest.file)))),
            }
        }
        match applied.as_slice() {
            [] => {}
            [object] => printer.object(object)?,
            _ => printer.object(&list(applied, json!({})))?,
        }
        failures.end()
    }
}

/// Applies one manifest: the object's name as results show it, the object, and what became of it in kubectl's word.
pub async fn one(
    door: &Door,
    discovery: &Discovery,
    manifest: &Manifest,
    namespace: &str,
    subresource: &str,
    query: &[(&str, &str)],
) -> Result<(String, Value, &'static str)> {
    let item =
        discovery.item(manifest, namespace).with_context(|| format!("unable to recognize {:?}", manifest.file))?;
    let before = door.find(&item.path()).await?;
    let path = if subresource.is_empty() { item.path() } else { format!("{}/{subresource}", item.path()) };
    let after = door.patch(&with_query(&path, query), Patch::Apply, &manifest.object).await?;
    let outcome = match before {
        None => "created",
        Some(before) if meta::resource_version(&before) == meta::resource_version(&after) => "unchanged",
        Some(_) => "configured",
    };
    Ok((item.named(), after, outcome))
}
