//! A compact type tree of every kind, compiled once from Kubernetes' JSON schemas.
//!
//! k8s-openapi's schemas say which fields exist and of which type, but not how lists merge: that is in [`super::patch::rules`],
//! a table. Both together become [`Def`]s: structs with sorted fields, shared between kinds and kept for ever (about 300 of
//! them). Requests walk this tree; the JSON schema itself is dropped.
use super::patch::rules;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

/// A struct type.
#[derive(Debug)]
pub struct Def {
    /// Kubernetes' name of it: `io.k8s.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// Owned as a whole by server-side apply (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Filled once, after the definition is registered, so that recursive types close on themselves.
    fields: OnceLock<Box<[Field]>>,
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// How strategic merge patches treat it.
    pub patch: rules::Patch,
}

/// A type.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// Anything at all (`RawExtension`, `FieldsV1`).
    Any,
    /// A boolean.
    Bool,
    /// A signed integer; 32 or 64 bits.
    Int(u8),
    /// A number with a fraction.
    Number,
    /// Text.
    Text,
    /// Base64.
    Bytes,
    /// RFC 3339.
    Time,
    /// A number or text (`intstr.IntOrString`).
    IntOrString,
    /// A number or text that is a quantity.
    Quantity,
    /// A struct.
    Struct(&'static Def),
    /// Text keys to values; `atomic` maps are owned as a whole.
    Map(&'static Type, bool),
    /// A list.
    List(&'static Type, rules::ListType),
}

impl Def {
    /// The fields, sorted by name.
    pub fn fields(&self) -> &[Field] {
        self.fields.get().map_or(&[], |f| f)
    }
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let fields = self.fields();
        fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|at| &fields[at])
    }
    /// `PodSpec`
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

impl Type {
    /// Go's name of the type, for messages.
    pub fn go_name(&self) -> String {
        let plain = match self {
            Type::Any => "interface {}",
            Type::Bool => "bool",
            Type::Int(32) => "int32",
            Type::Int(_) => "int64",
            Type::Number => "float64",
            Type::Text | Type::Bytes => "string",
            Type::Time => "v1.Time",
            Type::IntOrString => "intstr.IntOrString",
            Type::Quantity => "resource.Quantity",
            Type::Struct(def) => return format!("v1.{}", def.short_name()),
            Type::Map(value, _) => return format!("map[string]{}", value.go_name()),
            Type::List(item, _) => return format!("[]{}", item.go_name()),
        };
        plain.into()
    }
}

type Registry = HashMap<&'static str, &'static Def>;

/// Every definition made so far, by name.
fn registry() -> &'static Mutex<Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(Mutex::default)
}

/// Compiles a schema; definitions are shared between kinds and live for ever.
pub fn compile(schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema) -> &'static Def {
    let mut generator = schemars::SchemaGenerator::default();
    let root = schema(&mut generator);
    let definitions = generator.definitions();
    let mut registry = registry().lock().unwrap_or_else(|e| e.into_inner());
    let name = reference(root.as_value()).unwrap_or_default();
    define(&mut registry, definitions, name)
}

fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

fn define(registry: &mut Registry, schemas: &Map<String, Value>, name: &str) -> &'static Def {
    if let Some(known) = registry.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.to_string().into_boxed_str());
    let def: &'static Def =
        Box::leak(Box::new(Def { name, atomic: rules::ATOMIC_STRUCTS.contains(&name), fields: OnceLock::new() }));
    registry.insert(name, def);
    let properties = schemas.get(name).and_then(|s| s.get("properties")).and_then(Value::as_object);
    let mut fields: Vec<Field> = properties
        .into_iter()
        .flatten()
        .map(|(field, schema)| {
            let rule = rules::find(name, field);
            Field {
                name: Box::leak(field.clone().into_boxed_str()),
                ty: type_of(registry, schemas, schema, rule),
                patch: rule.map_or(rules::Patch::Replace, |r| r.patch),
            }
        })
        .collect();
    fields.sort_by_key(|f| f.name);
    def.fields.get_or_init(|| fields.into_boxed_slice());
    def
}

fn type_of(registry: &mut Registry, schemas: &Map<String, Value>, schema: &Value, rule: Option<&rules::Rule>) -> Type {
    if let Some(name) = reference(schema) {
        return named(registry, schemas, name);
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or("");
    match schema.get("type").and_then(Value::as_str).unwrap_or("") {
        "string" => match format {
            "byte" => Type::Bytes,
            "date-time" => Type::Time,
            _ => Type::Text,
        },
        "boolean" => Type::Bool,
        "integer" => Type::Int(if format == "int64" { 64 } else { 32 }),
        "number" => Type::Number,
        "array" => {
            let item = schema.get("items").map_or(Type::Any, |s| type_of(registry, schemas, s, None));
            Type::List(Box::leak(Box::new(item)), rule.map_or(rules::ListType::Atomic, |r| r.list))
        }
        "object" => match schema.get("additionalProperties") {
            Some(value @ Value::Object(_)) => {
                let value = type_of(registry, schemas, value, None);
                Type::Map(Box::leak(Box::new(value)), rule.is_some_and(|r| r.atomic_map))
            }
            _ => Type::Any,
        },
        _ => Type::Any,
    }
}

/// A definition by name: the few that are not structs become scalars.
fn named(registry: &mut Registry, schemas: &Map<String, Value>, name: &str) -> Type {
    match name.rsplit('.').next().unwrap_or("") {
        "Quantity" => Type::Quantity,
        "IntOrString" => Type::IntOrString,
        "Time" | "MicroTime" => Type::Time,
        "FieldsV1"
        | "RawExtension"
        | "JSON"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrStringArray" => Type::Any,
        _ => Type::Struct(define(registry, schemas, name)),
    }
}
