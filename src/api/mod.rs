//! Kubernetes' vocabulary, without IO.
//!
//! An object is a `serde_json::Value`: the API server is generic over kinds, so what differs between two kinds is *data*, one
//! row of [`kinds::Kind`] each: names, scope, verbs, how to default, prepare and validate, which columns `kubectl get` shows,
//! and a schema (Kubernetes' own, from k8s-openapi) boiled down to a small type tree ([`schema`]) that strict decoding
//! ([`decode`]), patches and server-side apply ([`patch`]) walk.
//!
//! The order in which a server uses this room for one write:
//! [`decode`] (bytes -> object, unknown fields) -> [`patch`] (if it is one) -> `Kind::default` -> `Kind::prepare` ->
//! `Kind::validate` + `Kind::warnings` -> [`patch::track`] (managedFields). For one read: [`selector`], [`table`].
//! Whatever goes wrong is an [`ApiError`], which is Kubernetes' `Status`, word for word.
//!
//! Everything here is a function of its arguments: time, ids and randomness are passed in.
pub mod decode;
pub mod discovery;
pub mod duration;
pub mod error;
pub mod kinds;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod printers;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod table;
pub mod taint;
pub mod yaml;

pub use error::{ApiError, Cause, Details, ErrorType, FieldError};
pub use kinds::{Column, Kind, Strategy, Sub, find, find_kind, kinds};

/// Any Kubernetes object: a JSON object with `apiVersion`, `kind`, `metadata`.
pub type Object = serde_json::Value;

/// `gitVersion` of the Kubernetes API this server speaks, as `/version` and the nodes report it.
pub const GIT_VERSION: &str = "v1.35.0+coracle";
