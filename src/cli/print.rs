//! How results look: aligned columns and JSON as kubectl writes them.
use serde_json::{Map, Value};

use crate::api::meta;

/// kubectl's columns: at least this wide …
const MIN_WIDTH: usize = 6;
/// … and this far apart.
const PADDING: usize = 3;

/// Rows of text whose columns line up. Widths are remembered, so that rows of a watch stay in their columns.
#[derive(Default)]
pub struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Lines for rows of cells, each ended by a newline; the last cell of a row is not padded.
    pub fn lines(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), MIN_WIDTH);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count() + PADDING);
            }
        }
        let mut out = String::new();
        for row in rows {
            for (column, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if column + 1 < row.len() {
                    let pad = self.widths[column] - cell.chars().count();
                    out.extend(std::iter::repeat_n(' ', pad));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// What `get` shows of a Table besides its own columns.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Columns of lower priority too.
    pub wide: bool,
    /// Start with the namespace.
    pub namespace: bool,
    /// End with all labels.
    pub show_labels: bool,
    /// Labels that get columns of their own.
    pub label_columns: Vec<String>,
    /// Put in front of names when several kinds are printed.
    pub prefix: Option<String>,
    /// Begin with what happened to the object.
    pub event: bool,
}

/// Types of events, padded so that the longest of them fits.
fn event_cell(kind: &str) -> String {
    format!("{kind:<8}")
}

impl View {
    /// The header of a Table.
    pub fn header(&self, table: &Value) -> Vec<String> {
        let mut header: Vec<String> = if self.event { vec![event_cell("EVENT")] } else { Vec::new() };
        header.extend(self.namespace.then(|| "NAMESPACE".into()));
        header.extend(self.columns(table).map(|(_, column)| meta::text(column, &["name"]).to_uppercase()));
        header.extend(self.label_columns.iter().map(|label| label.rsplit('/').next().unwrap_or(label).to_uppercase()));
        header.extend(self.show_labels.then(|| "LABELS".into()));
        header
    }

    /// The rows of a Table; `columns` is the table that has the column definitions (a watch sends them once).
    pub fn rows(&self, columns: &Value, table: &Value, event: &str) -> Vec<Vec<String>> {
        meta::list(table, &["rows"]).iter().map(|row| self.row(columns, row, event)).collect()
    }

    fn row(&self, columns: &Value, row: &Value, event: &str) -> Vec<String> {
        let object = row.get("object").unwrap_or(&Value::Null);
        let cells = meta::list(row, &["cells"]);
        let mut out = if self.event { vec![event_cell(event)] } else { Vec::new() };
        out.extend(self.namespace.then(|| meta::namespace(object).to_owned()));
        for (index, column) in self.columns(columns) {
            let cell = cells.get(index).map(cell).unwrap_or_default();
            let is_name =
                meta::text(column, &["format"]) == "name" || (index == 0 && meta::text(column, &["name"]) == "Name");
            match self.prefix.as_deref().filter(|_| is_name) {
                Some(prefix) => out.push(format!("{prefix}/{cell}")),
                None => out.push(cell),
            }
        }
        out.extend(self.label_columns.iter().map(|label| meta::label(object, label).unwrap_or("").to_owned()));
        out.extend(self.show_labels.then(|| labels(meta::labels(object), ",")));
        out
    }

    fn columns<'a>(&self, table: &'a Value) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
        let wide = self.wide;
        let all = meta::list(table, &["columnDefinitions"]).iter().enumerate();
        all.filter(move |(_, column)| wide || meta::int(column, &["priority"]).unwrap_or(0) == 0)
    }
}

fn cell(value: &Value) -> String {
    match value {
        // A row is one line.
        Value::String(text) => match text.split_once(['\n', '\r', '\x0c']) {
            Some((first, _)) => format!("{first}..."),
            None => text.clone(),
        },
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// A value as Go's `%v` writes it: `map[a:1 b:[x y]]`.
pub fn go(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        Value::Array(list) => format!("[{}]", list.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::Object(_) => {
            let pair = |(key, value): (&String, &Value)| format!("{key}:{}", go(value));
            let pairs: Vec<String> = sorted(value).as_object().into_iter().flatten().map(pair).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// `a=b,c=d`, sorted; `<none>` when there are none.
pub fn labels(labels: Option<&Map<String, Value>>, separator: &str) -> String {
    let mut pairs: Vec<String> =
        labels.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.sort();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(separator) }
}

/// Fields of a list that kubectl has a Go type for: those of a verb's own, not those of the server.
const LIST: [&str; 4] = ["kind", "apiVersion", "metadata", "items"];

/// A value with all its keys in order, as Go writes maps.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            let typed = meta::text(value, &["kind"]).ends_with("List")
                && meta::map(value, &["metadata"]).is_some_and(Map::is_empty);
            let rank = |key: &str| LIST.iter().position(|field| *field == key).filter(|_| typed);
            pairs.sort_by_key(|(key, _)| (rank(key), key.as_str()));
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// An object as `-o json` shows it: keys in order, indented by four.
pub fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, format);
    if let Err(error) = serde::Serialize::serialize(&sorted(value), &mut serializer) {
        return error.to_string();
    }
    out.push(b'\n');
    // Go escapes what could end a script element; in JSON these only occur inside strings.
    let text = String::from_utf8_lossy(&out);
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_far_apart_as_kubectl_has_them() {
        let rows = [vec!["NAME".into(), "READY".into(), "AGE".into()], vec!["web-1".into(), "1/1".into(), "3s".into()]];
        assert_eq!(Columns::default().lines(&rows), "NAME    READY   AGE\nweb-1   1/1     3s\n");
    }

    #[test]
    fn a_table_is_seen_through_a_view() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "format": "name", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "10.0.0.1"], "object": {"metadata": {"namespace": "n", "labels": {"x": "1", "app": "web"}}}}],
        });
        let plain = View::default();
        assert_eq!(plain.header(&table), ["NAME"]);
        let all = View {
            wide: true,
            namespace: true,
            show_labels: true,
            label_columns: vec!["app".into()],
            prefix: Some("pod".into()),
            event: true,
        };
        assert_eq!(all.header(&table), ["EVENT   ", "NAMESPACE", "NAME", "IP", "APP", "LABELS"]);
        assert_eq!(all.rows(&table, &table, "ADDED"), [["ADDED   ", "n", "pod/a", "10.0.0.1", "web", "app=web,x=1"]]);
    }

    #[test]
    fn json_is_sorted_and_indented_by_four() {
        assert_eq!(json(&json!({"b": [1], "a": {}})), "{\n    \"a\": {},\n    \"b\": [\n        1\n    ]\n}\n");
    }
}
