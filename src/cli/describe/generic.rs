//! The page of a kind that has none of its own: its fields as they are.
use serde_json::{Map, Value};

use super::{begin, capital, row, sorted};
use crate::cli::jsonpath;

/// Fields of the metadata that are at the top of the page, or on none.
const SHOWN: [&str; 5] = ["name", "namespace", "labels", "annotations", "managedFields"];
/// Words that kubectl writes in capitals.
const ACRONYMS: [&str; 5] = ["API", "URL", "UID", "OSB", "GUID"];

/// Any object's page.
pub fn page(object: &Value) -> String {
    let mut out = begin(object);
    for (key, value) in sorted(object.as_object()) {
        match value {
            Value::Object(metadata) if key == "metadata" => {
                row(&mut out, 0, &["Metadata:"]);
                fields(&mut out, 1, metadata, &SHOWN);
            }
            value => field(&mut out, 0, key, value),
        }
    }
    out
}

fn fields(out: &mut String, level: usize, map: &Map<String, Value>, without: &[&str]) {
    let wanted = sorted(Some(map)).into_iter().filter(|(key, _)| !without.contains(&key.as_str()));
    wanted.for_each(|(key, value)| field(out, level, key, value));
}

fn field(out: &mut String, level: usize, key: &str, value: &Value) {
    let title = format!("{}:", spaced(key));
    match value {
        Value::Object(map) => {
            row(out, level, &[&title]);
            fields(out, level + 1, map, &[]);
        }
        Value::Array(list) => {
            row(out, level, &[&title]);
            for item in list {
                match item {
                    Value::Object(map) => fields(out, level + 1, map, &[]),
                    other => row(out, level + 1, &[&jsonpath::text(other)]),
                }
            }
        }
        Value::Null => row(out, level, &[&title, "<nil>"]),
        other => row(out, level, &[&title, &jsonpath::text(other)]),
    }
}

/// `holderIdentity` → `Holder Identity`, `podCIDR` → `Pod CIDR`; keys that are not field names stay as they are.
fn spaced(key: &str) -> String {
    if !key.chars().all(|c| c.is_ascii_alphabetic() || c == '-') {
        return key.to_owned();
    }
    let bytes = key.as_bytes();
    let mut words = vec![String::new()];
    for (index, c) in key.char_indices() {
        let upper = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_uppercase);
        let lower = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_lowercase);
        if index > 0 && upper(index) && (!upper(index - 1) || lower(index + 1)) {
            words.push(String::new());
        }
        words.last_mut().expect("begins with one").push(c);
    }
    let word = |word: &String| match word.to_uppercase() {
        acronym if ACRONYMS.contains(&acronym.as_str()) => acronym,
        _ => capital(word),
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn field_names_become_titles() {
        for (key, title) in [
            ("holderIdentity", "Holder Identity"),
            ("podCIDRs", "Pod CID Rs"),
            ("podCIDR", "Pod CIDR"),
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("a.b/c", "a.b/c"),
        ] {
            assert_eq!(super::spaced(key), title);
        }
    }
}
