//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range …}{end}`, filters, and text between the braces.
//!
//! A template is parsed into nodes once and then evaluated over values; nothing here fails on a missing field, which
//! prints as nothing unless it is told to be strict, as kubectl's does with `--allow-missing-template-keys`.
use std::cmp::Ordering;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
    lenient: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Fields(Vec<String>),
    /// `[*]` or `.*`
    All,
    /// `..`: this value and everything below it.
    Deep,
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Filter(Operand, String, Operand),
    Exists(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

impl Template {
    /// Parses `{.a}text{range .b[*]}{.c}{"\n"}{end}`.
    pub fn parse(text: &str) -> Result<Template> {
        let nodes = tokens(text).and_then(|tokens| block(&mut tokens.into_iter(), false));
        match nodes {
            Ok(nodes) => Ok(Template { text: text.to_owned(), nodes, lenient: true }),
            Err(error) => bail!("error parsing jsonpath {text}, {error}"),
        }
    }

    /// One path in any of the forms people write: `{.a.b}`, `{a.b}`, `.a.b`, `a.b`.
    pub fn relaxed(text: &str) -> Result<Template> {
        let inside = text.strip_prefix('{').map_or(Some(text), |rest| rest.strip_suffix('}'));
        match inside.filter(|path| !path.is_empty() && !path.contains(['{', '}'])) {
            Some(path) => Template::parse(&format!("{{.{}}}", path.strip_prefix('.').unwrap_or(path))),
            None => bail!(
                "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{{name1.name2}}' or '{{.name1.name2}}'"
            ),
        }
    }

    /// Whether a field that is not there is nothing (which it is otherwise, too) or an error.
    pub fn lenient(self, lenient: bool) -> Template {
        Template { lenient, ..self }
    }

    /// The text for one value.
    pub fn render(&self, value: &Value) -> Result<String> {
        let mut out = String::new();
        let rendered = render(&self.nodes, value, self.lenient, &mut out);
        rendered.with_context(|| format!("error executing jsonpath {:?}: Error executing template", self.text))?;
        Ok(out)
    }

    /// What the first path of the template selects.
    pub fn select<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self.nodes.first() {
            Some(Node::Path(steps)) => walk(steps, vec![value]),
            _ => Vec::new(),
        }
    }
}

enum Token {
    Text(String),
    Expression(String),
}

/// Splits at braces; a brace inside quotes is text.
fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            out.push(Token::Text(rest[..open].to_owned()));
        }
        let inside = &rest[open + 1..];
        let Some(close) = closing(inside, '{', '}') else { bail!("unclosed action") };
        out.push(Token::Expression(inside[..close].trim().to_owned()));
        rest = &inside[close + 1..];
    }
    if !rest.is_empty() {
        out.push(Token::Text(rest.to_owned()));
    }
    Ok(out)
}

fn block(tokens: &mut dyn Iterator<Item = Token>, inner: bool) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Text(text) => nodes.push(Node::Text(text)),
            Token::Expression(expression) => match expression.as_str() {
                "end" if inner => return Ok(nodes),
                "end" => bail!("not in range, nothing to end"),
                range if ["range ", "range."].iter().any(|word| range.starts_with(word)) => {
                    let over = path(range["range".len()..].trim())?;
                    nodes.push(Node::Range(over, block(tokens, true)?));
                }
                quoted if quoted.starts_with(['"', '\'']) => nodes.push(Node::Text(unquote(quoted))),
                other => nodes.push(Node::Path(path(other)?)),
            },
        }
    }
    if inner { bail!("unclosed range") } else { Ok(nodes) }
}

fn unquote(text: &str) -> String {
    let inside = text.trim_matches(text.chars().next().unwrap_or('"'));
    inside.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Parses one path, `.a.b[0]['c']..d`.
fn path(text: &str) -> Result<Vec<Step>> {
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Deep);
            rest = after;
            if !rest.starts_with(['.', '[']) {
                let (name, after) = field(rest);
                steps.push(if name == "*" { Step::All } else { Step::Field(name) });
                rest = after;
            }
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some(close) = closing(after, '[', ']') else { bail!("unterminated array") };
            steps.push(bracket(after[..close].trim())?);
            rest = &after[close + 1..];
        } else {
            let (name, after) = field(rest.strip_prefix('.').unwrap_or(rest));
            ensure!(after.len() < rest.len(), "unrecognized character in action at {rest:?}");
            match name.as_str() {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        }
    }
    Ok(steps)
}

/// A field name up to the next `.` or `[`; `\.` is a dot in the name.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

/// Where the bracket that was just opened closes; one inside quotes is text.
fn closing(text: &str, opens: char, closes: char) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c == opens => depth += 1,
            (None, c) if c == closes && depth == 0 => return Some(at),
            (None, c) if c == closes => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return comparison(filter.trim());
    }
    if text.starts_with(['\'', '"']) {
        return Ok(Step::Fields(text.split(',').map(|name| unquote(name.trim())).collect()));
    }
    let number =
        |text: &str| -> Result<Option<i64>> { if text.is_empty() { Ok(None) } else { Ok(Some(text.parse()?)) } };
    let parts: Vec<&str> = text.split(':').map(str::trim).collect();
    match parts.as_slice() {
        [index] => number(index)?.map(Step::Index).context("empty index"),
        [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
        [from, to, step] => Ok(Step::Slice(number(from)?, number(to)?, number(step)?.unwrap_or(1).max(1))),
        _ => bail!("cannot parse [{text}]"),
    }
}

