//! `-o` and its kin: the forms in which objects are printed.
use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::gotemplate::GoTemplate;
use super::jsonpath::Template;
use super::print::{self, Columns};
use super::resource::Discovery;
use crate::api::meta;

/// Flags of every verb that can print objects.
#[derive(Args, Default)]
pub struct Print {
    /// json, yaml, kyaml, name, jsonpath=…, jsonpath-as-json=…, go-template=…, the last with -file too; of get also wide and custom-columns=NAME:PATH,…
    #[arg(short, long, default_value = "", hide_default_value = true)]
    output: String,
    /// The template (or its file) of -o go-template and jsonpath
    #[arg(long, default_value = "", hide_default_value = true)]
    template: String,
    /// Keep managedFields in JSON and YAML
    #[arg(long)]
    show_managed_fields: bool,
    /// What a template names and an object does not have is no error
    #[arg(long, default_value = "true")]
    allow_missing_template_keys: bool,
}

/// What a verb can print besides whole objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Also {
    /// Sentences of its own.
    Sentences,
    /// Tables: `wide` and `custom-columns`.
    Tables,
}

impl Print {
    /// Parses the flags.
    pub fn printer(&self, also: Also) -> Result<Printer> {
        Ok(Printer { form: self.form(also)?, managed: self.show_managed_fields, documents: 0 })
    }

    fn form(&self, also: Also) -> Result<Form> {
        let (form, argument) = self.output.split_once('=').unwrap_or((&self.output, &self.template));
        let form = if form.is_empty() && !argument.is_empty() { "go-template" } else { form };
        let tables = also == Also::Tables;
        let (form, text) = match form.strip_suffix("-file").or((form == "templatefile").then_some("template")) {
            Some(form) => (form, read(argument)?),
            None => (form, argument.to_owned()),
        };
        let templated = form.contains("template") || form.contains("jsonpath");
        ensure!(!templated || !text.is_empty(), "template format specified but no template given");
        let lenient = self.allow_missing_template_keys;
        Ok(match form {
            "" => Form::Own { wide: false },
            "wide" if tables => Form::Own { wide: true },
            "yaml" => Form::Yaml,
            "kyaml" => Form::Kyaml,
            "json" => Form::Json,
            "name" => Form::Name,
            "jsonpath" => Form::Path(Template::parse(&text)?.lenient(lenient)),
            "jsonpath-as-json" => Form::Selected(Template::parse(&text)?),
            "go-template" | "template" => Form::Go(Box::new(GoTemplate::parse(&text, lenient)?)),
            "custom-columns" if tables => Form::Columns(column_templates(&text)?),
            other => {
                let (first, last) = if tables { ("custom-columns,custom-columns-file,", "wide,") } else { ("", "") };
                bail!(
                    "unable to match a printer suitable for the output format {other:?}, allowed formats are: {first}go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,{last}yaml"
                )
            }
        })
    }
}

fn read(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path);
    text.map_err(|error| anyhow::anyhow!("error reading --template {path}, {error}"))
}

/// `NAME:PATH,…`; or, as in a file, a line of names and a line of paths.
fn column_templates(text: &str) -> Result<Vec<(String, Template)>> {
    ensure!(!text.is_empty(), "custom-columns format specified but no custom columns given");
    if let Some((names, paths)) = text.split_once('\n') {
        let pairs = names.split_whitespace().zip(paths.split_whitespace());
        return pairs.map(|(name, path)| Ok((name.to_owned(), Template::relaxed(path)?))).collect();
    }
    let column = |text: &str| match text.split_once(':') {
        Some((name, path)) => Ok((name.to_owned(), Template::relaxed(path)?)),
        None => bail!("unexpected custom-columns spec: {text}, expected <header>:<json-path-expr>"),
    };
    text.split(',').map(column).collect()
}

/// `-o`, parsed.
pub enum Form {
    /// What the verb prints by itself: sentences, or the server's columns (`wide`: those of lower priority too).
    Own {
        wide: bool,
    },
    Yaml,
    Kyaml,
    Json,
    /// `pod/x`, a line each.
    Name,
    /// What a JSONPath template says.
    Path(Template),
    /// What a JSONPath selects, as JSON.
    Selected(Template),
    Go(Box<GoTemplate>),
    /// A header and a path a column.
    Columns(Vec<(String, Template)>),
}

