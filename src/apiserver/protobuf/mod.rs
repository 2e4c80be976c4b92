//! Protobuf request bodies as JSON: `kubectl create`, `auth can-i` and others send nothing else since 1.35.
//!
//! Only requests: answers are always JSON, which every client accepts. A body is
//!
//! ```text
//! 'k' 's' '8' 0                                            magic
//! Unknown { 1: { 1: apiVersion, 2: kind }, 2: raw, … }     which message, and its bytes
//! ```
//!
//! `messages.txt` has a line a message: field number, JSON name and type (`s` text, `i` integer, `b` boolean, `d` number,
//! `y` bytes, `=` a message; `*` in front: repeated, `%`: a map from text). The name `.` means that the fields of the inner
//! message belong to the outer object. A field that is not in the table is refused: dropping it would be worse.
//!
//! Kubernetes writes the empty value of a field that is not a pointer, which JSON would leave out; it is left out here as
//! well, so that defaults apply. The table does not say which fields are pointers: [`ZERO_IS_ABSENT`] does.
mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use wire::{Raw, Wire};

/// First bytes of a body.
const MAGIC: &[u8] = b"k8s\0";
/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Messages inside messages: deeper than any of Kubernetes', shallower than the stack.
const DEPTH: usize = 64;

/// Numbers and booleans that are not pointers in Kubernetes' types: zero and false mean that nothing was said.
const ZERO_IS_ABSENT: &[&str] = &[
    "availableReplicas",
    "containerPort",
    "failureThreshold",
    "fullyLabeledReplicas",
    "generation",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "observedGeneration",
    "paused",
    "periodSeconds",
    "publishNotReadyAddresses",
    "readOnly",
    "readyReplicas",
    "stdin",
    "stdinOnce",
    "successThreshold",
    "targetPort",
    "timeoutSeconds",
    "tty",
    "unavailableReplicas",
    "unschedulable",
    "updatedReplicas",
];
/// Texts that mean something when they are empty.
const EMPTY_IS_SAID: &[&str] = &["storageClassName"];

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the protobuf body cannot be read: {0}")]
pub(super) struct Unreadable(String);

