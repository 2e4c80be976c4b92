//! Flags that many verbs share: which namespace, which labels, which files.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde_json::Value;

use super::door::with_query;
use crate::api::selector::LabelSelector;
use crate::api::{meta, yaml};

/// Where kubectl waits as long as it takes, it waits for a week.
pub const FOREVER: Duration = Duration::from_secs(7 * 24 * 3600);

/// `-n` and `-A`.
#[derive(Args, Clone, Default)]
pub struct Scope {
    /// Namespace
    #[arg(short, long, default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: String,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Accepted as kubectl's; changes nothing: the daemon is near, and lists come whole
    #[arg(long, value_name = "N")]
    pub chunk_size: Option<u64>,
}

impl Scope {
    /// The namespace for paths; none for all of them.
    pub fn namespace(&self) -> Option<&str> {
        if self.all_namespaces { None } else { Some(&self.namespace) }
    }

    /// kubectl's word for an empty list.
    pub fn say_nothing_found(&self, namespaced: bool) {
        match self.namespace().filter(|_| namespaced) {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
    }
}

/// `-l` and `--field-selector`.
#[derive(Args, Clone, Default)]
pub struct Select {
    /// Label selector, as in app=web,tier!=db
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
    /// Field selector, as in status.phase=Running
    #[arg(long, default_value = "", hide_default_value = true)]
    pub field_selector: String,
}

impl Select {
    /// Nothing is selected by label or field.
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.field_selector.is_empty()
    }

    /// The path of a collection with this selection.
    pub fn query(&self, path: &str) -> String {
        with_query(path, &[("labelSelector", &self.selector), ("fieldSelector", &self.field_selector)])
    }
}

/// `-f`, `-R` and `-k`.
#[derive(Args, Clone, Default)]
pub struct Files {
    /// Files or directories with manifests; - is standard input
    #[arg(short, long, value_delimiter = ',')]
    filename: Vec<PathBuf>,
    /// Go down into directories
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Directory with a kustomization, which kubectl or kustomize on PATH builds
    #[arg(short, long, value_name = "DIR")]
    kustomize: Option<String>,
}

/// A manifest and the file it is from.
pub struct Manifest {
    /// For messages.
    pub file: String,
    /// The object.
    pub object: Value,
}

impl Files {
    /// Neither a file nor a kustomization is given.
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    /// All objects in all files that the label selector takes, in order; Lists are taken apart.
    pub fn read(&self, selector: &str) -> Result<Vec<Manifest>> {
        let selector = LabelSelector::parse(selector)?;
        let mut all = Vec::new();
        for (name, text) in self.texts()? {
            let documents = yaml::documents(&text).map_err(|error| anyhow::anyhow!("error parsing {name}: {error}"))?;
            let objects = documents.into_iter().flat_map(unlist);
            let wanted = objects.filter(|object| selector.matches(meta::labels(object)));
            all.extend(wanted.map(|object| Manifest { file: name.clone(), object }));
        }
        Ok(all)
    }

    /// Names and contents of everything that is given.
    fn texts(&self) -> Result<Vec<(String, String)>> {
        if let Some(dir) = &self.kustomize {
            ensure!(self.filename.is_empty(), "only one of -f or -k can be specified");
            return Ok(vec![(dir.clone(), kustomize(dir)?)]);
        }
        let mut paths = Vec::new();
        for path in &self.filename {
            self.collect(path, true, &mut paths)?;
        }
        let text = |path: PathBuf| {
            let name = if path == Path::new("-") { "STDIN".to_owned() } else { path.display().to_string() };
            let text = read(&path).with_context(|| format!("reading {name}"))?;
            Ok((name, text))
        };
        paths.into_iter().map(text).collect()
    }

    fn collect(&self, path: &Path, given: bool, into: &mut Vec<PathBuf>) -> Result<()> {
        if !path.is_dir() {
            let manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
            if path != Path::new("-") && !path.exists() {
                bail!("the path {:?} does not exist", path.display().to_string());
            }
            if given || manifest {
                into.push(path.to_owned());
            }
            return Ok(());
        }
        if !given && !self.recursive {
            return Ok(());
        }
        let mut entries = std::fs::read_dir(path)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .with_context(|| format!("reading {}", path.display()))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        entries.iter().try_for_each(|entry| self.collect(&entry.path(), false, into))
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) }
}

/// What a kustomization builds. Kustomize is a language of its own, and whoever writes it has its tool.
fn kustomize(dir: &str) -> Result<String> {
    for (program, word) in [("kubectl", "kustomize"), ("kustomize", "build")] {
        let out = match Command::new(program).args([word, dir]).output() {
            Ok(out) => out,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("running {program}")),
        };
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{}", said.trim().trim_start_matches("error: ").trim_start_matches("Error: "));
        eprint!("{said}"); // Warnings.
        return String::from_utf8(out.stdout).with_context(|| format!("what {program} built"));
    }
    bail!("neither kubectl nor kustomize is on PATH, and one of them has to build {dir:?}; -f takes what it prints");
}

fn unlist(object: Value) -> Vec<Value> {
    if meta::text(&object, &["kind"]).ends_with("List") && object.get("items").is_some_and(Value::is_array) {
        return meta::list(&object, &["items"]).to_vec();
    }
    vec![object]
}

/// A duration as kubectl's flags take it: `30s`, `2m`, `1h30m`, `500ms`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    parsed.and_then(|duration| duration.try_into().ok()).ok_or_else(|| format!("time: invalid duration {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_kubectls() {
        for (text, seconds) in [("30s", 30.0), ("1h30m", 5400.0), ("500ms", 0.5), ("7", 7.0), ("1.5m", 90.0)] {
            assert_eq!(duration(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
        for bad in ["", "s", "5x", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
