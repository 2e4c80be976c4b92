//! YAML as kubectl writes it (sigs.k8s.io/yaml, that is libyaml's emitter behind Go's yaml.v2), byte for byte.
//!
//! Lists are not indented below their key. A string is plain where that reads back as the same string; quoted twice where
//! plain would be another type, to YAML 1.1 too; quoted once where plain would be YAML's own characters; a block where it has
//! lines. What goes beyond column 80 is folded at the next blank.
use std::cmp::Ordering;

use serde_json::Value;

/// Text beyond this column is folded.
const WIDTH: usize = 80;

/// A value as one document.
pub fn document(value: &Value) -> String {
    let mut out = Emitter::default();
    match value {
        Value::Object(map) if !map.is_empty() => out.mapping(map, 0, true),
        Value::Array(list) if !list.is_empty() => out.sequence(list, 0, true),
        scalar => out.scalar(scalar, 0),
    }
    out.text
}

#[derive(Default)]
struct Emitter {
    text: String,
    /// Characters in the line so far.
    column: usize,
}

impl Emitter {
    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        self.column = match text.rfind('\n') {
            Some(at) => text[at + 1..].chars().count(),
            None => self.column + text.chars().count(),
        };
    }

    fn line(&mut self, indent: usize) {
        self.end();
        self.put(&" ".repeat(indent));
    }

    /// `first`: the first key goes where the text is, as after a dash.
    fn mapping(&mut self, map: &serde_json::Map<String, Value>, indent: usize, mut first: bool) {
        let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
        insertion_sort(&mut pairs);
        for (key, value) in pairs {
            if !std::mem::take(&mut first) {
                self.line(indent);
            }
            self.string(key, indent, true);
            self.put(":");
            match value {
                Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, false),
                Value::Array(list) if !list.is_empty() => self.sequence(list, indent, false),
                scalar => {
                    self.put(" ");
                    self.scalar(scalar, indent + 2);
                }
            }
        }
        self.end();
    }

    fn sequence(&mut self, list: &[Value], indent: usize, mut first: bool) {
        for item in list {
            if !std::mem::take(&mut first) {
                self.line(indent);
            }
            self.put("- ");
            match item {
                Value::Object(map) if !map.is_empty() => self.mapping(map, indent + 2, true),
                Value::Array(list) if !list.is_empty() => self.sequence(list, indent + 2, true),
                scalar => self.scalar(scalar, indent + 2),
            }
        }
        self.end();
    }

    fn end(&mut self) {
        if self.column > 0 {
            self.put("\n");
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::String(text) => self.string(text, indent, false),
            Value::Object(_) => self.put("{}"),
            Value::Array(_) => self.put("[]"),
            number => self.put(&self::number(number)),
        }
    }

    fn string(&mut self, text: &str, indent: usize, key: bool) {
        let shape = Shape::of(text);
        let width = if key { usize::MAX } else { WIDTH };
        if text.contains('\n') && shape.block && !key {
            self.block(text, indent);
        } else if text.contains('\n') || !is_string(text) || !shape.single {
            self.put("\"");
            self.folded(text, indent, width, true);
            self.put("\"");
        } else if shape.plain {
            self.folded(text, indent, width, false);
        } else {
            self.put("'");
            self.folded(&text.replace('\'', "''"), indent, width, false);
            self.put("'");
        }
    }

    fn block(&mut self, text: &str, indent: usize) {
        let hint = if text.starts_with([' ', '\n']) { "2" } else { "" };
        let rest = text.trim_end_matches('\n');
        let chomp = match text.len() - rest.len() {
            0 => "-",
            1 if !rest.is_empty() => "",
            _ => "+",
        };
        self.put(&format!("|{hint}{chomp}\n"));
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            if !line.is_empty() {
                self.put(&" ".repeat(indent));
                self.put(line);
            }
            self.put("\n");
        }
    }

    /// Text that goes on in the next line, after a blank beyond the width.
    fn folded(&mut self, text: &str, indent: usize, width: usize, escaped: bool) {
        let all: Vec<char> = text.chars().collect();
        let mut after_blank = false;
        for (index, &c) in all.iter().enumerate() {
            let next = all.get(index + 1);
            let blank = c == ' ';
            // A plain or once quoted text may not begin its next line with a blank.
            let may = index > 0 && next.is_some_and(|next| escaped || *next != ' ');
            if blank && !after_blank && self.column > width && may {
                self.line(indent);
                if next == Some(&' ') {
                    self.put("\\");
                }
            } else if escaped {
                // A byte order mark at the beginning makes libyaml take all characters for marks.
                self.put(&escape(c, all[0] == '\u{feff}'));
            } else {
                self.put(c.encode_utf8(&mut [0; 4]));
            }
            after_blank = blank;
        }
    }
}

