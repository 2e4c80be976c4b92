//! The one file that names the YAML crate.
use serde::de::Error as _;
use serde_json::Value;

/// Error of the YAML parser and emitter, for generic code.
pub type Error = serde_yaml::Error;

/// The documents of a YAML (or JSON) text; empty documents are skipped. Errors are sentences with a position.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    use serde::Deserialize;
    let mut out = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|e| e.to_string())?;
        if !value.is_null() {
            out.push(value);
        }
    }
    Ok(out)
}

/// Runs a decoder over the single document of a body.
pub fn with_deserializer<'a>(
    body: &'a [u8],
    decode: impl FnOnce(serde_yaml::Deserializer<'a>) -> Result<Value, Error>,
) -> Result<Value, String> {
    let mut documents = serde_yaml::Deserializer::from_slice(body);
    let first = documents.next().ok_or_else(|| Error::custom("empty document"));
    first.and_then(decode).map_err(|e| e.to_string())
}

/// A value as YAML.
pub fn to_string<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|e| e.to_string())
}
