//! The command line's way to the API: requests by path over the daemon's unix socket, values in and out.
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use http::Request;
use serde_json::{Value, json};

use crate::api::{duration, meta};
use crate::client;
use crate::daemon::Paths;

/// What a field manager of this command line is called in managedFields.
pub const MANAGER: &str = "coracle";

/// `application/json` Tables, with plain objects for servers that cannot print.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const JSON: &str = "application/json";

/// Types of a PATCH body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Server-side apply; the body is the whole configuration.
    Apply,
}

impl Patch {
    fn content_type(self) -> &'static str {
        match self {
            Patch::Merge => "application/merge-patch+json",
            Patch::Json => "application/json-patch+json",
            Patch::Apply => "application/apply-patch+yaml",
        }
    }
}

/// Requests to one cluster's API.
#[derive(Clone)]
pub struct Door {
    client: kube::Client,
}

impl Door {
    /// The door of a running cluster.
    ///
    /// Errors: no daemon listens there; the message says how to start one.
    pub async fn open(cluster: &str) -> Result<Door> {
        let path = Paths::new(cluster, None).socket();
        let answered = tokio::net::UnixStream::connect(&path).await;
        answered.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => anyhow!("{} is root's alone: run this as root (sudo)", path.display()),
            _ => {
                let name = if cluster == "default" { String::new() } else { format!(" --name {cluster}") };
                let how = format!("no cluster answers at {}; start one with `coracle up{name}`", path.display());
                anyhow::Error::new(error).context(how)
            }
        })?;
        Ok(Door { client: client::over_unix(path, warn) })
    }

    /// For what needs kube's own client (exec).
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// One object, list or document.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, JSON, JSON, Vec::new()).await
    }

    /// The same as a Table.
    pub async fn table(&self, path: &str) -> Result<Value> {
        let answer = self.send("GET", path, TABLE, JSON, Vec::new()).await?;
        if meta::text(&answer, &["kind"]) == "Table" {
            return Ok(answer);
        }
        // What has no columns of its own, as a Scale.
        let age = duration::since(meta::text(&answer, &["metadata", "creationTimestamp"]), jiff::Timestamp::now());
        let columns = json!([{"name": "Name", "format": "name"}, {"name": "Age"}]);
        Ok(json!({"columnDefinitions": columns, "rows": [{"cells": [meta::name(&answer), age], "object": answer}]}))
    }

    /// `/api` or `/apis` with every group's resources in one document.
    pub async fn discovery(&self, path: &str) -> Result<Value> {
        self.send("GET", path, DISCOVERY, JSON, Vec::new()).await
    }

    /// `None` when it does not exist.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if status(&error).is_some_and(|status| status.code == 404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send("POST", path, JSON, JSON, serde_json::to_vec(body)?).await
    }

    /// Changes; `path` may carry a query.
    pub async fn patch(&self, path: &str, kind: Patch, body: &Value) -> Result<Value> {
        let manager = if path.contains("fieldManager=") { "" } else { MANAGER };
        let path = with_query(path, &[("fieldManager", manager)]);
        self.send("PATCH", &path, JSON, kind.content_type(), serde_json::to_vec(body)?).await
    }

    /// Deletes with DeleteOptions.
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.send("DELETE", path, JSON, JSON, serde_json::to_vec(options)?).await
    }

    /// A response read line by line: a watch, or a log that is followed.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<impl futures::AsyncBufRead + Unpin + use<>> {
        let request = Request::get(path).header("accept", accept).body(Vec::new())?;
        Ok(Box::pin(self.client.request_stream(request).await?))
    }

    /// Plain text, as the daemon's own pages and logs are.
    pub async fn text(&self, path: &str) -> Result<String> {
        Ok(self.client.request_text(Request::get(path).body(Vec::new())?).await?)
    }

    /// One request in one line of arguments: the others are this with names.
    async fn send(&self, method: &str, path: &str, accept: &str, kind: &str, body: Vec<u8>) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", accept)
            .header("content-type", kind)
            .body(body)?;
        let text = self.client.request_text(request).await?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("what {method} {path} answered is not JSON"))
    }
}

/// Says what the API warns of, once.
fn warn(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().is_ok_and(|mut said| said.insert(text.to_owned())) {
        eprintln!("Warning: {text}");
    }
}

/// The API's Status behind an error, if it is one.
pub fn status(error: &anyhow::Error) -> Option<&kube::core::Status> {
    match error.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// `path?key=value&…` with values encoded; empty values are left out.
pub fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (key, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        let value: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
        out += &format!("{}{key}={value}", if out.contains('?') { '&' } else { '?' });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded_and_empty_values_left_out() {
        assert_eq!(with_query("/p", &[("a", ""), ("l", "x in (y,z)"), ("b", "1")]), "/p?l=x+in+%28y%2Cz%29&b=1");
    }
}
