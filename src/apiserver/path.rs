//! Paths and queries of URLs, taken apart.
use std::collections::BTreeMap;

use axum::http::Uri;

use crate::api::ApiError;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    /// A collection, an object or a part of one.
    Resource(ResourcePath),
    /// Everything else: discovery, health, metrics.
    Other(String),
}

/// `/apis/<group>/<version>[/namespaces/<namespace>]/<plural>[/<name>[/<subresource>]]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ResourcePath {
    pub(super) group: String,
    pub(super) version: String,
    /// Empty: cluster scope, or all namespaces.
    pub(super) namespace: String,
    pub(super) plural: String,
    /// Empty: the collection.
    pub(super) name: String,
    pub(super) subresource: String,
    /// What follows the subresource (of a proxy).
    pub(super) rest: String,
}

impl Path {
    /// Takes a URL's path apart, percent-decoding each segment.
    pub(super) fn parse(path: &str) -> Self {
        let segments: Vec<String> = path.split('/').skip(1).map(percent_decode).collect();
        let mut parts: Vec<&str> = segments.iter().map(String::as_str).collect();
        if parts.last() == Some(&"") {
            parts.pop();
        }
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Self::Other(path.to_owned()),
        };
        // `/namespaces/<name>` and its subresources are about the Namespace itself.
        let (namespace, rest) = match rest {
            ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, inside @ ..] if !inside.is_empty() => (*namespace, inside),
            _ => ("", rest),
        };
        let at = |i: usize| rest.get(i).copied().unwrap_or("").to_owned();
        Self::Resource(ResourcePath {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace: namespace.to_owned(),
            plural: at(0),
            name: at(1),
            subresource: at(2),
            rest: rest.get(3..).unwrap_or(&[]).join("/"),
        })
    }
}

/// The query of a URL, decoded; of a repeated parameter all values count, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    pub(super) fn parse(uri: &Uri) -> Self {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            map.entry(key.into_owned()).or_default().push(value.into_owned());
        }
        Self(map)
    }

    /// The first value; empty if there is none.
    pub(super) fn get(&self, key: &str) -> &str {
        self.0.get(key).and_then(|values| values.first()).map_or("", String::as_str)
    }

    pub(super) fn is(&self, key: &str) -> bool {
        self.0.contains_key(key) && matches!(self.get(key), "" | "true" | "1" | "True")
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        let text = Some(self.get(key)).filter(|text| !text.is_empty());
        let bad = |text| ApiError::bad_request(format!("invalid value {text:?} of parameter {key}"));
        text.map(|text| text.parse().map_err(|_| bad(text))).transpose()
    }
}

/// `%41` to `A`; what is not UTF-8 then is replaced.
pub(super) fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}
