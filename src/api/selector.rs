//! Label and field selectors: the texts of `-l` and `--field-selector`, and the objects of specs.
use super::error::ApiError;
use super::kinds::Kind;
use super::meta;
use serde_json::{Map, Value};

/// A parsed label selector: all requirements hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// The selector of an absent `metav1.LabelSelector`.
    nothing: bool,
}

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Requirement {
    fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let value = labels.and_then(|l| l.get(&self.key)).and_then(Value::as_str);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|n| n > *than),
            Test::Less(than) => number().is_some_and(|n| n < *than),
        }
    }
}

impl LabelSelector {
    /// `a=b,c!=d,e in (f,g),!h`
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let requirements = split_terms(text).into_iter().map(parse_term).collect::<Result<_, _>>();
        let requirements =
            requirements.map_err(|e: String| ApiError::bad_request(format!("unable to parse requirement: {e}")))?;
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// From `metav1.LabelSelector` (`matchLabels`, `matchExpressions`). `None` matches nothing, `{}` everything.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, String> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else {
            return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
        };
        let mut out = Self::from_map(meta::map(selector, &["matchLabels"]));
        for expression in meta::list(selector, &["matchExpressions"]) {
            let strings = meta::list(expression, &["values"]).iter().filter_map(Value::as_str);
            let values: Vec<String> = strings.map(str::to_string).collect();
            let test = match meta::text(expression, &["operator"]) {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let key = meta::text(expression, &["key"]).to_string();
            out.requirements.push(Requirement { key, test });
        }
        Ok(out)
    }

    /// From a plain map (`spec.selector` of a Service). `None` matches everything: ask `is_empty` first.
    pub fn from_map(labels: Option<&Map<String, Value>>) -> Self {
        let term = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            test: Test::In(vec![value.as_str().unwrap_or("").to_string()]),
        };
        LabelSelector { requirements: labels.into_iter().flatten().map(term).collect(), nothing: false }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether an object with these labels matches.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
}

/// Terms separated by commas that are not inside parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out.retain(|t| !t.trim().is_empty());
    out
}

fn parse_term(term: &str) -> Result<Requirement, String> {
    let term = term.trim();
    let (key, test) = if let Some(key) = term.strip_prefix('!') {
        (key, Test::Absent)
    } else if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(vec![label_value(value)?]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(vec![label_value(value)?]))
    } else if let Some((key, value)) = term.split_once('>') {
        (key, Test::Greater(number(value)?))
    } else if let Some((key, value)) = term.split_once('<') {
        (key, Test::Less(number(value)?))
    } else if let Some((head, values)) = term.split_once('(') {
        let values = values.trim_end().strip_suffix(')').ok_or("found '', expected: ',', or ')'")?;
        let values = values.split(',').map(label_value).collect::<Result<_, _>>()?;
        match head.split_whitespace().collect::<Vec<_>>()[..] {
            [key, "in"] => (key, Test::In(values)),
            [key, "notin"] => (key, Test::NotIn(values)),
            _ => return Err(format!("found '{}', expected: 'in', 'notin'", head.trim())),
        }
    } else {
        (term, Test::Exists)
    };
    let key = key.trim();
    if let Some(problem) = super::kinds::names::qualified_name(key).into_iter().next() {
        return Err(format!("<nil>: Invalid value: {key:?}: {problem}"));
    }
    Ok(Requirement { key: key.into(), test })
}

fn label_value(text: &str) -> Result<String, String> {
    let text = text.trim();
    match super::kinds::names::label_value(text).into_iter().next() {
        Some(problem) => Err(format!("values[0]: Invalid value: {text:?}: {problem}")),
        None => Ok(text.into()),
    }
}

fn number(text: &str) -> Result<i64, String> {
    text.trim().parse().map_err(|_| "for 'Gt', 'Lt' operators, the value must be an integer".into())
}

/// A parsed field selector: (field, equal?, value) terms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector {
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// `metadata.name=x,status.phase!=Running`; fields the kind does not select by are refused with Kubernetes' sentence.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in text.split(',').filter(|t| !t.is_empty()) {
            let (field, equal, value) = if let Some((field, value)) = term.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (field, true, value)
            } else {
                return Err(ApiError::bad_request(format!("invalid selector: {text:?}; can't understand {term:?}")));
            };
            terms.push((field.trim().to_string(), equal, value.to_string()));
        }
        let known = kind.selectable(&Value::Null);
        for (field, _, _) in &terms {
            if !known.iter().any(|(name, _)| name == field) {
                // Kinds with fields of their own and kinds without say it differently.
                return Err(ApiError::bad_request(match (kind.fields)(&Value::Null)[..] {
                    [] => format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    ),
                    _ => format!("field label not supported: {field}"),
                }));
            }
        }
        Ok(FieldSelector { terms })
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The name it pins with `metadata.name=x`.
    pub fn name(&self) -> Option<&str> {
        let pinned = self.terms.iter().find(|(field, equal, _)| field == "metadata.name" && *equal)?;
        Some(&pinned.2)
    }

    /// Whether an object matches.
    pub fn matches(&self, kind: &Kind, object: &Value) -> bool {
        self.is_empty() || self.accepts(&kind.selectable(object))
    }

    /// Whether an object with these selectable fields ([`Kind::selectable`]) matches.
    pub fn accepts(&self, fields: &[(&'static str, String)]) -> bool {
        self.terms
            .iter()
            .all(|(field, equal, value)| fields.iter().any(|(name, have)| name == field && (have == value) == *equal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_select() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5"}}});
        for (text, want) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app=db", false),
            ("app", true),
            ("!app", false),
            ("!gone", true),
            ("app in (web, db),tier notin (back)", true),
            ("gone notin (x)", true),
            ("gone in (x)", false),
            ("n>4", true),
            ("n<4", false),
            ("gone!=x", true),
            ("app=", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(meta::labels(&object)), want, "{text}");
        }
        assert!(LabelSelector::parse("a b c").is_err());
        assert!(LabelSelector::parse("a in (b").is_err());
    }

    #[test]
    fn selector_objects_select() {
        let labels = json!({"app": "web"});
        let labels = labels.as_object();
        let of = |v: Value| LabelSelector::from_object(Some(&v)).unwrap().matches(labels);
        assert!(!LabelSelector::from_object(None).unwrap().matches(labels));
        assert!(of(json!({})));
        assert!(of(json!({"matchLabels": {"app": "web"}})));
        assert!(!of(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]})));
        assert!(of(json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]})));
    }

    #[test]
    fn field_selectors_know_the_kind() {
        let pods = crate::api::find("", "v1", "pods").unwrap();
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let parse = |t| FieldSelector::parse(pods, t);
        assert!(parse("spec.nodeName=n1,status.phase!=Failed").unwrap().matches(pods, &pod));
        assert!(!parse("metadata.name=b").unwrap().matches(pods, &pod));
        assert_eq!(parse("metadata.name=b").unwrap().name(), Some("b"));
        assert_eq!(parse("spec.foo=b").unwrap_err().message, "field label not supported: spec.foo");
        let maps = crate::api::find("", "v1", "configmaps").unwrap();
        let error = FieldSelector::parse(maps, "data.a=b").unwrap_err();
        assert_eq!(
            error.message,
            r#""data.a" is not a known field selector: only "metadata.name", "metadata.namespace""#
        );
    }
}
