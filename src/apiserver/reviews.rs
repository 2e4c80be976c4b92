//! Kinds that are questions: may I, may they, what may I, who is this, who am I.
use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::rbac::{Attributes, Rule};
use super::respond::Reply;
use super::tokens::ISSUER;
use super::write::Context;
use super::{ApiServer, Identity};
use crate::api::{ApiError, Kind, decode, meta};

impl ApiServer {
    /// Answers a review: the question with a status.
    pub(super) fn review(
        &self,
        cx: &Context,
        kind: &Kind,
        namespace: &str,
        body: &Bytes,
        format: decode::Format,
    ) -> Result<Reply, ApiError> {
        let mut review = decode::value(body, format)?;
        let spec = review["spec"].clone();
        let status = match kind.kind {
            "SelfSubjectAccessReview" => self.may(&cx.identity, &spec, "")?,
            "SubjectAccessReview" => self.may(&subject(&spec), &spec, "")?,
            "LocalSubjectAccessReview" => self.may(&subject(&spec), &spec, namespace)?,
            "SelfSubjectRulesReview" => {
                let namespace = meta::text(&spec, &["namespace"]);
                rules_status(&self.rbac.rules(&cx.identity, namespace)?)
            }
            "TokenReview" => self.token_status(&spec),
            "SelfSubjectReview" => json!({"userInfo": user_info(&cx.identity)}),
            _ => return Err(ApiError::unknown_path()),
        };
        let map = meta::map_mut(&mut review, &[]);
        map.insert("apiVersion".into(), kind.api_version().into());
        map.insert("kind".into(), kind.kind.into());
        map.insert("metadata".into(), json!({"creationTimestamp": null}));
        map.insert("status".into(), status);
        Ok(Reply::Other(StatusCode::CREATED, review))
    }

    fn may(&self, who: &Identity, spec: &Value, namespace: &str) -> Result<Value, ApiError> {
        let text = |path: &[&str]| meta::text(spec, path).to_owned();
        let asked = |field: &str| text(&["resourceAttributes", field]);
        let wish = if spec["nonResourceAttributes"].is_object() {
            Attributes {
                verb: text(&["nonResourceAttributes", "verb"]),
                path: text(&["nonResourceAttributes", "path"]),
                ..Attributes::default()
            }
        } else {
            Attributes {
                verb: asked("verb"),
                group: asked("group"),
                resource: asked("resource"),
                subresource: asked("subresource"),
                namespace: match namespace {
                    "" => asked("namespace"),
                    namespace => namespace.to_owned(),
                },
                name: asked("name"),
                path: String::new(),
            }
        };
        let allowed = self.rbac.allows(who, &wish)?;
        Ok(json!({"allowed": allowed}))
    }

    fn token_status(&self, spec: &Value) -> Value {
        let asked: Vec<&str> = meta::list(spec, &["audiences"]).iter().filter_map(Value::as_str).collect();
        let audiences = if asked.is_empty() { vec![ISSUER] } else { asked };
        match self.token_identity(meta::text(spec, &["token"]), &audiences) {
            Some(identity) => {
                let identity = identity.with_implied_groups();
                json!({"authenticated": true, "user": user_info(&identity), "audiences": audiences})
            }
            None => json!({"user": {}, "error": "invalid bearer token"}),
        }
    }
}

fn subject(spec: &Value) -> Identity {
    let groups = meta::list(spec, &["groups"]).iter();
    Identity {
        user: meta::text(spec, &["user"]).to_owned(),
        groups: groups.filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        ..Identity::default()
    }
}

fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.user, "groups": identity.groups});
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.clone().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

fn rules_status(rules: &[Rule]) -> Value {
    let with = |pairs: &[(&str, &Vec<String>)]| {
        let filled = pairs.iter().filter(|(_, list)| !list.is_empty());
        let pairs = filled.map(|(name, list)| ((*name).to_owned(), json!(list)));
        Value::from(pairs.collect::<Map<_, _>>())
    };
    let resource = rules.iter().filter(|r| !r.resources.is_empty()).map(|r| {
        with(&[("verbs", &r.verbs), ("apiGroups", &r.groups), ("resources", &r.resources), ("resourceNames", &r.names)])
    });
    let other = rules.iter().filter(|r| !r.paths.is_empty());
    let other = other.map(|r| with(&[("verbs", &r.verbs), ("nonResourceURLs", &r.paths)]));
    json!({
        "resourceRules": resource.collect::<Vec<_>>(),
        "nonResourceRules": other.collect::<Vec<_>>(),
        "incomplete": false,
    })
}
