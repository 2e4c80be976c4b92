//! How a request becomes a SPDY connection.
use super::{GOODBYE, PIECE, Stream};
use axum::{
    body::Body,
    extract::ws::{Message, WebSocket},
    http::{HeaderMap, HeaderName, Response, StatusCode, header, request::Parts},
};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::timeout,
};

const OFFERED: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// A request with `Upgrade: SPDY/3.1`.
pub struct Upgrade {
    connection: OnUpgrade,
    offered: Vec<String>,
}

impl Upgrade {
    /// Takes it out of a request, if it is one.
    pub fn of(parts: &mut Parts) -> Option<Upgrade> {
        let asked = values(&parts.headers, header::UPGRADE);
        asked.iter().any(|value| value.eq_ignore_ascii_case("SPDY/3.1")).then_some(())?;
        let connection = parts.extensions.remove::<OnUpgrade>()?;
        Some(Upgrade { connection, offered: values(&parts.headers, OFFERED) })
    }

    /// Agrees on a protocol, the client's first that is `known`, and has `serve` talk it.
    pub fn serve<F>(
        self,
        known: &[&'static str],
        serve: impl FnOnce(mpsc::Receiver<Stream>) -> F + Send + 'static,
    ) -> Response<Body>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(protocol) = self.offered.iter().find_map(|offered| known.iter().find(|known| *known == offered))
        else {
            let text = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {:?}, server accepts {known:?}",
                self.offered
            );
            let mut refused = Response::new(Body::from(text));
            *refused.status_mut() = StatusCode::FORBIDDEN;
            insert(&mut refused, ACCEPTED, known.first().copied().unwrap_or_default());
            return refused;
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        insert(&mut response, header::CONNECTION, "Upgrade");
        insert(&mut response, header::UPGRADE, "SPDY/3.1");
        insert(&mut response, OFFERED, protocol);
        tokio::spawn(async move {
            match self.connection.await {
                Ok(connection) => serve(super::start(TokioIo::new(connection))).await,
                Err(error) => tracing::debug!(%error, "a connection that was to speak SPDY ended"),
            }
        });
        response
    }
}

fn insert(response: &mut Response<Body>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, header::HeaderValue::from_static(value));
}

fn values(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let all = headers.get_all(name);
    let texts = all.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    texts.map(|text| text.trim().to_string()).collect()
}

/// The bytes that a WebSocket's binary messages are.
pub fn tunnel(socket: WebSocket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(2 * PIECE);
    tokio::spawn(async move {
        let (mut sink, mut messages) = socket.split();
        let (mut from, mut to) = tokio::io::split(theirs);
        let inward = async {
            while let Some(Ok(message)) = messages.next().await {
                match message {
                    Message::Binary(bytes) if to.write_all(&bytes).await.is_err() => break,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
            to.shutdown().await.ok(); // it may be the other end that has gone
        };
        let outward = async {
            let mut buffer = vec![0; PIECE];
            while let Ok(n @ 1..) = from.read(&mut buffer).await {
                if sink.send(Message::Binary(buffer[..n].to_vec().into())).await.is_err() {
                    return;
                }
            }
            sink.send(Message::Close(None)).await.ok(); // the client may have gone
        };
        tokio::pin!(inward, outward);
        // Both to their ends: the client reads what is left, and agrees that it is over.
        tokio::select! {
            () = &mut inward => outward.await,
            () = &mut outward => drop(timeout(GOODBYE, inward).await),
        }
    });
    ours
}
