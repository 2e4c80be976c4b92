//! KYAML as kubectl writes it (KEP-5295), byte for byte: YAML in braces and brackets with every string in double quotes, so
//! that neither indentation nor a string that looks like another type can be misread.
use serde_json::Value;

use super::{print, yaml};

/// Keys that YAML 1.1, or Go's parsers of numbers and booleans, take for something else.
const WORDS: [&str; 14] =
    ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "inf", "infinity", "nan"];

/// A value as one document, begun by the line that tells it from JSON.
pub fn document(value: &Value) -> String {
    let mut out = "---\n".to_owned();
    node(&mut out, &print::sorted(value), 0);
    out + "\n"
}

fn node(out: &mut String, value: &Value, depth: usize) {
    let line = |depth| format!("\n{}", indent(depth));
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (key, value) in map {
                *out += &line(depth + 1);
                *out += &if is_plain(key) { key.clone() } else { quoted(key, None) };
                *out += ": ";
                node(out, value, depth + 1);
                out.push(',');
            }
            *out += &(line(depth) + "}");
        }
        // The braces of what is in such a list stand beside its brackets.
        Value::Array(list) if list.iter().all(|item| item.is_object() || item.is_array()) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                *out += if index > 0 { ", " } else { "" };
                node(out, item, depth);
            }
            out.push(']');
        }
        Value::Array(list) => {
            out.push('[');
            for item in list {
                *out += &line(depth + 1);
                node(out, item, depth + 1);
                out.push(',');
            }
            *out += &(line(depth) + "]");
        }
        Value::String(text) => *out += &quoted(text, Some(depth + 1)),
        other => *out += &yaml::number(other),
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

/// Text in quotes. At a depth it may have several lines, each of them ended by an escaped break; a key has one.
fn quoted(text: &str, depth: Option<usize>) -> String {
    let mut out = "\"".to_owned();
    let lines = depth.filter(|_| text.contains('\n'));
    if lines.is_some() {
        out += "\\\n";
    }
    for c in text.chars() {
        if out.ends_with('\n') {
            out += &indent(lines.unwrap_or(0));
            // Blanks after the indentation belong to the text only when escaped; other lines stay aligned with these.
            out.push(if c.is_whitespace() && c != '\n' { '\\' } else { ' ' });
        }
        match c {
            '\n' if depth.is_some() => out += "\\n\\\n",
            '\t' if depth.is_some() => out.push(c),
            '\u{a0}' => out += "\\_",
            c => match yaml::short_escape(c) {
                Some(short) => out += short,
                None if printable(c) => out.push(c),
                None => {
                    out += &match c as u32 {
                        code @ (..0x20 | 0x7f) => format!("\\x{code:02x}"),
                        code @ ..=0xffff => format!("\\u{code:04x}"),
                        code => format!("\\U{code:08x}"),
                    }
                }
            },
        }
    }
    if let Some(depth) = lines {
        out += if out.ends_with('\n') { "" } else { "\\\n" };
        out += &indent(depth);
    }
    out + "\""
}

/// What Go prints: Rust's debug form leaves the same characters alone, but for marks, which it does behind another one.
fn printable(c: char) -> bool {
    c == '\'' || ['_', c].iter().collect::<String>().escape_debug().count() == 2
}

/// Whether a key needs no quotes.
fn is_plain(key: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    let edges = !key.is_empty() && !key.starts_with(['-', '.', '/']) && !key.ends_with(['-', '.', '/']);
    let number = key.trim_start_matches('_');
    edges
        && key.chars().all(inside)
        && !WORDS.contains(&key.to_lowercase().as_str())
        && (!number.starts_with(|c: char| c.is_ascii_digit()) || yaml::is_string(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What kubectl 1.35 wrote for these keys.
    #[test]
    fn keys_are_quoted_where_kubectl_quotes_them() {
        for key in ["0b2", "1e999", "_", "a/b", "a_b.c-d/e", "x10", "ü", "²", "tRu", "0x", "_no", "1e5.3"] {
            assert!(is_plain(key), "{key}");
        }
        for key in [
            "",
            "+1",
            "-a",
            ".inf",
            "/a",
            "08",
            "0o17",
            "0x1f",
            "1.5",
            "1:30",
            "1_000",
            "_1",
            "1e3",
            "2026-01-01",
            "=",
            "<<",
            "F",
            "a b",
            "a-",
            "a:b",
            "inf",
            "NaN",
            "infinity",
            "null",
            "tRUE",
            "t",
            "y",
            "~",
            "99999999999999999999",
        ] {
            assert!(!is_plain(key), "{key}");
        }
    }

    /// What kubectl 1.35 wrote for this.
    #[test]
    fn a_document_is_written_as_kubectl_writes_it() {
        let value = json!({
            "z": [1, null, "a", [], {}],
            "lists": [[], {"b": true, "a": ["x"]}],
            "lines": "one\n\n two\n\tx",
            "marks": "\ta\u{1}\u{a0}\u{2028}\u{200b}\u{ad}\r\"\\<>'🎉é\u{301}",
            "lines\nkey": "",
        });
        let expected = r#"---
{
  lines: "\
     one\n\
     \n\
    \ two\n\
    \	x\
    ",
  "lines\nkey": "",
  lists: [[], {
    a: [
      "x",
    ],
    b: true,
  }],
  marks: "	a\x01\_\L\u200b\u00ad\r\"\\<>'🎉é́",
  z: [
    1,
    null,
    "a",
    [],
    {},
  ],
}
"#;
        assert_eq!(document(&value), expected);
    }
}
