//! Listeners: TLS with optional client certificates, and a unix socket that knows its peer.
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Identity;

/// Connections a listener serves at once; more wait in the kernel's backlog.
const CONNECTIONS: usize = 1024;
/// A peer that has not finished the handshake, or not sent a request's head, by then is dropped.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests may go on after shutdown began.
const DRAIN: Duration = Duration::from_secs(3);
/// HTTP/2 streams of one connection: informers of one client share a connection, one watch each.
const STREAMS: u32 = 1000;

/// Serves `router` over TLS until `shutdown`, then lets requests in progress finish for [`DRAIN`]. A peer with a client
/// certificate has the identity its subject names (CN = user, O = groups).
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    let connections = Connections::new(router, shutdown);
    while let Some((permit, (stream, _))) = connections.next(|| listener.accept()).await {
        let (acceptor, server) = (acceptor.clone(), connections.server.clone());
        connections.tasks.spawn(async move {
            let _permit = permit;
            match handshake(acceptor, stream).await {
                Ok((stream, identity)) => server.serve(stream, identity).await,
                Err(error) => tracing::debug!(%error, "TLS handshake failed"),
            }
        });
    }
    connections.drain().await;
    Ok(())
}

/// Serves `router` on a unix socket at `path` (mode 0600, replaced if it is there) until `shutdown`. Root is
/// `system:masters`; others are anonymous, and cannot open the socket anyway.
pub async fn serve_unix(path: &Path, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let connections = Connections::new(router, shutdown);
    while let Some((permit, (stream, _))) = connections.next(|| listener.accept()).await {
        let root = stream.peer_cred()?.uid() == 0;
        let identity = root.then(|| Identity::master("kubernetes-admin"));
        let server = connections.server.clone();
        connections.tasks.spawn(async move {
            let _permit = permit;
            server.serve(stream, identity).await;
        });
    }
    drop(listener);
    let removed = std::fs::remove_file(path);
    connections.drain().await;
    removed
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Option<Identity>)> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    let identity =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|leaf| identity_of(leaf));
    Ok((stream, identity))
}

/// User and groups in the subject of a verified certificate.
fn identity_of(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(Identity::new(user, &groups))
}

/// What all connections of a listener share.
struct Connections {
    server: Server,
    tasks: TaskTracker,
    slots: Arc<Semaphore>,
}

#[derive(Clone)]
struct Server {
    router: Router,
    shutdown: CancellationToken,
    /// How long a connection may stay without a request.
    patience: Duration,
}

impl Connections {
    fn new(router: Router, shutdown: CancellationToken) -> Self {
        Self {
            server: Server { router, shutdown, patience: HANDSHAKE },
            tasks: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    async fn until_shutdown<F: Future>(&self, future: F) -> Option<F::Output> {
        self.server.shutdown.run_until_cancelled(future).await
    }

    /// The next connection, with the right to serve it; `None` once shutting down.
    async fn next<S, F>(&self, accept: impl Fn() -> F) -> Option<(OwnedSemaphorePermit, S)>
    where
        F: Future<Output = io::Result<S>>,
    {
        let permit = self.until_shutdown(self.slots.clone().acquire_owned()).await?.ok()?;
        loop {
            match self.until_shutdown(accept()).await? {
                Ok(accepted) => return Some((permit, accepted)),
                // Out of descriptors, most likely: accepting again at once would spin.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn drain(self) {
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::info!(left = self.tasks.len(), "closing connections still in use");
        }
    }
}

impl Server {
    /// Serves one connection, upgrades included.
    async fn serve<S>(self, stream: S, identity: Option<Identity>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let first = CancellationToken::new();
        let asked = first.clone();
        let service = hyper::service::service_fn(move |mut request: http::Request<_>| {
            asked.cancel();
            if let Some(identity) = identity.clone() {
                request.extensions_mut().insert(identity);
            }
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.patience);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(Duration::from_secs(30));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // hyper has no limit on the time until it knows which HTTP is spoken, nor on the first request of HTTP/2.
        let silence = async {
            if tokio::time::timeout(self.patience, first.cancelled()).await.is_ok() {
                std::future::pending().await
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = silence => return tracing::debug!("no request on a connection: closed"),
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed() {
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "at last"
        };
        let router = Router::new().fallback(slow);
        let server = Server { router, shutdown: CancellationToken::new(), patience: Duration::from_millis(300) };
        for (what, sent, answered) in [
            ("nothing", "", false),
            ("the beginning of HTTP/2", "PRI", false),
            ("HTTP/2 and no request", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", false),
            ("half a head", "GET / HT", false),
            ("a request that takes longer", "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", true),
        ] {
            let (mut near, far) = tokio::io::duplex(4096);
            tokio::spawn(server.clone().serve(far, None));
            near.write_all(sent.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(20), near.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "{what}: still open");
            assert_eq!(String::from_utf8_lossy(&answer).contains("at last"), answered, "{what}");
        }
    }
}
