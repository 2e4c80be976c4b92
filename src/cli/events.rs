//! `coracle events`: kubectl's events.
use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::door::{Door, with_query};
use super::get::follow_lines;
use super::output::{Also, Form, Print, items};
use super::print::Columns;
use super::resource::Discovery;
use super::scope::Scope;
use crate::api::{duration, meta};

/// Flags of `events`.
#[derive(Args)]
pub struct Events {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    print: Print,
    /// Only those of one object, as in pod/web-1
    #[arg(long = "for")]
    about: Option<String>,
    /// Only these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Go on as they come
    #[arg(short, long)]
    watch: bool,
    /// No header line
    #[arg(long)]
    no_headers: bool,
}

impl Events {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        let mut known = self.types.iter().map(|name| name.to_lowercase());
        ensure!(known.all(|name| ["normal", "warning"].contains(&&*name)), "valid --types are Normal or Warning");
        let mut printer = self.print.printer(Also::Sentences)?;
        let discovery = Discovery::load(door).await?;
        let mut selector = String::new();
        if let Some(about) = &self.about {
            ensure!(about.contains('/'), "--for must be in resource/name form");
            let item = discovery.one(std::slice::from_ref(about), None, &self.scope.namespace)?;
            selector = format!("involvedObject.kind={},involvedObject.name={}", item.resource.kind, item.name);
        }
        let path = with_query(&discovery.find("events")?.path(self.scope.namespace()), &[("fieldSelector", &selector)]);
        let list = door.get(&path).await?;
        let mut events: Vec<Value> = items(&list).into_iter().filter(|event| self.wanted(event)).collect();
        events.sort_by_key(|event| last_seen(event).to_owned());
        for event in &mut events {
            // kubectl's own type has this field always.
            meta::map_mut(event, &[]).entry("eventTime").or_insert(Value::Null);
        }
        let mut columns = Columns::default();
        match (&printer.form, events.is_empty(), self.watch) {
            (_, true, false) => match self.scope.namespace() {
                Some(namespace) => eprintln!("No events found in {namespace} namespace."),
                None => eprintln!("No events found."),
            },
            (Form::Own { .. }, ..) => {
                let mut rows = if self.no_headers { Vec::new() } else { vec![self.header()] };
                rows.extend(events.iter().map(|event| self.row(event)));
                print!("{}", columns.lines(&rows));
            }
            (_, _, true) => events.iter().try_for_each(|event| printer.object(event))?,
            _ => {
                let all = json!({"apiVersion": "v1", "items": events, "kind": "EventList", "metadata": {}});
                printer.object(&all)?;
            }
        }
        if !self.watch {
            return Ok(());
        }
        let version = meta::text(&list, &["metadata", "resourceVersion"]);
        let path = with_query(&path, &[("watch", "true"), ("resourceVersion", version)]);
        follow_lines(door.stream(&path, "application/json").await?, |_, event| {
            match printer.form {
                _ if !self.wanted(event) => {}
                Form::Own { .. } => print!("{}", columns.lines(&[self.row(event)])),
                _ => printer.object(event)?,
            }
            Ok(false)
        })
        .await?;
        bail!("the watch ended: is the daemon gone?")
    }

    fn wanted(&self, event: &Value) -> bool {
        self.types.is_empty()
            || self.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(meta::text(event, &["type"])))
    }

    fn header(&self) -> Vec<String> {
        let mut header = if self.scope.all_namespaces { vec!["NAMESPACE"] } else { Vec::new() };
        header.extend(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
        header.into_iter().map(str::to_owned).collect()
    }

    fn row(&self, event: &Value) -> Vec<String> {
        let mut row = if self.scope.all_namespaces { vec![meta::namespace(event).to_owned()] } else { Vec::new() };
        row.extend(cells(event, jiff::Timestamp::now()));
        row
    }
}

/// Time of an event's last occurrence, whichever of its three fields has it.
pub fn last_seen(event: &Value) -> &str {
    let fields: [&[&str]; 5] = [
        &["series", "lastObservedTime"],
        &["lastTimestamp"],
        &["eventTime"],
        &["firstTimestamp"],
        &["metadata", "creationTimestamp"],
    ];
    fields.iter().map(|path| meta::text(event, path)).find(|time| !time.is_empty()).unwrap_or("")
}

/// `3s (x4 over 1m)`, type, reason, object, message.
pub fn cells(event: &Value, now: jiff::Timestamp) -> Vec<String> {
    let count = meta::int(event, &["series", "count"]).or(meta::int(event, &["count"])).unwrap_or(1);
    let mut age = duration::since(last_seen(event), now);
    if count > 1 {
        let first = meta::text(event, &["firstTimestamp"]);
        let first = if first.is_empty() { meta::text(event, &["eventTime"]) } else { first };
        age = format!("{age} (x{count} over {})", duration::since(first, now));
    }
    let [kind, name] = ["kind", "name"].map(|field| meta::text(event, &["involvedObject", field]));
    let text = |field: &str| meta::text(event, &[field]).trim().to_owned();
    vec![age, text("type"), text("reason"), format!("{kind}/{name}"), text("message")]
}