/// A number, truth or nothing: Go writes a whole float without its point.
pub fn number(value: &Value) -> String {
    value.to_string().trim_end_matches(".0").to_owned()
}

/// A character between double quotes.
fn escape(c: char, always: bool) -> String {
    match (short_escape(c), c as u32) {
        (Some(short), _) => short.to_owned(),
        _ if printable(c) && !always => c.to_string(),
        (_, code @ ..=0xff) => format!("\\x{code:02X}"),
        (_, code @ ..=0xffff) => format!("\\u{code:04X}"),
        (_, code) => format!("\\U{code:08X}"),
    }
}

/// Of characters that have an escape by name.
pub fn short_escape(c: char) -> Option<&'static str> {
    Some(match c {
        '\0' => "\\0",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\x0b' => "\\v",
        '\x0c' => "\\f",
        '\r' => "\\r",
        '\x1b' => "\\e",
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{85}' => "\\N",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        _ => return None,
    })
}

/// What libyaml prints as it is: neither tabs nor anything beyond the basic plane.
fn printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{fffd}') && c != '\u{feff}'
}

/// The forms a string may have.
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

impl Shape {
    fn of(text: &str) -> Shape {
        let blank_before_break = text.contains(" \n");
        let special = !text.chars().all(printable);
        let single = !blank_before_break && !special && !text.contains("\n ");
        let edge = text.starts_with([' ', '\n']) || text.ends_with([' ', '\n']);
        Shape {
            plain: single && !edge && !text.contains(['\n', '\u{2028}', '\u{2029}']) && !indicates(text),
            single,
            block: !blank_before_break && !special && !text.ends_with(' '),
        }
    }
}

