//! `coracle delete`: kubectl's delete; waits until the objects are gone.
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::door::{Door, status};
use super::error::Failures;
use super::objects::Objects;
use super::output::DryRun;
use super::resource::{Discovery, Item};
use super::scope::{FOREVER, duration};
use super::wait;
use crate::api::meta;

/// Flags of `delete`.
#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    objects: Objects,
    /// Seconds a pod has to end by itself
    #[arg(long, default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    grace_period: i64,
    /// With --grace-period=0: do not even wait for the node
    #[arg(long)]
    force: bool,
    /// Grace period of one second
    #[arg(long)]
    now: bool,
    /// What happens to what the object owns
    #[arg(long, value_enum, default_value = "background", num_args = 0..=1, require_equals = true, default_missing_value = "background")]
    cascade: Cascade,
    /// Return when the objects are gone
    #[arg(long, default_value = "true")]
    wait: bool,
    /// How long to wait; 0 is as long as it takes
    #[arg(long, default_value = "0s", value_parser = duration)]
    timeout: Duration,
    /// An object that does not exist is not an error
    #[arg(long)]
    ignore_not_found: bool,
    /// Only say what would be done (client), or do everything but store it (server)
    #[arg(long, value_enum, default_value = "none")]
    dry_run: DryRun,
    /// Ask before anything is deleted
    #[arg(short, long)]
    interactive: bool,
    /// Only "name", for scripts
    #[arg(short, long, default_value = "", hide_default_value = true)]
    output: String,
    /// A path to delete as it is
    #[arg(long)]
    raw: Option<String>,
}

/// DeleteOptions' propagationPolicy.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Cascade {
    #[value(alias = "true")]
    Background,
    Foreground,
    #[value(alias = "false")]
    Orphan,
}

/// DeleteOptions; a negative grace period leaves it to the object.
pub fn options(cascade: Cascade, grace: i64, dry_run: DryRun) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": format!("{cascade:?}")});
    if grace >= 0 {
        options["gracePeriodSeconds"] = json!(grace);
    }
    if dry_run == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    options
}

impl Delete {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        if let Some(path) = &self.raw {
            print!("{}", super::print::json(&door.delete(path, &json!({})).await?));
            return Ok(());
        }
        let mode = self.output.as_str();
        ensure!(["", "name"].contains(&mode), "unexpected -o output mode: {mode}. We only support '-o name'");
        ensure!(!self.now || self.grace_period < 0, "--now and --grace-period cannot be specified together");
        self.objects.must_name()?;
        if self.force {
            eprintln!(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
            );
        }
        let items = self.objects.items(door, &Discovery::load(door).await?).await?;
        if items.is_empty() {
            println!("No resources found");
        } else if self.interactive && !confirmed(&items)? {
            println!("deletion is cancelled");
            return Ok(());
        }
        let mut failures = Failures::default();
        let mut gone = Vec::new();
        for item in items {
            match self.one(door, &item).await {
                Ok(uid) => gone.push((item, uid)),
                Err(error) => failures.note(self.judge(error, &item)),
            }
        }
        let time = if self.timeout.is_zero() { FOREVER } else { self.timeout };
        for (item, uid) in gone.iter().filter(|_| self.wait && self.dry_run == DryRun::None) {
            failures.note(wait::until_gone(door, item, uid, time).await);
        }
        failures.end()
    }

    /// Deletes one object; its uid.
    async fn one(&self, door: &Door, item: &Item) -> Result<String> {
        let answer = match self.dry_run {
            DryRun::Client => Value::Null,
            _ => door.delete(&item.path(), &self.options()).await?,
        };
        self.say(item);
        // Of the object that goes, or of a Status that says it is gone.
        Ok(["metadata", "details"].map(|at| meta::text(&answer, &[at, "uid"])).concat())
    }

    /// An error with its file, or none where the object may be missing.
    fn judge(&self, error: anyhow::Error, item: &Item) -> Result<()> {
        let missing = status(&error).is_some_and(|status| status.code == 404);
        match &item.file {
            _ if missing && (self.ignore_not_found || self.objects.all) => Ok(()),
            Some(file) => Err(error.context(format!("error when deleting {file:?}"))),
            None => Err(error),
        }
    }

    fn options(&self) -> Value {
        let grace = match (self.now, self.force, self.grace_period) {
            (true, _, _) => 1,
            (_, true, -1) => 0,
            // At once needs --force.
            (_, false, 0) => 1,
            (_, _, grace) => grace,
        };
        options(self.cascade, grace, self.dry_run)
    }

    fn say(&self, item: &Item) {
        if self.output == "name" {
            println!("{}", item.named());
            return;
        }
        let force = if self.force { "force " } else { "" };
        let place =
            if item.resource.namespaced { format!(" from {} namespace", item.namespace) } else { String::new() };
        println!("{} {:?} {force}deleted{place}{}", item.resource.type_name(), item.name, self.dry_run.suffix());
    }
}

fn confirmed(items: &[Item]) -> Result<bool> {
    println!("You are about to delete the following {} resource(s):", items.len());
    items.iter().for_each(|item| println!("{}", item.named()));
    print!("Do you want to continue? (y/N): ");
    std::io::Write::flush(&mut std::io::stdout())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
