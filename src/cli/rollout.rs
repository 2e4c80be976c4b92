//! `coracle rollout`: status, history, undo, restart, pause and resume of Deployments.
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::door::{Door, MANAGER, Patch, with_query};
use super::error::Failures;
use super::objects::Named;
use super::output::{Also, DryRun, Form, Print, Printer, items};
use super::resource::{Discovery, Item};
use super::scope::{FOREVER, duration};
use super::wait;
use super::{describe, print};
use crate::api::meta;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// Flags of `rollout`.
#[derive(Args)]
pub struct Rollout {
    #[command(subcommand)]
    verb: Verb,
    /// Namespace
    #[arg(short, long, global = true, default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    namespace: String,
}

#[derive(Subcommand)]
enum Verb {
    /// Follow a rollout until it is done
    Status(Status),
    /// The revisions there are
    History(History),
    /// Back to an earlier revision
    Undo(Undo),
    /// New pods of the same template
    Restart(Change),
    /// Let changes wait
    Pause(Change),
    /// Let changes happen again
    Resume(Change),
}

#[derive(Args)]
struct Status {
    #[command(flatten)]
    named: Named,
    /// Follow it (true), or say how far it is
    #[arg(short, long, default_value = "true")]
    watch: bool,
    /// How long to follow; 0 is as long as it takes
    #[arg(long, default_value = "0s", value_parser = duration)]
    timeout: Duration,
    /// Of this revision only
    #[arg(long, default_value_t = 0)]
    revision: i64,
}

#[derive(Args)]
struct History {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    print: Print,
    /// Show the pod template of this revision
    #[arg(long, default_value_t = 0)]
    revision: i64,
}

#[derive(Args)]
struct Undo {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    print: Print,
    /// The revision to go back to; 0 is the one before
    #[arg(long, default_value_t = 0)]
    to_revision: i64,
    /// Only show what would be done (client), or do everything but store it (server)
    #[arg(long, value_enum, default_value = "none")]
    dry_run: DryRun,
}

/// Flags of what is one patch.
#[derive(Args)]
struct Change {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    print: Print,
    /// In whose name fields are managed
    #[arg(long, default_value = MANAGER)]
    field_manager: String,
}

/// One Deployment, and how to ask for what belongs to it.
struct Subject<'a> {
    door: &'a Door,
    discovery: &'a Discovery,
    item: &'a Item,
    deployment: Value,
}

impl Rollout {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        let (named, print) = match &self.verb {
            Verb::Status(it) => (&it.named, &Print::default()),
            Verb::History(it) => (&it.named, &it.print),
            Verb::Undo(it) => (&it.named, &it.print),
            Verb::Restart(it) | Verb::Pause(it) | Verb::Resume(it) => (&it.named, &it.print),
        };
        let objects = named.objects(&self.namespace);
        ensure!(!objects.is_empty(), "required resource not specified");
        let mut printer = print.printer(Also::Sentences)?;
        let discovery = Discovery::load(door).await?;
        let all = objects.items(door, &discovery).await?;
        if all.is_empty() && !matches!(self.verb, Verb::History(_)) {
            objects.scope.say_nothing_found(true);
        }
        let mut failures = Failures::default();
        for item in &all {
            failures.note(self.one(door, &discovery, item, &mut printer).await);
        }
        failures.end()
    }

    async fn one(&self, door: &Door, discovery: &Discovery, item: &Item, printer: &mut Printer) -> Result<()> {
        let subject = Subject { door, discovery, item, deployment: door.get(&item.path()).await? };
        ensure!(item.resource.kind == "Deployment", self.refusal(item));
        let paused = meta::at(&subject.deployment, &["spec", "paused"]) == Some(&Value::Bool(true));
        let (change, patch, done) = match &self.verb {
            Verb::Status(status) => return status.run(&subject).await,
            Verb::History(history) => return history.run(&subject, printer).await,
            Verb::Undo(undo) => return undo.run(&subject, printer).await,
            Verb::Restart(_) if paused => {
                bail!("error: {} can't restart paused deployment (run rollout resume first)", item.quoted())
            }
            Verb::Restart(change) => {
                let now = meta::time(jiff::Timestamp::now());
                (change, json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}}), "restarted")
            }
            Verb::Pause(_) if paused => bail!("error: {} is already paused", item.quoted()),
            Verb::Pause(change) => (change, json!({"spec": {"paused": true}}), "paused"),
            Verb::Resume(_) if !paused => bail!("error: {} is not paused", item.quoted()),
            Verb::Resume(change) => (change, json!({"spec": {"paused": null}}), "resumed"),
        };
        let path = with_query(&item.path(), &[("fieldManager", &change.field_manager)]);
        let changed = door.patch(&path, Patch::Merge, &patch).await?;
        printer.done(&item.named(), &changed, done)
    }

    /// What kubectl says of kinds that have no rollouts.
    fn refusal(&self, item: &Item) -> String {
        let kind = &item.resource.kind;
        let what = match self.verb {
            Verb::Status(_) => {
                return format!("no status viewer has been implemented for {}", item.resource.kind_name());
            }
            Verb::History(_) => return format!("no history viewer has been implemented for {kind:?}"),
            Verb::Undo(_) => return format!("no rollbacker has been implemented for {kind:?}"),
            Verb::Restart(_) => "restarting",
            Verb::Pause(_) => "pausing",
            Verb::Resume(_) => "resuming",
        };
        format!("error: {} {what} is not supported", item.quoted())
    }
}

