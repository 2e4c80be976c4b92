//! `coracle wait`, and waiting on a condition by watching for everybody else.
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use super::door::{Door, with_query};
use super::error::Failures;
use super::get::follow_lines;
use super::jsonpath::{Template, text};
use super::objects::Objects;
use super::output::{Also, Print, Printer};
use super::resource::{Discovery, Item};
use super::scope::duration;
use crate::api::meta;

/// Flags of `wait`.
#[derive(Args)]
pub struct Wait {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    print: Print,
    /// delete, create, condition=NAME[=VALUE] or jsonpath=TEMPLATE[=VALUE]
    #[arg(long = "for", default_value = "", hide_default_value = true)]
    condition: String,
    /// How long to wait; 0 is to look once
    #[arg(long, default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Of -f: judge the manifests as they are, once, instead of what is in the cluster
    #[arg(long)]
    local: bool,
}

/// `--for`, parsed.
enum Condition {
    Delete,
    Create,
    Status(String, String),
    Path(Template, Option<String>),
}

impl Condition {
    fn parse(text: &str) -> Result<Condition> {
        if let Some(rest) = text.strip_prefix("condition=") {
            let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
            return Ok(Condition::Status(name.to_owned(), value.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("jsonpath=") {
            let split = rest.rfind('}').map(|at| at + 1).or(rest.find('=')).unwrap_or(rest.len());
            let value = rest[split..].strip_prefix('=').map(str::to_owned);
            let no_value =
                "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3";
            ensure!(value.as_deref() != Some(""), no_value);
            return Ok(Condition::Path(Template::relaxed(rest[..split].trim_matches('\''))?, value));
        }
        match text {
            "delete" => Ok(Condition::Delete),
            "create" => Ok(Condition::Create),
            _ => bail!("unrecognized condition: {text:?}"),
        }
    }

    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Condition::Delete, object) => object.is_none(),
            (Condition::Create, object) => object.is_some(),
            (_, None) => false,
            (Condition::Status(name, value), Some(object)) => {
                condition(object, name).eq_ignore_ascii_case(value) && current(object, name)
            }
            (Condition::Path(template, value), Some(object)) => {
                let found = template.select(object);
                match value {
                    Some(value) => found.iter().any(|found| text(found) == *value),
                    None => !found.is_empty(),
                }
            }
        }
    }
}

/// Status of a condition, "" when it is not there.
pub fn condition<'a>(object: &'a Value, name: &str) -> &'a str {
    find_condition(object, name).map_or("", |condition| meta::text(condition, &["status"]))
}

fn find_condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let mut all = meta::list(object, &["status", "conditions"]).iter();
    all.find(|condition| meta::text(condition, &["type"]).eq_ignore_ascii_case(name))
}

/// Whether the status speaks of the spec as it is now.
fn current(object: &Value, name: &str) -> bool {
    let seen = find_condition(object, name).and_then(|condition| meta::int(condition, &["observedGeneration"]));
    let seen = seen.or_else(|| meta::int(object, &["status", "observedGeneration"]));
    seen.is_none_or(|seen| seen >= meta::generation(object))
}

