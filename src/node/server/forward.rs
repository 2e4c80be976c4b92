//! `kubectl port-forward`: connections to a pod's ports, dialled inside the pod's network namespace.
//!
//! ```text
//! portforward.k8s.io over SPDY: two streams a connection, with the headers
//!   streamtype  error | data
//!   port        80
//!   requestid   the same for both
//! ```
//! The error stream says why there is no connection, if there is none, and ends with the connection. SPDY comes by
//! itself or in a WebSocket; a WebSocket without SPDY is `channels`.
use super::{
    Refused, channels,
    exec::pairs,
    remote::{PROTOCOLS, Upgrade},
    spdy::{self, Output, PIECE, Stream},
};
use crate::{node::Node, sys};
use axum::{
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{self, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, tcp::OwnedWriteHalf},
    sync::mpsc,
    time::timeout,
};

/// SPDY's name for what is spoken over it …
const PROTOCOL: &str = "portforward.k8s.io";
/// … and a WebSocket's for both.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// How long the second stream of a connection may take to come after the first: the kubelet's `streamCreationTimeout`.
const PAIRING: Duration = Duration::from_secs(30);
/// How long a dial inside one host may take.
const DIAL: Duration = Duration::from_secs(10);

pub async fn forward(
    State(node): State<Arc<Node>>,
    Path((namespace, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let Some((uid, _)) = node.find_pod(&namespace, &name) else {
        return Refused::not_found(format!("pods \"{name}\" not found")).into_response();
    };
    let Some(netns) = node.runtime.state(&uid).await.ok().and_then(|state| state.netns()) else {
        return Refused::internal(format!("pod {name} has no network namespace")).into_response();
    };
    let pod = match Pod::of(uid, netns) {
        Ok(pod) => pod,
        Err(error) => return Refused::internal(error).into_response(),
    };
    let socket = match upgrade {
        Upgrade::Spdy(upgrade) => return upgrade.serve(&[PROTOCOL], move |opened| serve(opened, pod)),
        Upgrade::Socket(socket) => socket.protocols([TUNNELLED, PROTOCOLS[0], PROTOCOLS[1]]),
    };
    if socket.selected_protocol().is_some_and(|protocol| protocol == TUNNELLED) {
        return socket.on_upgrade(move |socket| serve(spdy::start(spdy::tunnel(socket)), pod));
    }
    match channels::ports(&pairs(&query.unwrap_or_default())) {
        Some(ports) => socket.on_upgrade(move |socket| channels::serve(socket, pod, ports)),
        None => Refused::bad_request("query parameter \"ports\" is required").into_response(),
    }
}

/// Where connections go.
#[derive(Clone)]
pub struct Pod {
    uid: String,
    netns: PathBuf,
    /// Which namespace that was at the start: the path is a process', and another may have its number later.
    identity: PathBuf,
}

impl Pod {
    fn of(uid: String, netns: PathBuf) -> io::Result<Pod> {
        let identity = fs::read_link(&netns)?;
        Ok(Pod { uid, netns, identity })
    }

    /// Connects to a port of the pod's `localhost`. The error is worded as containerd words it.
    pub async fn dial(&self, port: u16) -> Result<TcpStream, String> {
        if fs::read_link(&self.netns).ok().as_ref() != Some(&self.identity) {
            return Err(format!("error forwarding port {port} to pod {}, uid : the sandbox is gone", self.uid));
        }
        let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        let first = match connect(&self.netns, SocketAddr::new(v4, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => reason(&error),
        };
        let second = match connect(&self.netns, SocketAddr::new(v6, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => reason(&error),
        };
        let (uid, netns) = (&self.uid, self.netns.display());
        Err(format!(
            "error forwarding port {port} to pod {uid}, uid : failed to execute portforward in network namespace \
             \"{netns}\": failed to connect to localhost:{port} inside namespace \"{uid}\", IPv4: dial tcp4 {v4}:{port}: \
             connect: {first} IPv6 dial tcp6: [{v6}]:{port}: connect: {second} "
        ))
    }
}

async fn connect(netns: &path::Path, to: SocketAddr) -> io::Result<TcpStream> {
    let path = netns.to_path_buf();
    let make = move || match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = tokio::task::spawn_blocking(move || sys::in_netns(&path, make)).await???;
    timeout(DIAL, socket.connect(to)).await?
}

/// An error as Go words it.
fn reason(error: &io::Error) -> String {
    let text = error.raw_os_error().map_or(error.to_string(), |code| nix::Error::from_raw(code).desc().to_string());
    text.to_lowercase()
}

/// Pairs streams and has each pair carried, until the client goes.
async fn serve(mut opened: mpsc::Receiver<Stream>, pod: Pod) {
    let mut halves: HashMap<String, (Instant, Stream)> = HashMap::new();
    while let Some(stream) = opened.recv().await {
        // One that stayed alone for too long makes room; more than a connection's streams there cannot be.
        let late: Vec<_> = halves.extract_if(|_, (since, _)| since.elapsed() > PAIRING).collect();
        for (_, (_, half)) in late {
            half.refuse().await;
        }
        let Some((request, port)) = wanted(&stream) else {
            stream.refuse().await;
            continue;
        };
        stream.accept().await;
        let Some((_, other)) = halves.remove(&request) else {
            halves.insert(request, (Instant::now(), stream));
            continue;
        };
        match is_data(&stream) == is_data(&other) {
            true => {
                stream.refuse().await;
                other.refuse().await;
            }
            false if is_data(&stream) => drop(tokio::spawn(carry(pod.clone(), port, stream, other.output))),
            false => drop(tokio::spawn(carry(pod.clone(), port, other, stream.output))),
        }
    }
}

fn is_data(stream: &Stream) -> bool {
    stream.header("streamtype") == "data"
}

/// The connection a stream belongs to, and its port; `None` if it makes no sense.
fn wanted(stream: &Stream) -> Option<(String, u16)> {
    let kinds = ["data", "error"];
    kinds.contains(&stream.header("streamtype")).then_some(())?;
    let port = stream.header("port").parse().ok().filter(|port| *port > 0)?;
    let request = match stream.header("requestid") {
        // Clients before 1.4 open the data stream right after the error stream.
        "" if is_data(stream) => format!("stream {}", stream.id.checked_sub(2)?),
        "" => format!("stream {}", stream.id),
        request => request.to_string(),
    };
    Some((request, port))
}

/// One connection, to the end of what the pod says.
async fn carry(pod: Pod, port: u16, data: Stream, error: Output) {
    let (output, (pieces, reset)) = (data.output, data.input.split());
    match pod.dial(port).await {
        Ok(stream) => {
            let (mut from, to) = stream.into_split();
            let inward = tokio::spawn(feed(pieces, to));
            let outward = async {
                let mut buffer = vec![0; PIECE];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    if !output.send(&buffer[..n]).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = outward => {}
                _ = reset => {}
            }
            inward.abort();
        }
        Err(message) => drop(error.send(message.as_bytes()).await),
    }
    output.end().await;
    error.end().await;
}

/// Hands what the client says to the pod; its end too, after which the pod may still talk.
async fn feed(mut pieces: mpsc::Receiver<Vec<u8>>, mut to: OwnedWriteHalf) {
    while let Some(piece) = pieces.recv().await {
        if to.write_all(&piece).await.is_err() {
            // The reading side hears why, if it matters. What still comes is dropped.
            while pieces.recv().await.is_some() {}
            return;
        }
    }
    to.shutdown().await.ok(); // the pod may have closed it
    // Kept open in the other direction until the connection's end.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::server::spdy::tests::Client;
    use tokio::net::TcpListener;

    impl Client {
        /// What comes on each of these streams until all have ended.
        async fn ends(&mut self, ids: &[u32]) -> Vec<String> {
            let mut said: HashMap<u32, (String, bool)> = HashMap::new();
            while !ids.iter().all(|id| said.get(id).is_some_and(|(_, ended)| *ended)) {
                if let spdy::Frame::Data { id, end, data } = self.reader.next().await.unwrap().unwrap() {
                    let (text, ended) = said.entry(id).or_default();
                    text.push_str(&String::from_utf8(data).unwrap());
                    *ended |= end;
                }
            }
            ids.iter().map(|id| said.remove(id).unwrap().0).collect()
        }

        async fn pair(&mut self, id: u32, port: u16, request: &str) {
            for (id, kind) in [(id, "error"), (id + 2, "data")] {
                let port = port.to_string();
                self.open_with(id, &[("streamtype", kind), ("port", &port), ("requestid", request)]).await;
            }
        }
    }

    #[tokio::test]
    async fn connections_live_and_fail_apart() {
        let (mut client, opened) = Client::new();
        // Our own namespace does as well as a pod's.
        tokio::spawn(serve(opened, Pod::of("uid".into(), "/proc/self/ns/net".into()).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        client.pair(1, port, "0").await;
        client.pair(5, closed, "1").await;
        let failed = client.ends(&[5, 7]).await;
        let start = format!("error forwarding port {closed} to pod uid, uid : failed to execute portforward in");
        assert!(failed[0].starts_with(&start) && failed[0].contains("connect: connection refused"), "{failed:?}");
        assert_eq!(failed[1], "");
        // The first one does not mind; its ends come one after the other.
        let (mut stream, _) = listener.accept().await.unwrap();
        client.say(spdy::Frame::Data { id: 3, end: true, data: b"question".to_vec() }).await;
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        stream.write_all(b"answer").await.unwrap();
        drop(stream);
        assert_eq!(client.ends(&[1, 3]).await, ["", "answer"]);
        // A reset ends the connection, from a client that does not count too.
        client.pair(9, port, "").await;
        let (mut stream, _) = listener.accept().await.unwrap();
        client.say(spdy::Frame::Reset { id: 11, status: 5 }).await;
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
        // What makes no sense is refused.
        client.open_with(13, &[("streamtype", "data"), ("port", "0"), ("requestid", "3")]).await;
        while client.reader.next().await.unwrap() != Some(spdy::Frame::Reset { id: 13, status: 3 }) {}
    }
}
