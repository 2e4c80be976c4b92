//! get and list.
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::ApiServer;
use super::registry::{self, key, prefix, store_error};
use super::respond::Reply;
use super::route::{At, ListOptions, Operation};
use crate::api::{ApiError, Kind, Sub};
use crate::store::{Entry, StoreError};

/// What people see when a list's revision left the history between two pages.
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.";

impl ApiServer {
    /// The entry of an object, or 404.
    pub(super) fn entry(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Entry, ApiError> {
        self.store.get(&key(kind, namespace, name)).ok_or_else(|| ApiError::not_found(kind.group, kind.plural, name))
    }

    /// The object, or 404.
    pub(super) fn object(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, ApiError> {
        registry::decode(kind, &self.entry(kind, namespace, name)?)
    }

    pub(super) fn get(&self, op: &Operation) -> Result<Reply, ApiError> {
        let entry = self.entry(op.kind, &op.namespace, &op.name)?;
        if op.sub == Sub::Scale {
            let scale = crate::api::kinds::scale_of(&registry::decode(op.kind, &entry)?);
            return Ok(Reply::Other(http::StatusCode::OK, scale));
        }
        Ok(Reply::ok(registry::served(op.kind, &entry)?))
    }

    pub(super) fn list(&self, op: &Operation, options: &ListOptions) -> Result<Reply, ApiError> {
        let prefix = prefix(op.kind, &op.namespace);
        let resumed = match options.continue_token.as_str() {
            "" => None,
            token => Some(Continue::parse(token)?),
        };
        let at = self.revision_to_read(options, resumed.as_ref())?;
        let after = resumed.as_ref().map(|c| prefix.clone() + &c.after);
        let everything = options.selection.is_everything();
        let limit = if everything { options.limit } else { 0 };
        let range = self.store.range(&prefix, after.as_deref(), limit, at).map_err(|error| match error {
            StoreError::TooOld { .. } if resumed.is_some() => ApiError::expired(CONTINUE_EXPIRED),
            error => store_error(op.kind, "", error),
        })?;
        let mut remaining = range.remaining;
        let mut entries = range.entries;
        if !everything {
            entries.retain(|entry| options.selection.selects(op.kind, entry));
            if options.limit > 0 && entries.len() > options.limit {
                remaining = entries.len() - options.limit;
                entries.truncate(options.limit);
            }
        }
        let mut list_meta = Map::new();
        list_meta.insert("resourceVersion".into(), range.revision.to_string().into());
        if let Some(last) = entries.last().filter(|_| remaining > 0) {
            let after = last.key().strip_prefix(&prefix).unwrap_or_default();
            let token = Continue { revision: range.revision, after: after.to_owned() };
            list_meta.insert("continue".into(), token.to_text().into());
            // Kubernetes does not count what a selector would have to look at.
            if everything {
                list_meta.insert("remainingItemCount".into(), remaining.into());
            }
        }
        let items = entries.iter().map(|entry| registry::served(op.kind, entry)).collect::<Result<_, _>>()?;
        Ok(Reply::List(items, list_meta.into()))
    }

    fn revision_to_read(&self, options: &ListOptions, resumed: Option<&Continue>) -> Result<Option<u64>, ApiError> {
        if let Some(resumed) = resumed {
            return Ok(Some(resumed.revision));
        }
        let newest = self.store.revision();
        match options.at {
            At::NotOlderThan(asked) if asked > newest => Err(ApiError::too_large_version(asked, newest)),
            At::Newest | At::NotOlderThan(_) => Ok(None),
            At::Exactly(revision) => Ok(Some(revision)),
        }
    }
}

/// Where the next page of a list starts.
struct Continue {
    revision: u64,
    /// Key, below the collection's prefix, of the last object of the page before.
    after: String,
}

impl Continue {
    fn parse(token: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        Ok(Self {
            revision: value["rv"].as_u64().ok_or_else(bad)?,
            after: value["start"].as_str().ok_or_else(bad)?.to_owned(),
        })
    }

    fn to_text(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }
}