impl History {
    async fn run(&self, subject: &Subject<'_>, printer: &mut Printer) -> Result<()> {
        let mut all = subject.revisions().await?;
        if self.revision > 0 {
            all.retain(|(revision, _)| *revision == self.revision);
            ensure!(!all.is_empty(), "unable to find the specified revision");
        }
        if !matches!(printer.form, Form::Own { .. }) {
            let sets = subject.discovery.find("replicasets")?;
            return all.iter().try_for_each(|(_, set)| printer.done(&sets.named(meta::name(set)), set, ""));
        }
        if let (true, [(revision, set)]) = (self.revision > 0, all.as_slice()) {
            println!("{} with revision #{revision}", subject.item.named());
            let mut template = meta::at(set, &["spec", "template"]).cloned().unwrap_or_default();
            if let Some(cause) = meta::annotation(set, CAUSE) {
                meta::map_mut(&mut template, &["metadata", "annotations"]).insert(CAUSE.into(), cause.into());
            }
            // kubectl does not make columns of this.
            println!("{}", describe::template(&template));
            return Ok(());
        }
        let mut page = String::from("REVISION\tCHANGE-CAUSE\n");
        for (revision, set) in &all {
            let cause = meta::annotation(set, CAUSE).unwrap_or("<none>");
            describe::row(&mut page, 0, &[&revision.to_string(), cause]);
        }
        println!("{} \n{}", subject.item.named(), describe::align(&page));
        Ok(())
    }
}

impl Undo {
    async fn run(&self, subject: &Subject<'_>, printer: &mut Printer) -> Result<()> {
        let Subject { item, deployment, .. } = subject;
        let mut all = subject.revisions().await?;
        let to = self.to_revision;
        let wanted = if to > 0 {
            all.into_iter().find(|(revision, _)| *revision == to)
        } else {
            all.pop();
            all.pop()
        };
        let Some((_, set)) = wanted else {
            ensure!(to == 0, "unable to find specified revision {to} in history");
            bail!("no rollout history found for deployment {:?}", item.name);
        };
        let mut template = meta::at(&set, &["spec", "template"]).cloned().unwrap_or_default();
        let suffix = self.dry_run.suffix();
        if self.dry_run == DryRun::Client {
            return printer.done(&item.named(), deployment, &format!("{}{suffix}", describe::template(&template)));
        }
        // The hash is the ReplicaSet's, not the template's.
        meta::map_mut(&mut template, &["metadata", "labels"]).shift_remove("pod-template-hash");
        if meta::at(deployment, &["spec", "template"]) == Some(&template) {
            let skipped = format!("skipped rollback (current template already matches revision {to}){suffix}");
            return printer.done(&item.named(), deployment, &skipped);
        }
        // Not a replacement of the whole: the controller writes at the same time.
        let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
        let path = with_query(&item.path(), &[("dryRun", self.dry_run.query())]);
        subject.door.patch(&path, Patch::Json, &patch).await?;
        printer.done(&item.named(), deployment, &format!("rolled back{suffix}"))
    }
}