/// Whether a text has characters that would be YAML's own.
fn indicates(text: &str) -> bool {
    let blank_at = |at: usize| text[at..].is_empty() || text[at..].starts_with([' ', '\t', '\n']);
    text.starts_with("---")
        || text.starts_with("...")
        || text.starts_with(['#', ',', '[', ']', '{', '}', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`'])
        || (text.starts_with(['?', '-']) && blank_at(1))
        || text.match_indices(':').any(|(at, _)| blank_at(at + 1))
        || text.contains(" #")
}

/// Whether a plain text is a string to YAML, also to parsers of version 1.1.
pub fn is_string(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let lower = text.to_ascii_lowercase();
    let one_case = text == lower || text == text.to_ascii_uppercase() || text[1..] == lower[1..];
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"];
    if words.contains(&lower.as_str()) && one_case {
        return false;
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let infinite = [".inf", ".Inf", ".INF"].contains(&unsigned) || [".nan", ".NaN", ".NAN"].contains(&text);
    match first {
        '.' => !infinite && !is_float(text),
        '+' | '-' | '0'..='9' => {
            let plain = text.replace('_', "");
            !infinite && !is_integer(&plain) && !is_float(&plain) && !is_time(text) && !is_base_60(unsigned)
        }
        _ => true,
    }
}

/// `12`, `0x1f`, `0b11`, `017`.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).to_ascii_lowercase();
    let (radix, digits) = match (digits.get(..2), digits.strip_prefix('0')) {
        (Some("0x"), _) => (16, &digits[2..]),
        (Some("0o"), _) => (8, &digits[2..]),
        (Some("0b"), _) => (2, &digits[2..]),
        (_, Some(octal)) if !octal.is_empty() => (8, octal),
        _ => (10, &*digits),
    };
    !digits.starts_with('+') && u64::from_str_radix(digits, radix).is_ok()
}

/// Digits with a point or an exponent.
fn is_float(text: &str) -> bool {
    let known = text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    known && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// `12:30:45`, which YAML 1.1 reads in base 60.
fn is_base_60(unsigned: &str) -> bool {
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '_');
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut parts = whole.split(':');
    let first = parts.next().is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()) && digits(part));
    let sixtieth =
        |part: &str| part.len() <= 2 && !part.contains(['+', '_']) && part.parse::<u8>().is_ok_and(|n| n < 60);
    first && whole.contains(':') && parts.all(sixtieth) && digits(fraction)
}

/// A date, or one with a time: after a blank without a zone, after a `T` with one.
fn is_time(text: &str) -> bool {
    // Digits in a row as one 9.
    let mut shape: Vec<char> = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    shape.dedup_by(|a, b| *a == '9' && *b == '9');
    let shape: String = shape.into_iter().collect();
    let time = |shape: &str| ["9:9:9", "9:9:9.9"].contains(&shape);
    text.find('-') == Some(4)
        && shape.strip_prefix("9-9-9").is_some_and(|rest| match rest.split_at_checked(1) {
            Some((" ", rest)) => time(rest),
            Some(("T" | "t", rest)) => {
                ["Z", "+9:9", "-9:9"].iter().any(|zone| rest.strip_suffix(zone).is_some_and(time))
            }
            Some(_) => false,
            None => true,
        })
}

/// kubectl's order of keys is none: `x10` < `x1a` < `x9` < `x10`. What the standard library sorts by has to be one.
fn insertion_sort<T>(pairs: &mut [(&String, T)]) {
    pairs.sort_by_key(|pair| pair.0);
    for end in 1..pairs.len() {
        let mut at = end;
        while at > 0 && natural(pairs[at].0, pairs[at - 1].0).is_lt() {
            pairs.swap(at, at - 1);
            at -= 1;
        }
    }
}

/// Numbers in names go by their value, and letters come after everything else.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(at) = a.iter().zip(&b).position(|(a, b)| a != b) else { return a.len().cmp(&b.len()) };
    let (x, y) = (a[at], b[at]);
    if x.is_alphabetic() || y.is_alphabetic() {
        return x.is_alphabetic().cmp(&y.is_alphabetic()).then(x.cmp(&y));
    }
    // A zero inside a number is a digit of it; at its beginning it is none.
    let before = a[..at].iter().rev().take_while(|c| c.is_numeric());
    let inside = (x == '0' || y == '0') && before.into_iter().any(|c| *c != '0');
    let number = |text: &[char]| {
        let digits = text[at..].iter().map_while(|c| c.to_digit(10).map(i64::from));
        digits.fold((i64::from(inside), 0), |(sum, count), digit| (sum.wrapping_mul(10).wrapping_add(digit), count + 1))
    };
    number(&a).cmp(&number(&b)).then(x.cmp(&y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What kubectl 1.35 wrote for these strings.
    #[test]
    fn strings_are_written_as_kubectl_writes_them() {
        for (text, expected) in [
            ("web", "web"),
            ("", r#""""#),
            ("94", r#""94""#),
            ("True", r#""True""#),
            ("tRue", "tRue"),
            ("yes", r#""yes""#),
            ("0x1f", r#""0x1f""#),
            ("0x1p-2", "0x1p-2"),
            ("1e3", r#""1e3""#),
            ("1.", r#""1.""#),
            ("08", r#""08""#),
            ("1_000", r#""1_000""#),
            ("99999999999999999999999", r#""99999999999999999999999""#),
            ("0.5.1", "0.5.1"),
            ("12:30:45", r#""12:30:45""#),
            ("12:60", "12:60"),
            ("2026-1-1", r#""2026-1-1""#),
            ("2026-11-21T09:50:33Z", r#""2026-11-21T09:50:33Z""#),
            ("2026-11-21 09:50:33", r#""2026-11-21 09:50:33""#),
            ("2026-01-01T1:2:3.5", "2026-01-01T1:2:3.5"),
            ("- a", "'- a'"),
            ("a: b", "'a: b'"),
            ("a:b", "a:b"),
            ("#x", "'#x'"),
            ("it's", "it's"),
            ("'q", "'''q'"),
            ("tab\tin", r#""tab\tin""#),
            ("☃ 🎉", r#""☃ \U0001F389""#),
            ("one\ntwo\n", "|\n  one\n  two"),
            ("one\ntwo", "|-\n  one\n  two"),
            ("a\n\n", "|+\n  a\n"),
            (" a\nb", "|2-\n   a\n  b"),
            ("a \nb", r#""a \nb""#),
        ] {
            assert_eq!(document(&json!({"k": text})), format!("k: {expected}\n"), "{text:?}");
        }
    }

    #[test]
    fn lists_are_not_indented_and_keys_are_in_natural_order() {
        let value = json!({"n10": [{"b": 1, "a": [["x"], []]}], "n9": {}, "n": true, "1": {"d": null}});
        let text = "\"1\":\n  d: null\n\"n\": true\nn9: {}\nn10:\n- a:\n  - - x\n  - []\n  b: 1\n";
        assert_eq!(document(&value), text);
    }
}
