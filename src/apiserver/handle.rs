//! One request from arrival to answer: authenticate, authorise, limit, do, respond.
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::delete::DeleteOptions;
use super::identity::SERVICE_ACCOUNT;
use super::metrics::Label;
use super::path::{Path, Query, ResourcePath, percent_decode};
use super::rbac::Attributes;
use super::respond::{Reply, error_response, warn};
use super::route::{self, Operation, Verb};
use super::tokens::ISSUER;
use super::write::{self, Context, Warnings};
use super::{ApiServer, Identity, protobuf, registry};
use crate::api::{ApiError, Sub};

/// The largest body of a request: what etcd would take twice over.
const BODY_LIMIT: usize = 3 << 20;
/// Reads at once; each may copy a whole list.
const READS: usize = 400;
/// Writes at once; each waits for the disk.
const WRITES: usize = 200;
/// How long a request may wait for its turn before it is told to come back.
const TURN: Duration = Duration::from_secs(10);
/// How long a request may take once it has its turn; streams are exempt.
const DEADLINE: Duration = Duration::from_secs(60);

/// The group of what only impersonators name: uids and the keys of extras.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The right to be worked on, by kind of request.
pub(super) struct Turns {
    reads: Semaphore,
    writes: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { reads: Semaphore::new(READS), writes: Semaphore::new(WRITES) }
    }
}

impl Turns {
    async fn take(&self, writes: bool) -> Result<SemaphorePermit<'_>, ApiError> {
        let queue = if writes { &self.writes } else { &self.reads };
        match tokio::time::timeout(TURN, queue.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::too_many_requests("Too many requests, please try again later.", 1)),
        }
    }
}

impl ApiServer {
    /// Answers a request.
    pub(super) async fn handle(self: Arc<Self>, request: Request<Body>) -> Response {
        let started = Instant::now();
        let mut label = Label { verb: request.method().as_str().to_lowercase(), ..Label::default() };
        let response = match self.answer(request, &mut label).await {
            Ok(response) => response,
            Err(error) => {
                if error.code >= 500 {
                    tracing::warn!(resource = %label.resource, verb = %label.verb, %error, "request failed");
                }
                error_response(&error)
            }
        };
        label.code = response.status().as_u16();
        self.metrics.record(label, started.elapsed());
        response
    }

    async fn answer(&self, request: Request<Body>, label: &mut Label) -> Result<Response, ApiError> {
        let identity = self.authenticate(&request)?;
        let identity = self.impersonate(identity, request.headers())?;
        let query = Query::parse(request.uri());
        let path = match Path::parse(request.uri().path()) {
            Path::Resource(path) => path,
            Path::Other(path) => {
                let wish = Attributes {
                    verb: request.method().as_str().to_lowercase(),
                    path: path.clone(),
                    ..Attributes::default()
                };
                self.rbac.authorize(&identity, &wish)?;
                return self.site(request.method(), &path, &query, request.headers());
            }
        };
        let wish = attributes(&request, &path, &query);
        label.verb.clone_from(&wish.verb);
        if crate::api::find(&path.group, &path.version, &path.plural).is_some() {
            label.group.clone_from(&wish.group);
            label.resource.clone_from(&wish.resource);
        }
        self.rbac.authorize(&identity, &wish)?;
        let op = route::operation(request.method(), &path, &query, request.headers())?;
        label.subresource = op.sub.name().to_owned();
        let cx = Context { identity, now: Timestamp::now() };
        let warnings = Warnings::new(op.kind.deprecated.map(str::to_owned).into_iter().collect());
        let reply = match &op.verb {
            Verb::Connect => Reply::Raw(self.connect(&op, request).await?),
            Verb::Watch(options) => self.watch(&op, options, cx.now)?,
            _ => {
                let writes = !matches!(op.verb, Verb::Get | Verb::List(_));
                let _turn = self.turns.take(writes).await?;
                let work = self.work(&cx, &op, request, &warnings);
                tokio::time::timeout(DEADLINE, work)
                    .await
                    .map_err(|_| ApiError::timeout("request did not complete within the allotted timeout"))??
            }
        };
        let mut response = reply.respond(&op, cx.now)?;
        warn(&mut response, &warnings.into_inner());
        Ok(response)
    }

    /// Everything that is not a stream.
    async fn work(
        &self,
        cx: &Context,
        op: &Operation,
        request: Request<Body>,
        warnings: &Warnings,
    ) -> Result<Reply, ApiError> {
        let body = &body_of(request).await?;
        let write = |options| write::Request {
            cx,
            kind: op.kind,
            namespace: &op.namespace,
            name: &op.name,
            sub: op.sub,
            options,
            body,
            warnings,
        };
        match &op.verb {
            Verb::Get => self.get(op),
            Verb::List(options) => self.list(op, options),
            Verb::Create(options) => match op.sub {
                Sub::Binding => self.bind(&write(options)).await,
                Sub::Eviction => self.evict(&write(options)).await,
                Sub::Token => self.token(&write(options)),
                _ if op.kind.kind == "Binding" => {
                    let kind = crate::api::find("", "v1", "pods").ok_or_else(ApiError::unknown_path)?;
                    self.bind(&write::Request { kind, sub: Sub::Binding, name: "", ..write(options) }).await
                }
                _ if route::reviews(op.kind) => self.review(cx, op.kind, &op.namespace, body, options.format),
                _ => self.create(&write(options)).await,
            },
            Verb::Update(options) if op.sub == Sub::Scale => self.scale(&write(options), None).await,
            Verb::Update(options) => self.update(&write(options)).await,
            Verb::Patch(patch, options) if op.sub == Sub::Scale => self.scale(&write(options), Some(*patch)).await,
            Verb::Patch(patch, options) => self.patch(&write(options), *patch).await,
            Verb::Delete(options, query) => {
                let options = DeleteOptions::parse(body, query, options)?;
                self.delete(cx, op, &options).await
            }
            Verb::DeleteCollection(selection, options, query) => {
                let options = DeleteOptions::parse(body, query, options)?;
                self.delete_collection(cx, op, selection, &options).await
            }
            Verb::Watch(_) | Verb::Connect => Err(ApiError::internal("a stream is no work")),
        }
    }