fn comparison(text: &str) -> Result<Step> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        if let Some((left, right)) = text.split_once(operator) {
            return Ok(Step::Filter(operand(left.trim())?, operator.to_owned(), operand(right.trim())?));
        }
    }
    Ok(Step::Exists(path(text)?))
}

fn operand(text: &str) -> Result<Operand> {
    if text.starts_with(['@', '$', '.']) {
        return Ok(Operand::Path(path(text)?));
    }
    if text.starts_with(['\'', '"']) {
        return Ok(Operand::Literal(Value::String(unquote(text))));
    }
    Ok(Operand::Literal(serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))))
}

fn walk<'a>(steps: &[Step], mut here: Vec<&'a Value>) -> Vec<&'a Value> {
    for step in steps {
        here = match step {
            // All of the first name, then all of the second.
            Step::Fields(names) => names.iter().flat_map(|name| here.iter().filter_map(move |v| v.get(name))).collect(),
            step => here.into_iter().flat_map(|value| take(step, value)).collect(),
        };
    }
    here
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    let at = |index: i64| {
        if index < 0 { index + list.len() as i64 } else { index }
    };
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Fields(names) => names.iter().filter_map(|name| value.get(name)).collect(),
        Step::All => match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Deep => {
            let mut all = vec![value];
            all.extend(take(&Step::All, value).into_iter().flat_map(|below| take(&Step::Deep, below)));
            all
        }
        Step::Index(index) => usize::try_from(at(*index)).ok().and_then(|index| list.get(index)).into_iter().collect(),
        Step::Slice(from, to, step) => {
            let from = at(from.unwrap_or(0)).max(0) as usize;
            let to = at(to.unwrap_or(list.len() as i64)).clamp(0, list.len() as i64) as usize;
            list.iter().take(to).skip(from).step_by(*step as usize).collect()
        }
        Step::Filter(left, operator, right) => list.iter().filter(|item| holds(item, left, operator, right)).collect(),
        Step::Exists(path) => list.iter().filter(|item| !walk(path, vec![item]).is_empty()).collect(),
    }
}

fn holds(item: &Value, left: &Operand, operator: &str, right: &Operand) -> bool {
    let value = |operand: &Operand| match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(path) => walk(path, vec![item]).first().map(|value| (*value).clone()),
    };
    let (Some(left), Some(right)) = (value(left), value(right)) else { return false };
    let order = left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right));
    match operator {
        "==" => left == right,
        "!=" => left != right,
        "<" => order.is_some_and(Ordering::is_lt),
        "<=" => order.is_some_and(Ordering::is_le),
        ">" => order.is_some_and(Ordering::is_gt),
        _ => order.is_some_and(Ordering::is_ge),
    }
}

fn render(nodes: &[Node], here: &Value, lenient: bool, out: &mut String) -> Result<()> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let missing = |end: &usize| walk(&steps[..=*end], vec![here]).is_empty();
                if !lenient
                    && let Some(end) = (0..steps.len()).find(missing)
                    && let Step::Field(name) = &steps[end]
                {
                    bail!("{name} is not found");
                }
                let found: Vec<String> = walk(steps, vec![here]).into_iter().map(text).collect();
                out.push_str(&found.join(" "));
            }
            Node::Range(over, inner) => {
                for value in walk(over, vec![here]) {
                    render(inner, value, lenient, out)?;
                }
            }
        }
    }
    Ok(())
}

/// A value as jsonpath prints it: strings bare, the rest as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => super::print::sorted(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, value: &Value) -> String {
        Template::parse(template).unwrap().render(value).unwrap()
    }

    #[test]
    fn templates_select_what_kubectl_selects() {
        let list = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x/y.z": "1"}}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "b", "labels": {}}, "status": {"conditions": [{"type": "Ready", "status": "False"}], "n": 3}},
        ]});
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            (".items[1].metadata.name", ".items[1].metadata.name"),
            ("{.items[-1:].metadata.name}", "b"),
            (
                r#"{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#,
                "a=True\nb=False\n",
            ),
            (r"{.items[0].metadata.labels.x/y\.z}", "1"),
            ("{.items[0].metadata.labels['x/y.z']}", "1"),
            ("{..name}", "a b"),
            ("{.items[?(@.status.n>2)].metadata.name}", "b"),
            ("{.items[?(@.status.n)].metadata.name}", "b"),
            ("{.items[0].metadata.labels}", r#"{"x/y.z":"1"}"#),
            ("{.missing.thing}", ""),
            ("n: {.items[1].status.n}", "n: 3"),
        ] {
            assert_eq!(render(template, &list), expected, "{template}");
        }
    }

    #[test]
    fn one_path_may_be_written_without_braces() {
        for text in ["{.a.b}", "{a.b}", ".a.b", "a.b"] {
            assert_eq!(Template::relaxed(text).unwrap().select(&json!({"a": {"b": 1}})), [&json!(1)], "{text}");
        }
        assert!(Template::relaxed("{.a").is_err());
        let strict = Template::parse("{.x.y}").unwrap().lenient(false);
        let error = format!("{:#}", strict.render(&json!({})).unwrap_err());
        assert_eq!(error, r#"error executing jsonpath "{.x.y}": Error executing template: x is not found"#);
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for bad in ["{.a", "{range .a}{.b}", "{end}", "{.a[}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
