//! Paths that are no resources: discovery, OpenAPI, version, health, metrics, token keys.
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::path::Query;
use super::registry::to_bytes;
use super::respond::{json_response, response, text_response};
use super::tokens::ISSUER;
use super::{ApiServer, metrics};
use crate::api::{ApiError, discovery, openapi};

/// Media type of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The checks behind `/livez` and `/readyz`.
const CHECKS: &[&str] = &["ping", "log", "etcd"];

impl ApiServer {
    /// Answers a path that is no resource.
    pub(super) fn site(
        &self,
        method: &Method,
        path: &str,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ApiError::unknown_path());
        }
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let document = match segments.as_slice() {
            ["api"] if wants_aggregated(headers) => return Ok(aggregated(true)),
            ["apis"] if wants_aggregated(headers) => return Ok(aggregated(false)),
            [] => root(),
            ["api"] => discovery::core_versions(&self.config.address),
            ["apis"] => discovery::groups(),
            ["api", version] => found(discovery::resources("", version))?,
            ["apis", group] => found(discovery::group(group))?,
            ["apis", group, version] => found(discovery::resources(group, version))?,
            ["version"] => discovery::version(),
            ["openapi", "v2"] => return openapi_v2(headers),
            ["openapi", "v3"] => openapi::v3_index(),
            ["openapi", "v3", "api", version] => return openapi_v3("", version),
            ["openapi", "v3", "apis", group, version] => return openapi_v3(group, version),
            ["healthz" | "livez" | "readyz", check @ ..] => {
                return health(segments[0], check, query.is("verbose"));
            }
            ["metrics"] => {
                let text = metrics::Metrics::render(&self.metrics, self.store.revision());
                return Ok(text_response(StatusCode::OK, text));
            }
            [".well-known", "openid-configuration"] => json!({
                "issuer": ISSUER, "jwks_uri": format!("https://{}/openid/v1/jwks", self.config.address),
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }),
            ["openid", "v1", "jwks"] => self.tokens.jwks().clone(),
            _ => return Err(ApiError::unknown_path()),
        };
        Ok(json_response(StatusCode::OK, to_bytes(&document)))
    }
}

fn found<T>(document: Option<T>) -> Result<T, ApiError> {
    document.ok_or_else(ApiError::unknown_path)
}

fn root() -> Value {
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    let groups = discovery::group_versions().into_iter().filter(|(group, _)| !group.is_empty());
    for (group, version) in groups {
        paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
    }
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

/// Whether the first media type the client asks for that we can make is aggregated discovery.
fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    for choice in accept.split(',') {
        let mut parts = choice.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            continue;
        }
        let parts: Vec<&str> = parts.collect();
        if !parts.iter().any(|p| p.starts_with("as=")) {
            return false;
        }
        if parts.contains(&"v=v2") && parts.contains(&"as=APIGroupDiscoveryList") {
            return true;
        }
    }
    false
}

fn aggregated(core: bool) -> Response {
    response(StatusCode::OK, AGGREGATED, to_bytes(&discovery::aggregated(core)))
}

/// What kubectl asks for when version 3 does not know a kind.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";

fn openapi_v2(headers: &HeaderMap) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let accepts_json = accept.is_empty() || accept.contains("json") || accept.contains("*/*");
    if accept.contains(OPENAPI_V2_PROTOBUF) {
        let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return Ok(response(StatusCode::OK, media_type, openapi::v2_protobuf()));
    }
    if !accepts_json {
        let sentence = "only the following media types are accepted: application/json";
        return Err(ApiError::not_acceptable(sentence));
    }
    Ok(json_response(StatusCode::OK, openapi::v2()))
}

fn openapi_v3(group: &str, version: &str) -> Result<Response, ApiError> {
    let document = found(openapi::v3(group, version))?;
    Ok(json_response(StatusCode::OK, document))
}

/// Whoever can ask finds a server that works: it does not listen before the store is open.
fn health(endpoint: &str, check: &[&str], verbose: bool) -> Result<Response, ApiError> {
    match check {
        [] => {}
        [one] if CHECKS.contains(one) => {}
        _ => return Err(ApiError::unknown_path()),
    }
    let text = match (check, verbose) {
        ([], true) => {
            let lines = CHECKS.iter().map(|check| format!("[+]{check} ok\n"));
            lines.collect::<String>() + &format!("{endpoint} check passed\n")
        }
        _ => "ok".to_owned(),
    };
    Ok(text_response(StatusCode::OK, text))
}
