//! From a result to an HTTP response, in the shape the client asked for.
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::registry::{parse, to_bytes};
use super::route::{Operation, Shape};
use crate::api::{ApiError, table, yaml};

/// Bytes of a list that go out as one piece: a long list is copied and sent piece by piece.
const PIECE: usize = 64 * 1024;

/// What a request led to.
pub(super) enum Reply {
    /// An object, as bytes of its JSON.
    Object(StatusCode, Bytes),
    /// Something that is no object of the kind: a Status, a Scale, a review.
    Other(StatusCode, Value),
    /// Objects and the metadata of their list.
    List(Vec<Bytes>, Value),
    /// Already a response: a stream.
    Raw(Response),
}

impl Reply {
    /// 200 with an object.
    pub(super) fn ok(bytes: Bytes) -> Self {
        Self::Object(StatusCode::OK, bytes)
    }

    /// 201 with `Status: Success`, for requests that create nothing one could get.
    pub(super) fn done() -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Self::Other(StatusCode::CREATED, status)
    }

    /// The response, in the shape and serialization `operation` asks for.
    pub(super) fn respond(self, operation: &Operation, now: Timestamp) -> Result<Response, ApiError> {
        let kind = operation.kind;
        let (status, value) = match (self, operation.shape) {
            (Self::Raw(response), _) => return Ok(response),
            (Self::Other(status, value), _) => (status, value),
            (Self::Object(status, bytes), Shape::Whole) if !operation.yaml => {
                return Ok(json_response(status, bytes));
            }
            (Self::Object(status, bytes), shape) => {
                let object = parse(&bytes)?;
                let list_meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let value = match shape {
                    Shape::Whole => object,
                    Shape::Table(include) => table::table(kind, [&object], list_meta, include, now),
                    Shape::Partial => table::partial(&object),
                };
                (status, value)
            }
            (Self::List(items, list_meta), Shape::Whole) if !operation.yaml => {
                return Ok(list_response(kind, items, &list_meta));
            }
            (Self::List(items, list_meta), shape) => {
                let objects = items.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
                let value = match shape {
                    Shape::Whole => json!({
                        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                        "metadata": list_meta, "items": objects,
                    }),
                    Shape::Table(include) => table::table(kind, &objects, list_meta, include, now),
                    Shape::Partial => table::partial_list(&objects, list_meta),
                };
                (StatusCode::OK, value)
            }
        };
        if operation.yaml {
            let text = yaml::to_string(&value).map_err(ApiError::internal)?;
            return Ok(response(status, "application/yaml", text));
        }
        Ok(json_response(status, to_bytes(&value)))
    }
}

/// A response with a body of a media type.
pub(super) fn response(status: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A response with a JSON body.
pub(super) fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    response(status, "application/json", body)
}

/// A response with plain text.
pub(super) fn text_response(status: StatusCode, text: String) -> Response {
    response(status, "text/plain; charset=utf-8", text)
}

/// A list whose items are copied as they are.
fn list_response(kind: &crate::api::Kind, items: Vec<Bytes>, list_meta: &Value) -> Response {
    let head = json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": list_meta});
    let mut head = head.to_string();
    head.pop();
    head.push_str(",\"items\":[");
    let size: usize = items.iter().map(Bytes::len).sum();
    let mut pieces = Pieces { items: items.into_iter(), buffer: head.into_bytes(), first: true, ended: false };
    if size > PIECE {
        let stream = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
        return json_response(StatusCode::OK, Body::from_stream(stream));
    }
    // At most two pieces; one body has a length.
    let body: Vec<u8> = pieces.by_ref().flatten().collect();
    json_response(StatusCode::OK, body)
}

/// Cuts a list's text into pieces, copying items only as the client takes them.
struct Pieces {
    items: std::vec::IntoIter<Bytes>,
    buffer: Vec<u8>,
    first: bool,
    ended: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        while self.buffer.len() < PIECE {
            let Some(item) = self.items.next() else {
                self.ended = true;
                self.buffer.extend_from_slice(b"]}\n");
                break;
            };
            if !std::mem::take(&mut self.first) {
                self.buffer.push(b',');
            }
            self.buffer.extend_from_slice(&item);
        }
        Some(Bytes::from(std::mem::take(&mut self.buffer)))
    }
}

/// The response to a refused request.
pub(super) fn error_response(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, to_bytes(&error.to_status()));
    let retry = error.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        let value = HeaderValue::from(retry);
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// Adds `Warning` headers.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let mut quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        quoted.retain(|c| !c.is_control());
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