impl Status {
    /// Follows one rollout, a line a change.
    async fn run(&self, Subject { door, item, deployment, .. }: &Subject<'_>) -> Result<()> {
        let pinned = |object: &Value| match revision(object) {
            running if self.revision > 0 && running != self.revision => {
                bail!("desired revision ({}) is different from the running revision ({running})", self.revision)
            }
            _ => progress(object),
        };
        let (line, _) = pinned(deployment)?;
        if !self.watch {
            println!("{line}");
            return Ok(());
        }
        let mut last = String::new();
        let time = if self.timeout.is_zero() { FOREVER } else { self.timeout };
        let done = wait::until(door, item, time, |object| {
            let Some(object) = object else { bail!("{} was deleted", item.quoted()) };
            let (line, done) = pinned(object)?;
            if line != last {
                println!("{line}");
                last = line;
            }
            Ok(done)
        });
        ensure!(done.await?, "timed out waiting for the condition");
        Ok(())
    }
}

impl Subject<'_> {
    /// The Deployment's own ReplicaSets by revision.
    async fn revisions(&self) -> Result<Vec<(i64, Value)>> {
        let selector = print::labels(meta::map(&self.deployment, &["spec", "selector", "matchLabels"]), ",");
        let sets = self.discovery.find("replicasets")?.path(Some(&self.item.namespace));
        let list = self.door.get(&with_query(&sets, &[("labelSelector", &selector)])).await?;
        let own = |set: &Value| {
            meta::controller_of(set).is_some_and(|owner| meta::text(owner, &["uid"]) == meta::uid(&self.deployment))
        };
        let mut all: Vec<(i64, Value)> =
            items(&list).into_iter().filter(own).map(|set| (revision(&set), set)).collect();
        all.sort_by_key(|(revision, _)| *revision);
        Ok(all)
    }
}

/// Which revision a Deployment or a ReplicaSet is.
fn revision(object: &Value) -> i64 {
    meta::annotation(object, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How far a Deployment is, in kubectl's words; whether it is there.
pub fn progress(deployment: &Value) -> Result<(String, bool)> {
    let name = meta::name(deployment);
    let count = |path: &[&str]| meta::int(deployment, path).unwrap_or(0);
    let (wanted, all) = (meta::int(deployment, &["spec", "replicas"]).unwrap_or(1), count(&["status", "replicas"]));
    let (updated, available) = (count(&["status", "updatedReplicas"]), count(&["status", "availableReplicas"]));
    if meta::generation(deployment) > count(&["status", "observedGeneration"]) {
        return Ok(("Waiting for deployment spec update to be observed...".into(), false));
    }
    let progressing =
        meta::list(deployment, &["status", "conditions"]).iter().find(|c| meta::text(c, &["type"]) == "Progressing");
    if progressing.is_some_and(|c| meta::text(c, &["reason"]) == "ProgressDeadlineExceeded") {
        bail!("deployment {name:?} exceeded its progress deadline");
    }
    let waiting = |what: String| Ok((format!("Waiting for deployment {name:?} rollout to finish: {what}..."), false));
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if all > updated {
        return waiting(format!("{} old replicas are pending termination", all - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok((format!("deployment {name:?} successfully rolled out"), true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_tells_how_far_it_is() {
        let mut web = json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3},
            "status": {"observedGeneration": 1, "replicas": 4, "updatedReplicas": 2, "availableReplicas": 3}});
        let line = |web: &Value| progress(web).unwrap();
        assert_eq!(line(&web).0, "Waiting for deployment spec update to be observed...");
        web["status"]["observedGeneration"] = json!(2);
        assert_eq!(
            line(&web).0,
            "Waiting for deployment \"web\" rollout to finish: 2 out of 3 new replicas have been updated..."
        );
        web["status"]["updatedReplicas"] = json!(3);
        assert_eq!(
            line(&web).0,
            "Waiting for deployment \"web\" rollout to finish: 1 old replicas are pending termination..."
        );
        web["status"]["replicas"] = json!(3);
        assert_eq!(line(&web), ("deployment \"web\" successfully rolled out".to_owned(), true));
        web["status"]["conditions"] = json!([{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]);
        assert!(progress(&web).is_err());
    }
}