impl Wait {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        let condition = Condition::parse(&self.condition)?;
        let mut printer = self.print.printer(Also::Sentences)?;
        let discovery = Discovery::load(door).await?;
        if self.local && !self.objects.is_empty() {
            return self.judge(&discovery, &condition, &mut printer);
        }
        self.objects.must_name()?;
        let end = tokio::time::Instant::now() + self.timeout;
        let items = self.objects.items(door, &discovery).await?;
        ensure!(!items.is_empty() || matches!(condition, Condition::Delete), "no matching resources found");
        let mut failures = Failures::default();
        for item in &items {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            failures.note(self.one(door, item, &condition, left, &mut printer).await);
        }
        failures.end()
    }

    /// kubectl does this for `--for=create`, and falls over a null pointer for anything else.
    fn judge(&self, discovery: &Discovery, condition: &Condition, printer: &mut Printer) -> Result<()> {
        ensure!(
            !self.objects.files.is_empty(),
            "you must specify resources by --filename when --local is set.\nExample resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'"
        );
        let mut failures = Failures::default();
        for manifest in self.objects.files.read(&self.objects.select.selector)? {
            let item = discovery.item(&manifest, &self.objects.scope.namespace)?;
            if condition.holds(Some(&manifest.object)) {
                printer.done(&item.named(), &manifest.object, "condition met")?;
            } else {
                failures.note(Err(not_met(&item)));
            }
        }
        failures.end()
    }

    async fn one(
        &self,
        door: &Door,
        item: &Item,
        condition: &Condition,
        left: Duration,
        printer: &mut Printer,
    ) -> Result<()> {
        let mut last = door.find(&item.path()).await?;
        match (&last, condition) {
            // Of what is gone already kubectl says nothing.
            (None, Condition::Delete) => return Ok(()),
            // For the server's own words.
            (None, Condition::Status(..) | Condition::Path(..)) => drop(door.get(&item.path()).await?),
            _ => {}
        }
        let mut done = condition.holds(last.as_ref());
        if !done && !left.is_zero() {
            let met = until(door, item, left, |object| {
                last = object.cloned().or(last.take());
                Ok(condition.holds(object))
            });
            done = met.await?;
        }
        if !done {
            match condition {
                _ if self.timeout.is_zero() => return Err(not_met(item)),
                Condition::Create => bail!("timed out waiting for the condition"),
                _ => bail!("timed out waiting for the condition on {}/{}", item.resource.plural, item.name),
            }
        }
        printer.done(&item.named(), &last.unwrap_or_default(), "condition met")
    }
}

fn not_met(item: &Item) -> anyhow::Error {
    anyhow::anyhow!("condition not met for {}/{}", item.resource.plural, item.name)
}

/// Watches one object until `done` says so; it is called with `None` while (or after) the object does not exist. `false` when
/// the time is over.
pub async fn until(
    door: &Door,
    item: &Item,
    time: Duration,
    done: impl FnMut(Option<&Value>) -> Result<bool>,
) -> Result<bool> {
    let collection = item.resource.path(Some(&item.namespace));
    until_any(door, &with_query(&collection, &[("fieldSelector", &format!("metadata.name={}", item.name))]), time, done)
        .await
}

/// The same with any of the objects that a path selects.
pub async fn until_any(
    door: &Door,
    selected: &str,
    time: Duration,
    mut done: impl FnMut(Option<&Value>) -> Result<bool>,
) -> Result<bool> {
    let watch = async {
        let list = door.get(selected).await?;
        if done(meta::list(&list, &["items"]).first())? {
            return Ok(true);
        }
        let version = meta::text(&list, &["metadata", "resourceVersion"]);
        let path = with_query(selected, &[("watch", "true"), ("resourceVersion", version)]);
        let stream = door.stream(&path, "application/json").await?;
        let met = follow_lines(stream, |kind, object| done(Some(object).filter(|_| kind != "DELETED")));
        ensure!(met.await?, "the watch ended: is the daemon gone?");
        Ok(true)
    };
    tokio::time::timeout(time, watch).await.unwrap_or(Ok(false))
}

/// Waits until the object with this uid is gone (one of the same name may have come).
pub async fn until_gone(door: &Door, item: &Item, uid: &str, time: Duration) -> Result<()> {
    let gone =
        until(door, item, time, |object| Ok(object.is_none_or(|object| !uid.is_empty() && meta::uid(object) != uid)));
    ensure!(gone.await?, "timed out waiting for the condition on {}/{}", item.resource.plural, item.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_kubectls() {
        let pod = json!({"metadata": {"generation": 1}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let holds = |text: &str, object| Condition::parse(text).unwrap().holds(object);
        assert!(holds("condition=Ready", Some(&pod)));
        assert!(holds("condition=ready=true", Some(&pod)));
        assert!(!holds("condition=Ready=false", Some(&pod)));
        assert!(holds("jsonpath={.status.phase}=Running", Some(&pod)));
        assert!(!holds("jsonpath={.status.podIP}", Some(&pod)));
        assert!(holds("delete", None));
        assert!(!holds("create", None));
        assert!(Condition::parse("x").is_err());
    }
}
