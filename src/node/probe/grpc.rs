//! `grpc.health.v1.Health/Check` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>): one message each
//! way, whose only fields are the service's name and its status.
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, header};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// Bytes of an answer; one that serves has seven.
const MAX_BODY: usize = 1 << 10;

/// Asks how a service does; `Err` says why not well, as the kubelet does.
pub async fn check(stream: tokio::net::TcpStream, authority: &str, service: &str) -> Result<(), String> {
    let name = [&[0x0a][..], &varint(service.len()), service.as_bytes()].concat();
    let message = if service.is_empty() { Vec::new() } else { name };
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(header::USER_AGENT, "kube-probe/1.35")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(bytes::Bytes::from(framed)))
        .map_err(|e| e.to_string())?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(cause)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(cause)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        let trailers = body.trailers().unwrap_or(&head.headers);
        let code = trailers.get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0").to_string();
        Ok::<_, String>((code, body.to_bytes()))
    };
    let (code, answer) = tokio::select! {
        done = exchange => done?,
        ended = connection => return Err(ended.map_or_else(cause, |()| "connection closed".into())),
    };
    match (&*code, answer.get(5..).unwrap_or_default()) {
        ("0", [0x08, 1]) => Ok(()),
        ("0", status) => {
            let name = match status {
                [0x08, 2] => "NOT_SERVING",
                [0x08, 3] => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
        ("12", _) => Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
        (code, _) => Err(format!("rpc error: code = {code}")),
    }
}

/// A length as protobuf has it.
fn varint(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// What is behind "http2 error".
fn cause(error: hyper::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::HeaderMap, routing::post};
    use bytes::Bytes;
    use hyper_util::{server::conn::auto, service::TowerToHyperService};
    use tokio::net::{TcpListener, TcpStream};

    /// Serves "", does not serve "down", knows nothing else.
    async fn answer(asked: Bytes) -> (HeaderMap, Vec<u8>) {
        let framed = |status| (HeaderMap::new(), vec![0, 0, 0, 0, 2, 0x08, status]);
        match &asked[..] {
            [0, 0, 0, 0, 0] => framed(1),
            [0, 0, 0, 0, 6, 0x0a, 4, b'd', b'o', b'w', b'n'] => framed(2),
            _ => (
                HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), "12".parse().unwrap())]),
                vec![],
            ),
        }
    }

    #[tokio::test]
    async fn health_is_what_the_service_says() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let router = Router::new().route("/grpc.health.v1.Health/Check", post(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(router.clone());
                let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await.ok() });
            }
        });
        for (service, said) in [
            ("", Ok(())),
            ("down", Err("service unhealthy (responded with \"NOT_SERVING\")")),
            ("x", Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)")),
        ] {
            let stream = TcpStream::connect(to).await.unwrap();
            let health = check(stream, &to.to_string(), service).await;
            assert_eq!(health.as_ref().map_err(String::as_str).copied(), said, "{service}");
        }
        assert_eq!((varint(4), varint(300)), (vec![4], vec![0xac, 2]));
    }
}
