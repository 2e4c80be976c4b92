//! Bytes of a request to an object: one pass that checks types, finds unknown and duplicate fields, and drops them.
//!
//! The type tree drives a serde seed, so the JSON (or YAML) parser never builds what is not kept, and every message knows the
//! path it is about. Enum-like strings and ranges are not looked at here; that is validation.
use super::error::ApiError;
use super::kinds::Kind;
use super::schema::{Def, Type};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;
use std::fmt::{self, Write};

/// `?fieldValidation=`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn (the default).
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// The query parameter; empty means `Warn`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(ApiError::unsupported("fieldValidation", other, &["Ignore", "Strict", "Warn"])),
        }
    }
}

/// Serialization of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

/// Maps and lists in one another that an object may have: real ones have 20, and the parsers that read objects back,
/// wrapped in lists and events, stop at 128.
pub const MAX_DEPTH: usize = 64;
/// What is said of a deeper one.
pub const TOO_DEEP: &str = "json: exceeded max depth";

/// Whether more than `levels` of maps and lists are in one another.
pub fn deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(map) => levels == 0 || map.values().any(|value| deeper(value, levels - 1)),
        Value::Array(items) => levels == 0 || items.iter().any(|value| deeper(value, levels - 1)),
        _ => false,
    }
}

fn shaped(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(refused(kind, "json: cannot unmarshal non-object into Go value"));
    }
    if deeper(object, MAX_DEPTH) { Err(refused(kind, TOO_DEEP)) } else { Ok(()) }
}

/// Decodes a whole object. Returns it with unknown fields dropped, and the texts for `Warning` headers.
pub fn object(
    kind: &Kind,
    body: &[u8],
    format: Format,
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    let walk = Walk::default();
    let seed = Node::root(&walk, kind);
    let decoded = match format {
        Format::Json => {
            let mut parser = serde_json::Deserializer::from_slice(body);
            seed.deserialize(&mut parser).and_then(|v| parser.end().map(|()| v)).map_err(|e| plain(&e.to_string()))
        }
        Format::Yaml => super::yaml::with_deserializer(body, |d| seed.deserialize(d)).map_err(|e| plain(&e)),
    };
    let object = decoded.map_err(|e| refused(kind, &e))?;
    shaped(kind, &object)?;
    Ok((object, walk.finish(kind, mode)?))
}

/// The same check for an object that is already a value (a patched one): unknown fields are dropped from it.
pub fn check(kind: &Kind, object: &mut Value, mode: FieldValidation) -> Result<Vec<String>, ApiError> {
    shaped(kind, object)?;
    let walk = Walk::default();
    let seed = Node::root(&walk, kind);
    let taken = std::mem::take(object);
    *object = seed.deserialize(taken).map_err(|e| refused(kind, &plain(&e.to_string())))?;
    walk.finish(kind, mode)
}

/// Body of a request without a schema (patches, delete options): JSON or YAML to a value.
pub fn value(body: &[u8], format: Format) -> Result<Value, ApiError> {
    match format {
        Format::Json => serde_json::from_slice(body).map_err(|e| ApiError::bad_request(plain(&e.to_string()))),
        Format::Yaml => {
            super::yaml::with_deserializer(body, <Value as de::Deserialize>::deserialize).map_err(ApiError::bad_request)
        }
    }
}

fn refused(kind: &Kind, error: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{} in version {:?} cannot be handled as a {}: {error}",
        kind.kind, kind.version, kind.kind
    ))
}

/// The parser's message, without its own position and path when the sentence is ours and names the field itself.
fn plain(text: &str) -> String {
    let Some(start) = text.find("json: ") else {
        return text.into();
    };
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[start..end].into()
}

/// What one decoding has found so far. At most [`MAX_PROBLEMS`] are kept.
#[derive(Default)]
struct Walk {
    problems: RefCell<Vec<String>>,
}

/// A body with more unknown fields than this is reported no further; keeps headers and memory bounded.
const MAX_PROBLEMS: usize = 100;

impl Walk {
    fn note(&self, text: String) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS && !problems.contains(&text) {
            problems.push(text);
        }
    }

    fn finish(self, kind: &Kind, mode: FieldValidation) -> Result<Vec<String>, ApiError> {
        let problems = self.problems.into_inner();
        match mode {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !problems.is_empty() => {
                let text = format!("strict decoding error: {}", problems.join(", "));
                Err(refused(kind, &text))
            }
            _ => Ok(problems),
        }
    }
}

/// Where the walk is: a linked list on the stack, turned into text only for a message.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    /// An entry of a map: part of the path, but not of Go's name for it.
    Entry(&'a str),
    Index(usize),
}

