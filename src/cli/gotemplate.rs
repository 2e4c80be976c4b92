//! Go's text/template with the two functions that kubectl adds to it. No other file names the crate.
use anyhow::{Context, Result};
use base64::Engine;
use gotmpl::{MissingKey, TemplateError, Value};

/// A parsed template.
pub struct GoTemplate {
    text: String,
    parsed: gotmpl::Template,
}

impl GoTemplate {
    /// Parses; `lenient`: what an object does not have is `<no value>` and no error.
    pub fn parse(text: &str, lenient: bool) -> Result<GoTemplate> {
        let parsed = gotmpl::Template::new("output")
            .missing_key(if lenient { MissingKey::Invalid } else { MissingKey::Error })
            .func("exists", |args| Ok(Value::Bool(exists(args))))
            .func("base64decode", |args| base64_decode(args.first().unwrap_or(&Value::Nil)))
            .parse(text)
            .map_err(|error| anyhow::anyhow!("error parsing template {text}, {}", words(&error)))?;
        Ok(GoTemplate { text: text.to_owned(), parsed })
    }

    /// The text for one value.
    pub fn render(&self, value: &serde_json::Value) -> Result<String> {
        let text = gotmpl::to_value(value).and_then(|value| self.parsed.execute_to_string(&value));
        text.with_context(|| format!("error executing template {:?}", self.text))
    }
}

/// The crate says in which column, too, which Go does not.
fn words(error: &TemplateError) -> String {
    match error {
        TemplateError::Lex { line, message, .. } | TemplateError::Parse { line, message, .. } => {
            format!("template: output:{line}: {message}")
        }
        other => other.to_string(),
    }
}

/// Whether a value has something at these keys and indices.
fn exists(args: &[Value]) -> bool {
    let Some((first, path)) = args.split_first() else { return false };
    let step = |here: Value, key: &Value| here.index(key).ok().filter(|found| *found != Value::Nil);
    path.iter().try_fold(first.clone(), step).is_some()
}

fn base64_decode(value: &Value) -> gotmpl::Result<Value> {
    let Some(text) = value.as_str() else {
        return Err(TemplateError::Exec(format!("wrong type for value; expected string; got {}", value.type_name())));
    };
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(bytes) => Ok(Value::String(String::from_utf8_lossy(&bytes).as_ref().into())),
        Err(error) => Err(TemplateError::Exec(format!("base64 decode failed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_print_what_go_prints() {
        let secret = json!({"data": {"user": "YWRtaW4="}, "n": 3, "f": 1.5, "list": [1, "b", null], "yes": true});
        for (template, expected) in [
            ("{{.data.user | base64decode}} {{exists .data \"user\"}} {{exists .data \"x\"}}", "admin true false"),
            ("{{.x}} {{.data.x.y}} {{.data}}", "<no value> <no value> map[user:YWRtaW4=]"),
            ("{{range $i, $v := .list}}{{$i}}={{$v}} {{end}}", "0=1 1=b 2=<no value> "),
            ("{{if and .yes (gt .n 2)}}{{.f}}{{else}}no{{end}}", "1.5"),
            ("{{range $k, $v := .data}}{{printf \"%s-%q\" $k $v}}{{end}}{{len .list}}", "user-\"YWRtaW4=\"3"),
        ] {
            let rendered = GoTemplate::parse(template, true).unwrap().render(&secret);
            assert_eq!(rendered.map_err(|error| format!("{error:#}")).as_deref(), Ok(expected), "{template}");
        }
    }
}