    /// The listener's word, or a bearer token, or nobody.
    fn authenticate(&self, request: &Request<Body>) -> Result<Identity, ApiError> {
        if let Some(identity) = request.extensions().get::<Identity>() {
            return Ok(identity.clone().with_implied_groups());
        }
        let Some(given) = request.headers().get(header::AUTHORIZATION) else {
            return Ok(Identity::anonymous());
        };
        let token = given.to_str().ok().and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        token
            .and_then(|token| self.token_identity(token, &[ISSUER]))
            .map(Identity::with_implied_groups)
            .ok_or_else(ApiError::unauthorized)
    }

    /// Who the request wants to be, if it says so and may. What it says and we do not understand is refused: done without
    /// it, the request would be done with more rights than it asked for.
    fn impersonate(&self, who: Identity, headers: &HeaderMap) -> Result<Identity, ApiError> {
        let mut asked = Vec::new();
        for (name, value) in headers {
            if let Some(what) = name.as_str().strip_prefix("impersonate-") {
                let text = std::str::from_utf8(value.as_bytes());
                let text = text.map_err(|_| ApiError::bad_request(format!("the header {name:?} is not UTF-8")))?;
                asked.extend((!text.is_empty()).then_some((what, text)));
            }
        }
        let Some((_, user)) = asked.iter().find(|(what, _)| *what == "user") else {
            return match asked.is_empty() {
                true => Ok(who),
                false => Err(ApiError::bad_request(format!("requested {asked:?} without impersonating a user"))),
            };
        };
        let wish = |group: &str, resource: &str, name: &str| Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            resource: resource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        let may = |wish: Attributes| self.rbac.authorize(&who, &wish);
        let account = user.strip_prefix(SERVICE_ACCOUNT).and_then(|n| n.split_once(':'));
        let mut wanted = match account {
            Some((namespace, name)) => {
                may(Attributes { namespace: namespace.into(), ..wish("", "serviceaccounts", name) })?;
                Identity::service_account(namespace, name)
            }
            None => {
                may(wish("", "users", user))?;
                Identity::new(*user, &[])
            }
        };
        for (what, text) in &asked {
            match (*what, what.strip_prefix("extra-")) {
                ("user", _) => {}
                ("group", _) => {
                    may(wish("", "groups", text))?;
                    wanted.groups.push((*text).to_owned());
                }
                ("uid", _) => {
                    may(wish(AUTHENTICATION, "uids", text))?;
                    wanted.uid = (*text).to_owned();
                }
                (_, Some(key)) => {
                    let key = percent_decode(key);
                    may(Attributes { subresource: key.clone(), ..wish(AUTHENTICATION, "userextras", text) })?;
                    wanted.extra.entry(key).or_default().push((*text).to_owned());
                }
                _ => return Err(ApiError::bad_request(format!("unknown header \"impersonate-{what}\""))),
            }
        }
        Ok(wanted.with_implied_groups())
    }
}

fn attributes(request: &Request<Body>, path: &ResourcePath, query: &Query) -> Attributes {
    // RBAC takes a Namespace to be in itself, so that its owner may read it.
    let namespace = match (path.group.as_str(), path.plural.as_str()) {
        ("", "namespaces") => &path.name,
        _ => &path.namespace,
    };
    let verb = route::rbac_verb(request.method(), path, query);
    Attributes {
        verb: verb.to_owned(),
        group: path.group.clone(),
        resource: path.plural.clone(),
        subresource: path.subresource.clone(),
        namespace: namespace.clone(),
        name: route::rbac_name(verb, path, query),
        path: String::new(),
    }
}

/// The whole body; JSON if it was protobuf.
async fn body_of(request: Request<Body>) -> Result<Bytes, ApiError> {
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    let is_protobuf = route::content_type(request.headers()) == protobuf::MEDIA_TYPE;
    let body = Limited::new(request.into_body(), BODY_LIMIT);
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(ApiError::too_large(BODY_LIMIT));
        }
        Err(error) => {
            let sentence = format!("cannot read the body: {error}");
            return Err(ApiError::bad_request(sentence));
        }
    };
    if !is_protobuf || bytes.is_empty() {
        return Ok(bytes);
    }
    let object = protobuf::to_json(&bytes).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(registry::to_bytes(&object))
}
