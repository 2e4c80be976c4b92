//! Two ways to a `kube::Client`: the in-process router, the unix socket.
use std::path::PathBuf;

use http::{HeaderValue, Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio::net::UnixStream;
use tower::{BoxError, ServiceExt};

use super::Identity;

/// A client of the API server in this process, as `identity`. No socket, no TLS: the request is handed to the router
/// as a value, with the identity as the extension that a listener would have put there. Must be called in a tokio
/// runtime. Upgrades (exec, port-forward) need a connection and do not work through it.
pub fn in_process(router: axum::Router, identity: Identity) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (router, identity) = (router.clone(), identity.clone());
        async move {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(identity);
            let response: Result<Response<axum::body::Body>, BoxError> =
                router.oneshot(request).await.map_err(BoxError::from);
            response
        }
    });
    kube::Client::new(service, "default")
}

/// A client over the daemon's unix socket, a connection a request; the API server takes the identity from the peer's
/// credentials. Upgrades work. Must be called in a tokio runtime. `warned` hears the server's warnings.
pub fn over_unix(path: impl Into<PathBuf>, warned: fn(&str)) -> kube::Client {
    let path = path.into();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let path = path.clone();
        async move {
            request.headers_mut().insert(http::header::HOST, HeaderValue::from_static("coracle"));
            let stream = UnixStream::connect(path).await?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // It ends with the response, or with the stream that the response became.
            tokio::spawn(connection.with_upgrades());
            let response = sender.send_request(request).await?;
            // `299 - "text"`
            let warnings = response.headers().get_all(http::header::WARNING).iter();
            let texts = warnings.filter_map(|value| value.to_str().ok()?.split_once('"')?.1.strip_suffix('"'));
            texts.for_each(|text| warned(&text.replace("\\\"", "\"").replace("\\\\", "\\")));
            Ok::<_, BoxError>(response)
        }
    });
    kube::Client::new(service, "default")
}