fn unreadable<T>(why: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable(why.into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    Repeated,
    Map,
}

#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Integer,
    Boolean,
    Number,
    Bytes,
    Message(&'static str),
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    shape: Shape,
    of: Type,
}

type Messages = HashMap<&'static str, HashMap<u64, Field>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| parse_table(include_str!("messages.txt")));

fn parse_table(text: &'static str) -> Messages {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let messages = lines.filter_map(|line| line.split_once(": "));
    let fields = |list: &'static str| list.split(", ").filter_map(parse_field).collect();
    messages.map(|(name, list)| (name, fields(list))).collect()
}

fn parse_field(text: &'static str) -> Option<(u64, Field)> {
    let mut words = text.split(' ');
    let (number, name, code) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (shape, code) = match code.as_bytes().first()? {
        b'*' => (Shape::Repeated, code.get(1..)?),
        b'%' => (Shape::Map, code.get(1..)?),
        _ => (Shape::One, code),
    };
    let of = match code {
        "s" => Type::Text,
        "i" => Type::Integer,
        "b" => Type::Boolean,
        "d" => Type::Number,
        "y" => Type::Bytes,
        message => Type::Message(message.strip_prefix('=')?),
    };
    Some((number, Field { name, shape, of }))
}

/// The object in a body.
pub(super) fn to_json(body: &[u8]) -> Result<Value, Unreadable> {
    let Some(envelope) = body.strip_prefix(MAGIC) else {
        return unreadable("it does not begin with the magic bytes");
    };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Wire(envelope) {
        match item? {
            (1, Raw::Bytes(type_meta)) => {
                for item in Wire(type_meta) {
                    match item? {
                        (1, Raw::Bytes(text)) => api_version = utf8(text)?,
                        (2, Raw::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Raw::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let message = message_of(&api_version, &kind);
    let Some((name, _)) = MESSAGES.get_key_value(message.as_str()) else {
        return unreadable(format!("there is no table for {api_version} {kind}"));
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    fill(&mut object, name, raw, DEPTH)?;
    Ok(object.into())
}

/// `rbac.authorization.k8s.io/v1`, `Role` to `rbac/v1.Role`.
fn message_of(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta/v1.DeleteOptions".to_owned();
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or(group);
    format!("{package}/{version}.{kind}")
}

/// Adds the fields of a message to an object.
fn fill(object: &mut Map<String, Value>, message: &'static str, bytes: &[u8], depth: usize) -> Result<(), Unreadable> {
    let Some(fields) = MESSAGES.get(message).filter(|_| depth > 0) else {
        return unreadable(format!("no table for {message}"));
    };
    for item in Wire(bytes) {
        let (number, raw) = item?;
        let Some(field) = fields.get(&number) else {
            return unreadable(format!("{message} has an unknown field {number}"));
        };
        let name = field.name;
        match (field.shape, field.of, raw) {
            (Shape::One, Type::Message(inner), Raw::Bytes(bytes)) if name == "." => {
                fill(object, inner, bytes, depth - 1)?;
            }
            (Shape::One, of, raw) => {
                if let Some(value) = said(name, value(of, raw, depth - 1)?) {
                    object.insert(name.into(), value);
                }
            }
            (Shape::Repeated, of, raw) => {
                let value = value(of, raw, depth - 1)?;
                let list = object.entry(name).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(value);
                }
            }
            (Shape::Map, of, Raw::Bytes(pair)) => {
                let (key, value) = entry(of, pair, depth - 1)?;
                let map = object.entry(name).or_insert_with(|| json!({}));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
            (Shape::Map, ..) => return unreadable(format!("{message}.{name} is not a map")),
        }
    }
    Ok(())
}

/// `None` for what JSON would leave out.
fn said(name: &str, value: Value) -> Option<Value> {
    let absent = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !EMPTY_IS_SAID.contains(&name),
        Value::Number(number) => number.as_i64() == Some(0) && ZERO_IS_ABSENT.contains(&name),
        Value::Bool(false) => ZERO_IS_ABSENT.contains(&name),
        _ => false,
    };
    (!absent).then_some(value)
}

/// A pair of a map: key is field 1, value is field 2; either may be missing if it is empty.
fn entry(of: Type, pair: &[u8], depth: usize) -> Result<(String, Value), Unreadable> {
    let (mut key, mut found) = (String::new(), None);
    for item in Wire(pair) {
        match item? {
            (1, Raw::Bytes(text)) => key = utf8(text)?,
            (2, raw) => found = Some(value(of, raw, depth)?),
            _ => {}
        }
    }
    let value = match found {
        Some(value) => value,
        None => value(of, Raw::Bytes(&[]), depth)?,
    };
    Ok((key, value))
}

fn value(of: Type, raw: Raw, depth: usize) -> Result<Value, Unreadable> {
    Ok(match (of, raw) {
        (Type::Text, Raw::Bytes(bytes)) => utf8(bytes)?.into(),
        (Type::Bytes, Raw::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        // Integers are two's complement in 64 bits, whatever their size.
        (Type::Integer, Raw::Number(number)) => number.cast_signed().into(),
        (Type::Boolean, Raw::Number(number)) => (number != 0).into(),
        (Type::Number, Raw::Fixed(bits)) => f64::from_bits(bits).into(),
        (Type::Message(name), Raw::Bytes(bytes)) => message(name, bytes, depth)?,
        _ => return unreadable("a field has the wrong wire type"),
    })
}

/// A message as JSON has it; some are no objects there.
fn message(name: &'static str, bytes: &[u8], depth: usize) -> Result<Value, Unreadable> {
    match name {
        "meta/v1.Time" => return time(bytes, false),
        "meta/v1.MicroTime" => return time(bytes, true),
        "resource.Quantity" => return text_field(bytes).map(Value::from),
        "meta/v1.FieldsV1" | "runtime.RawExtension" => {
            let raw = bytes_field(bytes)?;
            return serde_json::from_slice(raw).map_err(|error| Unreadable(format!("embedded JSON: {error}")));
        }
        "intstr.IntOrString" => return int_or_string(bytes),
        _ => {}
    }
    let mut object = Map::new();
    fill(&mut object, name, bytes, depth)?;
    // A list that has a message of its own in protobuf only.
    if name.ends_with(".ExtraValue") {
        return Ok(object.shift_remove("items").unwrap_or_else(|| json!([])));
    }
    Ok(object.into())
}

/// Field 1, of a message that only wraps it.
fn bytes_field(bytes: &[u8]) -> Result<&[u8], Unreadable> {
    for item in Wire(bytes) {
        if let (1, Raw::Bytes(inner)) = item? {
            return Ok(inner);
        }
    }
    Ok(&[])
}

fn text_field(bytes: &[u8]) -> Result<String, Unreadable> {
    utf8(bytes_field(bytes)?)
}

/// `{1: seconds, 2: nanoseconds}`; an empty one is null.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Unreadable> {
    let (mut seconds, mut nanos) = (None, 0);
    for item in Wire(bytes) {
        match item? {
            (1, Raw::Number(number)) => seconds = Some(number.cast_signed()),
            (2, Raw::Number(number)) => nanos = i32::try_from(number.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|e| Unreadable(e.to_string()))?;
    let text = match micro {
        true => crate::api::meta::micro_time(at),
        false => crate::api::meta::time(at),
    };
    Ok(text.into())
}

/// `{1: 0 = number | 1 = text, 2: number, 3: text}`
fn int_or_string(bytes: &[u8]) -> Result<Value, Unreadable> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for item in Wire(bytes) {
        match item? {
            (1, Raw::Number(kind)) => is_text = kind == 1,
            (2, Raw::Number(value)) => number = value.cast_signed(),
            (3, Raw::Bytes(value)) => text = utf8(value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn utf8(bytes: &[u8]) -> Result<String, Unreadable> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| Unreadable("a text is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &type_meta), field(2, raw)].concat()
    }

    #[test]
    fn every_line_of_the_table_is_understood() {
        let lines = include_str!("messages.txt").lines().filter(|l| !l.starts_with('#'));
        for line in lines {
            let (name, list) = line.split_once(':').unwrap();
            let fields = list.split(", ").filter(|f| !f.trim().is_empty()).count();
            let parsed = MESSAGES.get(name).map_or(0, HashMap::len);
            assert_eq!(parsed, fields, "{name}");
            for field in MESSAGES.get(name).into_iter().flat_map(HashMap::values) {
                let plain = [
                    "meta/v1.Time",
                    "meta/v1.MicroTime",
                    "resource.Quantity",
                    "meta/v1.FieldsV1",
                    "runtime.RawExtension",
                    "intstr.IntOrString",
                ];
                if let Type::Message(inner) = field.of {
                    let known = MESSAGES.contains_key(inner) || plain.contains(&inner);
                    assert!(known, "{name}.{}: {inner}", field.name);
                }
            }
        }
    }

    #[test]
    fn a_config_map_is_read() {
        let meta = [field(1, b"a"), field(3, b""), field(8, b"")].concat();
        let pair = [field(1, b"k"), field(2, b"v")].concat();
        let bytes = body("v1", "ConfigMap", &[field(1, &meta), field(2, &pair)].concat());
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
        assert_eq!(to_json(&bytes).unwrap(), wanted);
    }

    #[test]
    fn inner_fields_times_and_ports_take_their_json_form() {
        let secret = field(6, &field(1, b"s"));
        let volume = [field(1, b"v"), field(2, &secret)].concat();
        let spec = field(1, &volume);
        let bytes = body("v1", "Pod", &field(2, &spec));
        assert_eq!(
            to_json(&bytes).unwrap()["spec"],
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})
        );
        assert_eq!(time(&[8, 0], false).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(int_or_string(&[8, 1, 16, 0, 26, 2, b'5', b'%']).unwrap(), "5%");
        assert_eq!(int_or_string(&[8, 0, 16, 80]).unwrap(), 80);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(to_json(b"{}").is_err());
        assert!(to_json(&body("v1", "Nothing", b"")).is_err());
        assert!(to_json(&body("v1", "ConfigMap", &field(15, b"x"))).is_err());
        assert!(to_json(&body("v1", "ConfigMap", &[10, 200])).is_err());
    }
}