impl Place<'_> {
    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) | Step::Entry(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            // Writing to a String cannot fail.
            Step::Index(at) => write!(out, "[{at}]").unwrap_or_default(),
        }
    }
    fn path(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
    /// As Go names a struct field: no indices.
    fn go_path(&self, root: &str) -> String {
        let mut names = Vec::new();
        let mut here = Some(self);
        while let Some(place) = here {
            if let Step::Field(name) = place.step {
                names.push(name);
            }
            here = place.parent;
        }
        names.push(root);
        names.reverse();
        names.join(".")
    }
}

/// Decodes one value of a known type at a known place.
#[derive(Clone, Copy)]
struct Node<'a> {
    walk: &'a Walk,
    place: Place<'a>,
    ty: Type,
    /// The struct the place is a field of, for messages.
    owner: &'static str,
}

impl<'a> Node<'a> {
    fn root(walk: &'a Walk, kind: &Kind) -> Node<'a> {
        let place = Place { parent: None, step: Step::Root };
        let def = kind.types();
        Node { walk, place, ty: Type::Struct(def), owner: def.short_name() }
    }

    fn mismatch<E: de::Error>(&self, got: &str) -> E {
        E::custom(format!(
            "json: cannot unmarshal {got} into Go struct field {} of type {}",
            self.place.go_path(self.owner),
            self.ty.go_name()
        ))
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.ty.go_name())
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        match self.ty {
            Type::Any | Type::Bool => Ok(Value::Bool(v)),
            _ => Err(self.mismatch("bool")),
        }
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        match self.ty {
            Type::Int(32) if i32::try_from(v).is_err() => Err(self.mismatch(&format!("number {v}"))),
            Type::Any | Type::Int(_) | Type::Number | Type::IntOrString => Ok(v.into()),
            Type::Quantity => self.visit_string(v.to_string()),
            _ => Err(self.mismatch("number")),
        }
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) if matches!(self.ty, Type::Any | Type::Number) => Ok(v.into()),
            Err(_) => Err(self.mismatch(&format!("number {v}"))),
        }
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        match self.ty {
            Type::Any | Type::Number => Ok(Number::from_f64(v).map_or(Value::Null, Value::Number)),
            Type::Quantity => self.visit_string(v.to_string()),
            // Go accepts 1.0 nowhere either, but YAML tools write 1e3 for 1000.
            Type::Int(_) if v.fract() == 0.0 && v.abs() < 9e15 => self.visit_i64(v as i64),
            _ => Err(self.mismatch(&format!("number {v}"))),
        }
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.visit_string(v.to_owned())
    }
    fn visit_string<E: de::Error>(self, v: String) -> Result<Value, E> {
        match self.ty {
            Type::Any | Type::Text | Type::IntOrString => Ok(v.into()),
            Type::Time => match v.parse::<jiff::Timestamp>() {
                Ok(_) => Ok(v.into()),
                Err(_) => Err(E::custom(format!(
                    "json: parsing time {v:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {v:?} as \"2006\""
                ))),
            },
            Type::Bytes => match super::kinds::base64_ok(&v) {
                true => Ok(v.into()),
                false => Err(E::custom("json: illegal base64 data at input byte 0")),
            },
            Type::Quantity => match v.parse::<super::quantity::Quantity>() {
                // Canonical at the door, so that two spellings of one amount are one value.
                Ok(q) => Ok(q.to_string().into()),
                Err(e) => Err(E::custom(format!("json: {e}"))),
            },
            // Kubernetes' YAML is 1.1, where 0400 is octal; our parser's is 1.2, where it is a text.
            Type::Int(_) if v.len() > 1 && v.starts_with('0') => match i64::from_str_radix(&v, 8) {
                Ok(v) => self.visit_i64(v),
                Err(_) => Err(self.mismatch("string")),
            },
            _ => Err(self.mismatch("string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let item = match self.ty {
            Type::List(item, _) => *item,
            Type::Any => Type::Any,
            _ => return Err(self.mismatch("array")),
        };
        let mut out = Vec::new();
        loop {
            let place = Place { parent: Some(&self.place), step: Step::Index(out.len()) };
            match seq.next_element_seed(Node { walk: self.walk, place, ty: item, owner: self.owner })? {
                // Go reads a null element as an empty one.
                Some(Value::Null) if matches!(item, Type::Struct(_)) => {
                    out.push(Value::Object(Map::new()));
                }
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let def: Option<&Def> = match self.ty {
            Type::Struct(def) => Some(def),
            Type::Map(..) | Type::Any => None,
            _ => return Err(self.mismatch("object")),
        };
        let owner = def.map_or(self.owner, Def::short_name);
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let ty = match (def, self.ty) {
                (Some(def), _) => def.field(&key).map(|f| f.ty),
                (None, Type::Map(value, _)) => Some(*value),
                (None, _) => Some(Type::Any),
            };
            let place = Place {
                parent: Some(&self.place),
                step: if def.is_some() { Step::Field(&key) } else { Step::Entry(&key) },
            };
            let Some(ty) = ty else {
                self.walk.note(format!("unknown field {:?}", place.path()));
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if out.contains_key(&key) {
                self.walk.note(format!("duplicate field {:?}", place.path()));
            }
            let value = map.next_value_seed(Node { walk: self.walk, place, ty, owner })?;
            match (value, self.ty) {
                // A null field is an absent one, a null entry an empty one, and where anything goes null is null.
                (Value::Null, Type::Map(Type::Text | Type::Bytes, _)) => {
                    out.insert(key, "".into());
                }
                (Value::Null, Type::Struct(_) | Type::Map(..)) => drop(out.shift_remove(&key)),
                (value, _) => drop(out.insert(key, value)),
            }
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(body: &str, mode: FieldValidation) -> Result<(Value, Vec<String>), String> {
        let pods = crate::api::find("", "v1", "pods").unwrap();
        object(pods, body.as_bytes(), Format::Json, mode).map_err(|e| e.message)
    }

    #[test]
    fn unknown_and_duplicate_fields_are_told_and_dropped() {
        let body = r#"{"metadata": {"name": "a", "name": "b", "labels": {"x": null}},
            "spec": {"foo": {"deep": [1]}, "containers": [{"name": "a", "imagee": "x"}, null], "hostname": null}}"#;
        let found = [
            r#"duplicate field "metadata.name""#,
            r#"unknown field "spec.foo""#,
            r#"unknown field "spec.containers[0].imagee""#,
        ];
        let (object, warnings) = pod(body, FieldValidation::Warn).unwrap();
        let want = json!({"metadata": {"name": "b", "labels": {"x": ""}}, "spec": {"containers": [{"name": "a"}, {}]}});
        assert_eq!(object, want);
        assert_eq!(warnings, found);
        assert_eq!(pod(body, FieldValidation::Ignore).unwrap(), (want, vec![]));
        let strict = pod(body, FieldValidation::Strict).unwrap_err();
        let head = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: ";
        assert_eq!(strict, format!("{head}{}", found.join(", ")));
    }

    #[test]
    fn an_object_is_as_deep_as_it_can_be_read_back() {
        // The object, its metadata, the list and the entry are four levels.
        for (levels, fits) in [(MAX_DEPTH - 4, true), (MAX_DEPTH - 3, false), (120, false)] {
            let deep = format!("{}1{}", r#"{"f:x":"#.repeat(levels), "}".repeat(levels));
            let body = format!(r#"{{"metadata": {{"managedFields": [{{"fieldsV1": {deep}}}]}}}}"#);
            let decoded = pod(&body, FieldValidation::Warn);
            assert_eq!(decoded.is_ok(), fits, "{levels}");
            let mut object = serde_json::from_str(&body).unwrap();
            let checked = check(crate::api::find("", "v1", "pods").unwrap(), &mut object, FieldValidation::Warn);
            assert_eq!(checked.map_err(|e| e.code), if fits { Ok(vec![]) } else { Err(400) }, "{levels}");
        }
    }

    #[test]
    fn an_octal_number_is_one() {
        let mode = |text: &str| {
            let body = format!(r#"{{"spec": {{"volumes": [{{"secret": {{"defaultMode": "{text}"}}}}]}}}}"#);
            let (pod, _) = pod(&body, FieldValidation::Strict).ok()?;
            pod["spec"]["volumes"][0]["secret"]["defaultMode"].as_i64()
        };
        assert_eq!(["0400", "0", "400", "08", ""].map(mode), [Some(256), None, None, None, None]);
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        for (body, want) in [
            (
                r#"{"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}"#,
                "cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                r#"{"spec": {"containers": {}}}"#,
                "cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                r#"{"metadata": {"labels": {"a": 1}}}"#,
                "cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                r#"{"spec": {"terminationGracePeriodSeconds": 1.5}}"#,
                "cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
            ),
        ] {
            let head = "Pod in version \"v1\" cannot be handled as a Pod: json: ";
            assert_eq!(pod(body, FieldValidation::Warn).unwrap_err(), format!("{head}{want}"));
        }
        assert!(pod("{", FieldValidation::Warn).unwrap_err().contains("EOF"));
        assert!(pod("[]", FieldValidation::Warn).is_err());
    }

    #[test]
    fn amounts_and_ports_keep_their_meaning() {
        let body = r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}},
            "livenessProbe": {"tcpSocket": {"port": "http"}}, "readinessProbe": {"tcpSocket": {"port": 80}}}]}}"#;
        let (object, _) = pod(body, FieldValidation::Strict).unwrap();
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["resources"]["limits"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(container["livenessProbe"]["tcpSocket"]["port"], "http");
        assert_eq!(container["readinessProbe"]["tcpSocket"]["port"], 80);
    }
}
