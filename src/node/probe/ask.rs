//! Asking: one HTTP, TCP, gRPC or exec probe (and the HTTP requests of lifecycle hooks), from inside the node.
use super::timeout;
use crate::{net::NodeHandle, runtime, sys};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::client::ConfigExt;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes of an answer that are read; the rest does not matter to a probe.
const MAX_BODY: usize = 10 << 10;
/// Bytes of a command's output that a failure may quote.
const MAX_OUTPUT: usize = 10 << 10;

/// Asks probes of one node.
#[derive(Clone)]
pub struct Asker {
    pub net: NodeHandle,
    pub runtime: runtime::Runtime,
}

/// Which container is asked.
#[derive(Clone)]
pub struct Target {
    pub pod_uid: String,
    pub ip: IpAddr,
    pub container: Container,
}

impl Asker {
    /// One probe. `Err` says why it failed, as the kubelet's Unhealthy event does.
    pub async fn ask(&self, target: &Target, probe: &Probe) -> Result<(), String> {
        let limit = timeout(probe);
        let asked = async {
            if let Some(http) = &probe.http_get {
                match self.http(target, http, "kube-probe/1.35").await? {
                    200..=399 => Ok(()),
                    code => Err(format!("HTTP probe failed with statuscode: {code}")),
                }
            } else if let Some(tcp) = &probe.tcp_socket {
                self.tcp(target, tcp).await
            } else if let Some(exec) = &probe.exec {
                self.exec(target, exec, limit).await
            } else if let Some(grpc) = &probe.grpc {
                self.grpc(target, grpc).await
            } else {
                Err("missing probe handler".to_string())
            }
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(result) => result,
            Err(_) if probe.exec.is_some() => Err(format!("command timed out: after {}s", limit.as_secs())),
            Err(_) => Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()),
        }
    }

    /// Runs a command in the container.
    pub async fn exec(&self, target: &Target, exec: &ExecAction, limit: Duration) -> Result<(), String> {
        let spec = runtime::ExecSpec {
            container: target.container.name.clone(),
            args: exec.command.clone().unwrap_or_default(),
            ..Default::default()
        };
        let done = self.runtime.exec_sync(&target.pod_uid, &spec, limit, MAX_OUTPUT).await;
        match done {
            Ok(output) if output.status.code == 0 => Ok(()),
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).trim().to_string();
                match text.is_empty() {
                    true => Err(format!("command terminated with exit code {}", output.status.code)),
                    false => Err(text),
                }
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn tcp(&self, target: &Target, tcp: &TCPSocketAction) -> Result<(), String> {
        let to = address(target, tcp.host.as_deref(), &tcp.port)?;
        self.connect(to).await.map(drop)
    }

    async fn grpc(&self, target: &Target, grpc: &GRPCAction) -> Result<(), String> {
        let to = address(target, None, &IntOrString::Int(grpc.port))?;
        super::grpc::check(self.connect(to).await?, &to.to_string(), grpc.service.as_deref().unwrap_or_default()).await
    }

    async fn connect(&self, to: SocketAddr) -> Result<tokio::net::TcpStream, String> {
        self.net.connect(to).await.map_err(|e| format!("dial tcp {to}: connect: {}", sys::plain(&e)))
    }

    /// The status that a GET is answered with.
    pub async fn http(&self, target: &Target, http: &HTTPGetAction, agent: &str) -> Result<u16, String> {
        let to = address(target, http.host.as_deref(), &http.port)?;
        let path = http.path.as_deref().unwrap_or_default();
        let path = format!("/{}", path.strip_prefix('/').unwrap_or(path));
        let mut request = Request::get(&path).header(header::USER_AGENT, agent).header(header::ACCEPT, "*/*");
        let mut host = to.to_string();
        for extra in http.http_headers.iter().flatten() {
            match extra.name.eq_ignore_ascii_case("host") {
                true => host = extra.value.clone(),
                false => request = request.header(&extra.name, &extra.value),
            }
        }
        let request = request.header(header::HOST, host).header(header::CONNECTION, "close");
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|e| e.to_string())?;
        let scheme = http.scheme.as_deref().unwrap_or("HTTP");
        let url = format!("{}://{to}{path}", scheme.to_lowercase());
        let wrap = |e: String| format!("Get \"{url}\": {e}");
        let stream = self.connect(to).await.map_err(wrap)?;
        let status = match scheme.eq_ignore_ascii_case("https") {
            true => send(tls(stream).await.map_err(wrap)?, request).await,
            false => send(stream, request).await,
        };
        status.map_err(wrap)
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<u16, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        // Reading the answer is courtesy to the server; what it says does not matter.
        Limited::new(response.into_body(), MAX_BODY).collect().await.ok();
        Ok(status)
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        status = &mut exchange => status,
        ended = connection => match ended {
            Err(error) => Err(error.to_string()),
            // Answer and end may arrive together; what the connection has read is still delivered.
            Ok(()) => exchange.await,
        },
    }
}

/// TLS without asking who the other side is: a probe wants to know whether it answers.
async fn tls(stream: tokio::net::TcpStream) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String> {
    let mut config = kube::Config::new(hyper::Uri::default());
    (config.accept_invalid_certs, config.root_cert) = (true, Some(Vec::new()));
    let config = config.rustls_client_config().map_err(|e| e.to_string())?;
    let ip = stream.peer_addr().map_err(|e| e.to_string())?.ip();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ip.into(), stream).await.map_err(|e| e.to_string())
}

/// Where a probe goes: the pod, unless a host is named; a port by number or by the container's name for it.
fn address(target: &Target, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, String> {
    let ip = match host.filter(|host| !host.is_empty()) {
        Some("localhost") => IpAddr::from([127, 0, 0, 1]),
        Some(host) => host.parse().map_err(|_| format!("probe host {host:?} is not an address"))?,
        None => target.ip,
    };
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            let mut ports = target.container.ports.iter().flatten();
            let found = ports.find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            found.or_else(|| name.parse().ok()).ok_or_else(|| format!("couldn't find port: {name}"))?
        }
    };
    let number = u16::try_from(number).map_err(|_| format!("invalid port number: {number}"))?;
    Ok(SocketAddr::new(ip, number))
}
