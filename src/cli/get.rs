//! `coracle get`: kubectl's get.
use anyhow::{Result, bail, ensure};
use clap::Args;
use futures::{AsyncBufRead, AsyncBufReadExt, StreamExt};
use serde_json::Value;

use super::door::{Door, TABLE, status, with_query};
use super::error::Failures;
use super::jsonpath::Template;
use super::objects::Objects;
use super::output::{self, Also, Form, Print, Printer};
use super::print::{Columns, View};
use super::resource::{Discovery, Item};
use crate::api::meta;

/// Flags of `get`.
#[derive(Args)]
pub struct Get {
    #[command(flatten)]
    objects: Objects,
    #[command(flatten)]
    print: Print,
    /// After listing, watch for changes
    #[arg(short, long)]
    watch: bool,
    /// Watch for changes without listing first
    #[arg(long)]
    watch_only: bool,
    /// Say of each line of a watch what happened: ADDED, MODIFIED, DELETED
    #[arg(long)]
    output_watch_events: bool,
    /// Show all labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// Put the type in front of names
    #[arg(long)]
    show_kind: bool,
    /// Labels to show as columns
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// No header line
    #[arg(long)]
    no_headers: bool,
    /// Sort by a JSONPath, as in .metadata.name
    #[arg(long, value_parser = Template::relaxed)]
    sort_by: Option<Template>,
    /// An object that does not exist is not an error
    #[arg(long)]
    ignore_not_found: bool,
    /// A subresource of the objects: status or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Accepted as kubectl's; changes nothing: the columns are always the server's
    #[arg(long, default_value = "true")]
    server_print: bool,
    /// A path to ask the server for as it is
    #[arg(long)]
    raw: Option<String>,
}

