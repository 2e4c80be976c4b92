//! `coracle scale`: kubectl's scale.
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::door::{Door, Patch, with_query};
use super::error::Failures;
use super::objects::Objects;
use super::output::{Also, DryRun, Print, Printer};
use super::resource::{Discovery, Item};
use super::scope::duration;
use super::wait;
use crate::api::meta;

/// Flags of `scale`.
#[derive(Args)]
pub struct Scale {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    print: Print,
    /// The number of replicas there should be
    #[arg(long, allow_negative_numbers = true)]
    replicas: i64,
    /// Only if there are this many now
    #[arg(long, default_value_t = -1, hide_default_value = true, allow_negative_numbers = true)]
    current_replicas: i64,
    /// Only if the object is at this version
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
    /// Only say what would be done (client), or do everything but store it (server)
    #[arg(long, value_enum, default_value = "none")]
    dry_run: DryRun,
    /// Wait this long until there are as many; 0 is not to wait
    #[arg(long, default_value = "0s", value_parser = duration)]
    timeout: Duration,
}

impl Scale {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        ensure!(
            self.replicas >= 0,
            "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0"
        );
        self.objects.must_name()?;
        let mut printer = self.print.printer(Also::Sentences)?;
        let items = self.objects.items(door, &Discovery::load(door).await?).await?;
        ensure!(!items.is_empty(), "no objects passed to scale");
        let mut failures = Failures::default();
        for item in &items {
            failures.note(self.one(door, item, &mut printer).await);
        }
        failures.end()
    }

    async fn one(&self, door: &Door, item: &Item, printer: &mut Printer) -> Result<()> {
        let object = door.get(&item.path()).await?;
        let path = format!("{}/scale", item.path());
        let scale = door.get(&path).await?;
        let (version, now) = (meta::resource_version(&scale), meta::int(&scale, &["spec", "replicas"]).unwrap_or(0));
        if self.current_replicas >= 0 && self.current_replicas != now {
            bail!("Expected replicas to be {}, was {now}", self.current_replicas);
        }
        if !self.resource_version.is_empty() && self.resource_version != version {
            bail!("Expected resource version to be {}, was {version}", self.resource_version);
        }
        if self.dry_run != DryRun::Client {
            let path = with_query(&path, &[("dryRun", self.dry_run.query())]);
            door.patch(&path, Patch::Merge, &json!({"spec": {"replicas": self.replicas}})).await?;
        }
        if self.dry_run == DryRun::None && !self.timeout.is_zero() {
            let there = wait::until(door, item, self.timeout, |object| Ok(object.is_some_and(|it| self.reached(it))));
            ensure!(there.await?, "timed out waiting for {:?} to be synced", item.name);
        }
        printer.done(&item.named(), &object, &format!("scaled{}", self.dry_run.suffix()))
    }

    /// As many as there should be, and the controller knows it.
    fn reached(&self, object: &Value) -> bool {
        let status = |field: &str| meta::int(object, &["status", field]).unwrap_or(0);
        status("replicas") == self.replicas && status("observedGeneration") >= meta::generation(object)
    }
}
