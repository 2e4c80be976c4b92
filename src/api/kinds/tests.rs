//! Golden scripts: what the table makes of manifests. `UPDATE=1 cargo test api::kinds` rewrites them; the diff is the review.
//!
//! A case is `## a sentence`, an optional `# status` (the subresource written), one manifest (a create) or two (an update from
//! the first to the second), `=>`, and then the refusal, or the warnings and the object as it would be stored.
use super::*;
use crate::api::decode::{self, FieldValidation, Format};
use crate::api::{ApiError, meta, yaml};
use std::fmt::Write;
use std::path::Path;

#[test]
fn golden_scripts_hold() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/kinds/golden");
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        let now = replay(&script);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &now).unwrap();
        } else if now != script {
            failed.push(format!(
                "{}:\n{}",
                path.display(),
                similar::TextDiff::from_lines(&script, &now).unified_diff()
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The script with every result worked out again.
fn replay(script: &str) -> String {
    let mut out = String::new();
    for case in script.split("\n## ") {
        let (input, _) = case.split_once("\n=>\n").unwrap_or((case, ""));
        let head = if out.is_empty() { "" } else { "\n## " };
        write!(out, "{head}{}\n=>\n{}", input.trim_end(), run(input)).unwrap();
    }
    out
}

fn run(input: &str) -> String {
    let sub = if input.contains("\n# status\n") { Sub::Status } else { Sub::Main };
    let body = input.split_once('\n').map_or("", |(_, body)| body);
    let manifests: Vec<&str> = body.split("\n---\n").collect();
    match write_all(&manifests, sub) {
        Ok((object, warnings)) => {
            let warnings: String = warnings.iter().map(|w| format!("warning: {w}\n")).collect();
            format!("{warnings}{}", yaml::to_string(&object).unwrap())
        }
        Err(error) => format!("{} {}: {}\n", error.code, error.reason, error.message),
    }
}

/// Creates the first manifest and, if there is a second, updates to it.
fn write_all(manifests: &[&str], sub: Sub) -> Result<(Value, Vec<String>), ApiError> {
    let (created, warnings) = write(manifests[0], None, Sub::Main)?;
    match manifests.get(1) {
        Some(second) => write(second, Some(&created), sub),
        None => Ok((created, warnings)),
    }
}

fn write(manifest: &str, old: Option<&Value>, sub: Sub) -> Result<(Value, Vec<String>), ApiError> {
    let parsed = yaml::documents(manifest).unwrap().remove(0);
    let kind = of(&parsed).unwrap();
    let (mut object, mut warnings) = decode::object(kind, manifest.as_bytes(), Format::Yaml, FieldValidation::Warn)?;
    if kind.namespaced && meta::namespace(&object).is_empty() {
        meta::set(&mut object, "namespace", "default");
    }
    kind.default(&mut object);
    kind.prepare(&mut object, old, sub);
    let errors = kind.validate(&object, old, sub);
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind.group, kind.kind, meta::name(&object), &errors));
    }
    warnings.extend(kind.warnings(&object));
    Ok((object, warnings))
}

#[test]
fn every_kind_has_a_schema_and_cells_for_its_columns() {
    for kind in kinds() {
        assert!(kind.types().fields().len() > 1, "{}", kind.kind);
        let cells = kind.cells(&serde_json::json!({}), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
        for sub in kind.subresources {
            assert!(Sub::parse(sub).is_some(), "{sub}");
        }
    }
}

#[test]
fn events_keep_everything_on_the_way_through_the_store() {
    let new = serde_json::json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n",
        "regarding": {"name": "a"}, "reportingController": "c", "deprecatedCount": 2});
    let events = find("events.k8s.io", "v1", "events").unwrap();
    let stored = events.to_storage(new.clone());
    assert_eq!(stored["message"], "n");
    assert_eq!(stored["apiVersion"], "v1");
    assert_eq!(events.from_storage(stored), new);
}

/// `cargo test --release -- --ignored --nocapture a_pod_costs` tells what one pod costs on its way in.
#[test]
#[ignore = "a measurement"]
fn a_pod_costs() {
    let script = include_str!("golden/pods");
    let manifest = script.split("\n=>\n").next().unwrap().split_once('\n').unwrap().1;
    let pods = find("", "v1", "pods").unwrap();
    let body = serde_json::to_vec(&yaml::documents(manifest).unwrap()[0]).unwrap();
    let once = || {
        let (mut pod, _) = decode::object(pods, &body, Format::Json, FieldValidation::Strict).unwrap();
        meta::set(&mut pod, "namespace", "default");
        pods.default(&mut pod);
        pods.prepare(&mut pod, None, Sub::Main);
        assert!(pods.validate(&pod, None, Sub::Main).is_empty() && pods.warnings(&pod).is_empty());
        let now = jiff::Timestamp::UNIX_EPOCH;
        let writer = crate::api::patch::Writer { manager: "kubectl", sub: Sub::Main, now, force: false };
        crate::api::patch::track(pods, None, &mut pod, &writer);
        pod
    };
    let start = std::time::Instant::now();
    once();
    println!("first (compiles the types): {:?}", start.elapsed());
    let start = std::time::Instant::now();
    for _ in 0..1000 {
        once();
    }
    println!("each: {:?}", start.elapsed() / 1000);
}