/// Prints one thing after another in one form.
pub struct Printer {
    pub form: Form,
    managed: bool,
    /// YAML documents so far: between them is a line.
    documents: usize,
}

impl Printer {
    /// What was done with an object: a sentence, unless the object itself was asked for.
    pub fn done(&mut self, name: &str, object: &Value, sentence: &str) -> Result<()> {
        match &self.form {
            Form::Own { .. } => println!("{name} {sentence}"),
            Form::Name => println!("{name}"),
            _ => self.object(object)?,
        }
        Ok(())
    }

    /// One object, or a list of them.
    pub fn object(&mut self, object: &Value) -> Result<()> {
        let shown = || if self.managed { object.clone() } else { without_managed_fields(object.clone()) };
        match &self.form {
            Form::Yaml => {
                let line = if self.documents > 0 { "---\n" } else { "" };
                print!("{line}{}", super::yaml::document(&shown()));
                self.documents += 1;
            }
            Form::Kyaml => print!("{}", super::kyaml::document(&shown())),
            Form::Json => print!("{}", print::json(&shown())),
            Form::Path(template) => print!("{}", template.render(object)?),
            Form::Selected(template) => print!("{}", print::json(&json!(template.select(object)))),
            Form::Go(template) => print!("{}", template.render(object)?),
            Form::Own { .. } | Form::Name | Form::Columns(_) => {}
        }
        Ok(())
    }

    /// An object and what happened to it, as a watch has them.
    pub fn event(&mut self, kind: &str, object: &Value) -> Result<()> {
        let event = json!({"type": kind, "object": print::sorted(object)});
        if matches!(self.form, Form::Json) {
            println!("{event}");
            return Ok(());
        }
        self.object(&event)
    }

    /// What `get` found; `single` was asked for by name and is not wrapped in a List.
    pub fn objects(&mut self, objects: Vec<Value>, single: bool, headers: bool, discovery: &Discovery) -> Result<()> {
        match &self.form {
            Form::Name => {
                for object in &objects {
                    println!("{}", discovery.of_object(object)?.named(meta::name(object)));
                }
            }
            Form::Columns(all) => print!("{}", columns(all, &objects, headers)),
            _ => match objects.as_slice() {
                [object] if single => self.object(object)?,
                _ => self.object(&list(objects, json!({"resourceVersion": ""})))?,
            },
        }
        Ok(())
    }
}

/// A List of whole objects.
pub fn list(objects: Vec<Value>, metadata: Value) -> Value {
    json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": metadata})
}

/// Without managedFields, which say who wrote what and drown the rest.
fn without_managed_fields(mut object: Value) -> Value {
    meta::unset(&mut object, "managedFields");
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        meta::unset(item, "managedFields");
    }
    object
}

/// `--dry-run`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Do it.
    None,
    /// Only say what would be done.
    Client,
    /// Do everything but store it.
    Server,
}

impl DryRun {
    /// What a sentence ends with.
    pub fn suffix(self) -> &'static str {
        ["", " (dry run)", " (server dry run)"][self as usize]
    }

    /// For a request's `dryRun`.
    pub fn query(self) -> &'static str {
        if self == DryRun::Server { "All" } else { "" }
    }
}

fn columns(all: &[(String, Template)], objects: &[Value], headers: bool) -> String {
    let cell = |template: &Template, object: &Value| match template.select(object).as_slice() {
        [] => "<none>".to_owned(),
        values => values.iter().map(|value| print::go(value)).collect::<Vec<_>>().join(","),
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.extend(headers.then(|| all.iter().map(|(name, _)| name.clone()).collect()));
    let row = |object: &Value| all.iter().map(|(_, template)| cell(template, object)).collect();
    rows.extend(objects.iter().map(row));
    Columns::default().lines(&rows)
}

/// The objects of a list (with apiVersion and kind, which lists leave out), or the object itself.
pub fn items(found: &Value) -> Vec<Value> {
    let Some(kind) = meta::text(found, &["kind"]).strip_suffix("List") else { return vec![found.clone()] };
    let version = meta::text(found, &["apiVersion"]);
    let whole = |item: &Value| {
        let mut object = json!({"apiVersion": version, "kind": kind});
        if let (Value::Object(object), Value::Object(item)) = (&mut object, item) {
            object.extend(item.clone());
        }
        object
    };
    meta::list(found, &["items"]).iter().map(whole).collect()
}