impl Get {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        if let Some(path) = &self.raw {
            print!("{}", door.text(path).await?);
            return Ok(());
        }
        ensure!(!self.objects.is_empty(), "Required resource not specified.");
        let mut printer = self.print.printer(Also::Tables)?;
        let discovery = Discovery::load(door).await?;
        let items = self.objects.wanted(&discovery)?;
        let bulk = items.iter().any(|item| item.name.is_empty());
        ensure!(!bulk || self.subresource.is_empty(), "subresource cannot be used when bulk resources are specified");
        match printer.form {
            Form::Own { wide } => self.tables(door, &items, wide).await,
            _ if self.watch || self.watch_only => self.follow_objects(door, &discovery, &items, &mut printer).await,
            _ => {
                let (objects, failures) = self.found(door, &items).await?;
                let single = items.len() == 1 && !bulk;
                if !objects.is_empty() || !single {
                    printer.objects(objects, single, !self.no_headers, &discovery)?;
                }
                failures.end()
            }
        }
    }

    fn path(&self, item: &Item) -> String {
        let sub = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        self.objects.path(item) + &sub
    }

    /// A table for each kind, as long as it is the same.
    async fn tables(&self, door: &Door, items: &[Item], wide: bool) -> Result<()> {
        let mut printed = false;
        let mut failures = Failures::default();
        let kinds = items.iter().any(|item| item.resource != items[0].resource);
        for same in items.chunk_by(|a, b| a.resource == b.resource) {
            let resource = &same[0].resource;
            let view = View {
                wide,
                namespace: self.objects.scope.all_namespaces && resource.namespaced,
                show_labels: self.show_labels,
                label_columns: self.label_columns.clone(),
                prefix: (kinds || self.show_kind).then(|| resource.type_name()),
                event: self.output_watch_events && (self.watch || self.watch_only),
            };
            let mut columns = Columns::default();
            let mut rows = Vec::new();
            let mut last = Value::Null;
            for item in same {
                match self.table(door, &self.path(item)).await {
                    Ok(table) => {
                        if rows.is_empty() && !self.no_headers && !meta::list(&table, &["rows"]).is_empty() {
                            rows.push(view.header(&table));
                        }
                        rows.extend(view.rows(&table, &table, "ADDED"));
                        last = table;
                    }
                    Err(error) => failures.note(self.unless_ignored(error)),
                }
            }
            if !self.watch_only && !rows.is_empty() {
                if printed && !self.no_headers {
                    println!();
                }
                print!("{}", columns.lines(&rows));
                printed = true;
            }
            if self.watch || self.watch_only {
                failures.end()?;
                return self.follow(door, &same[0], &view, columns, last).await;
            }
        }
        failures.end()?;
        if !printed && !self.ignore_not_found {
            self.objects.scope.say_nothing_found(items.iter().any(|item| item.resource.namespaced));
        }
        Ok(())
    }

    fn unless_ignored(&self, error: anyhow::Error) -> Result<()> {
        let ignored = self.ignore_not_found && status(&error).is_some_and(|status| status.code == 404);
        if ignored { Ok(()) } else { Err(error) }
    }

    /// A Table, its rows sorted by what a path selects in the whole objects, which need a second request.
    async fn table(&self, door: &Door, path: &str) -> Result<Value> {
        let mut table = door.table(path).await?;
        if let (Some(by), Some(Value::Array(rows))) = (&self.sort_by, table.get_mut("rows")) {
            let objects = door.get(path).await?;
            let of_row = |row: &Value| {
                let uid = meta::text(row, &["object", "metadata", "uid"]);
                key(by, meta::list(&objects, &["items"]).iter().find(|object| meta::uid(object) == uid))
            };
            rows.sort_by(|a, b| compare(&of_row(a), &of_row(b)));
        }
        Ok(table)
    }

    /// Path of the watch that goes on where a list or an object ended.
    fn watch_path(&self, item: &Item, from: &Value) -> String {
        let version = match meta::list(from, &["rows"]) {
            [row] if !item.name.is_empty() => meta::text(row, &["object", "metadata", "resourceVersion"]),
            _ => meta::text(from, &["metadata", "resourceVersion"]),
        };
        let mut select = self.objects.select.clone();
        if !item.name.is_empty() {
            select.field_selector = format!("metadata.name={}", item.name);
        }
        let path = select.query(&item.resource.path(Some(&item.namespace)));
        with_query(&path, &[("watch", "true"), ("resourceVersion", version)])
    }

    async fn follow(&self, door: &Door, item: &Item, view: &View, mut columns: Columns, from: Value) -> Result<()> {
        let stream = door.stream(&self.watch_path(item, &from), TABLE).await?;
        let mut header = (self.watch_only || meta::list(&from, &["rows"]).is_empty()) && !self.no_headers;
        let mut definitions = from;
        follow_lines(stream, |kind, table| {
            if !meta::list(table, &["columnDefinitions"]).is_empty() {
                definitions = table.clone();
            }
            let mut rows = if header { vec![view.header(&definitions)] } else { Vec::new() };
            header = false;
            rows.extend(view.rows(&definitions, table, kind));
            print!("{}", columns.lines(&rows));
            Ok(false)
        })
        .await?;
        Ok(())
    }

    async fn follow_objects(
        &self,
        door: &Door,
        discovery: &Discovery,
        items: &[Item],
        printer: &mut Printer,
    ) -> Result<()> {
        let [item] = items else { bail!("you may only specify a single resource type") };
        let mut each = |kind: &str, object: &Value| match self.output_watch_events {
            true => printer.event(kind, object),
            false => printer.objects(vec![object.clone()], true, !self.no_headers, discovery),
        };
        let mut from = Value::Null;
        if !self.watch_only {
            from = door.get(&self.path(item)).await?;
            output::items(&from).iter().try_for_each(|object| each("ADDED", object))?;
        }
        let stream = door.stream(&self.watch_path(item, &from), "application/json").await?;
        follow_lines(stream, |kind, object| each(kind, object).map(|()| false)).await?;
        Ok(())
    }

    /// All objects, and what went wrong with some.
    async fn found(&self, door: &Door, items: &[Item]) -> Result<(Vec<Value>, Failures)> {
        let (mut all, mut failures) = (Vec::new(), Failures::default());
        for item in items {
            match door.get(&self.path(item)).await {
                Ok(found) => all.extend(output::items(&found)),
                Err(error) => failures.note(self.unless_ignored(error)),
            }
        }
        if let Some(by) = &self.sort_by {
            all.sort_by(|a, b| compare(&key(by, Some(a)), &key(by, Some(b))));
        }
        Ok((all, failures))
    }
}

/// What an object is sorted by: numbers by value, texts as they are.
fn key(by: &Template, object: Option<&Value>) -> (f64, String) {
    let found = object.and_then(|object| by.select(object).first().copied()).unwrap_or(&Value::Null);
    (found.as_f64().unwrap_or(0.0), super::jsonpath::text(found))
}

fn compare(a: &(f64, String), b: &(f64, String)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1))
}

/// Calls `each` with the type and the object of every event until it says that this was all (true), or the stream ends. An
/// ERROR event is its Status.
pub async fn follow_lines(
    stream: impl AsyncBufRead + Unpin,
    mut each: impl FnMut(&str, &Value) -> Result<bool>,
) -> Result<bool> {
    let mut lines = stream.lines();
    while let Some(line) = lines.next().await {
        let event: Value = serde_json::from_str(&line?)?;
        let object = event.get("object").unwrap_or(&Value::Null);
        match meta::text(&event, &["type"]) {
            "BOOKMARK" => {}
            "ERROR" => bail!("{}", meta::text(object, &["message"])),
            kind if each(kind, object)? => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}
