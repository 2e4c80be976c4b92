//! Bytes in, bytes out: UDP and TCP listeners, and the way to other resolvers.

use super::answer::{Answer, answer, authority};
use super::zone::Zone;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Questions to other resolvers under way at once; more are answered SERVFAIL, so that a slow resolver cannot take
/// the daemon's memory.
const MAX_FORWARDS: usize = 256;
/// TCP connections at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 128;
/// How long one resolver may take before the next is asked: as long as libc waits for half a try.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);
/// A TCP client that says nothing for this long is let go.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Resolvers of the host that are asked, as in libc (MAXNS).
const MAX_RESOLVERS: usize = 3;
/// What an answer over UDP may measure without EDNS (RFC 1035), and what we take and offer with it.
const PLAIN_PAYLOAD: usize = 512;
const MAX_PAYLOAD: u16 = 1232;

/// What every question needs.
struct Server {
    zone: Arc<RwLock<Zone>>,
    resolvers: Vec<SocketAddr>,
    forwards: Semaphore,
}

/// The host's resolvers, from /etc/resolv.conf.
pub fn host_resolvers() -> Vec<SocketAddr> {
    match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => resolvers(&text),
        Err(error) => {
            tracing::info!(%error, "no /etc/resolv.conf: only cluster names are answered");
            Vec::new()
        }
    }
}

fn resolvers(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    });
    servers.map(|ip| SocketAddr::new(ip, 53)).take(MAX_RESOLVERS).collect()
}

/// Serves until `shutdown`.
pub async fn run(
    zone: Arc<RwLock<Zone>>,
    listen: Vec<SocketAddr>,
    mut resolvers: Vec<SocketAddr>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // A host that asks us must not be asked back.
    resolvers.retain(|r| !listen.contains(r));
    let server = Arc::new(Server { zone, resolvers, forwards: Semaphore::new(MAX_FORWARDS) });
    let mut tasks = tokio::task::JoinSet::new();
    for address in listen {
        let udp = UdpSocket::bind(address).await.map_err(|e| anyhow::anyhow!("bind DNS to udp {address}: {e}"))?;
        let tcp = TcpListener::bind(address).await.map_err(|e| anyhow::anyhow!("bind DNS to tcp {address}: {e}"))?;
        tasks.spawn(serve_udp(server.clone(), Arc::new(udp)));
        tasks.spawn(serve_tcp(server.clone(), tcp));
    }
    shutdown.cancelled().await;
    tasks.shutdown().await;
    Ok(())
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // The answer to an earlier question bounced: about another client, not about this socket.
                tracing::debug!(%error, "DNS socket");
                continue;
            }
        };
        let Ok(question) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let limit = question
            .extensions()
            .as_ref()
            .map_or(PLAIN_PAYLOAD, |e| usize::from(e.max_payload().min(MAX_PAYLOAD)).max(PLAIN_PAYLOAD));
        let local = server.local(&question);
        if let Some((reply, None)) = &local {
            send(&socket, reply, from, limit).await;
            continue;
        }
        let (server, socket, raw) = (server.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(local) = local {
                let reply = server.complete(&question, local, false).await;
                return send(&socket, &reply, from, limit).await;
            }
            match server.forward(&raw, false).await {
                Some(bytes) => reply_raw(&socket, &bytes, from).await,
                None => send(&socket, &failure(&question), from, limit).await,
            }
        });
    }
}

async fn send(socket: &UdpSocket, reply: &Message, to: SocketAddr, limit: usize) {
    let bytes = match reply.to_vec() {
        Ok(bytes) if bytes.len() > limit => reply.truncate().to_vec(),
        other => other,
    };
    match bytes {
        Ok(bytes) => reply_raw(socket, &bytes, to).await,
        Err(error) => tracing::warn!(%error, "a DNS answer could not be encoded"),
    }
}

async fn reply_raw(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%error, %to, "DNS answer not sent");
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(&server, stream).await {
                        tracing::debug!(%error, "DNS over TCP");
                    }
                    drop(permit);
                });
            }
            Err(error) => tracing::debug!(%error, "DNS accept"),
        }
    }
}

/// Answers one connection's questions (two bytes of length before each, RFC 7766) until it ends or idles.
async fn converse(server: &Server, mut stream: TcpStream) -> anyhow::Result<()> {
    while let Ok(length) = tokio::time::timeout(IDLE_TIMEOUT, stream.read_u16()).await? {
        let mut raw = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE_TIMEOUT, stream.read_exact(&mut raw)).await??;
        let question = Message::from_vec(&raw)?;
        let bytes = match server.local(&question) {
            Some(local) => server.complete(&question, local, true).await.to_vec()?,
            None => match server.forward(&raw, true).await {
                Some(bytes) => bytes,
                None => failure(&question).to_vec()?,
            },
        };
        stream.write_u16(u16::try_from(bytes.len())?).await?;
        stream.write_all(&bytes).await?;
    }
    Ok(())
}

impl Server {
    /// The answer, if it can be given from here, and the name whose addresses another resolver is to add.
    fn local(&self, question: &Message) -> Option<(Message, Option<Name>)> {
        if question.message_type() != MessageType::Query {
            return Some((reply_to(question, ResponseCode::FormErr), None));
        }
        if question.op_code() != OpCode::Query {
            return Some((reply_to(question, ResponseCode::NotImp), None));
        }
        let [query] = question.queries() else {
            return Some((reply_to(question, ResponseCode::FormErr), None));
        };
        let found = {
            let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
            answer(&zone, query.name(), query.query_type(), usize::from(question.id()))
        };
        let mut target = None;
        let (code, records, extra) = match found {
            Answer::Elsewhere => return None,
            Answer::Records(records, extra) => (ResponseCode::NoError, records, extra),
            Answer::Alias(records, name) => {
                target = Some(name);
                (ResponseCode::NoError, records, Vec::new())
            }
            Answer::NoData => (ResponseCode::NoError, Vec::new(), Vec::new()),
            Answer::NxDomain => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
        };
        let mut reply = reply_to(question, code);
        reply.set_authoritative(true);
        if records.is_empty() {
            reply.add_name_servers(authority());
        }
        reply.add_answers(records).add_additionals(extra);
        Some((reply, target))
    }

    /// Adds what another resolver says of an alias's target; if none says anything, the alias is told alone.
    async fn complete(&self, question: &Message, local: (Message, Option<Name>), tcp: bool) -> Message {
        let (mut reply, target) = local;
        let Some(target) = target else {
            return reply;
        };
        let mut asked = question.clone();
        for query in asked.queries_mut() {
            query.set_name(target.clone());
        }
        if let Ok(raw) = asked.to_vec()
            && let Some(bytes) = self.forward(&raw, tcp).await
            && let Ok(told) = Message::from_vec(&bytes)
        {
            let useful = [RecordType::A, RecordType::AAAA, RecordType::CNAME];
            let records = told.answers().iter().filter(|record| useful.contains(&record.record_type()));
            reply.set_truncated(told.truncated()).add_answers(records.cloned());
        }
        reply
    }

    /// What the first resolver that answers says, as it said it.
    async fn forward(&self, question: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let _permit = self.forwards.try_acquire().ok()?;
        for resolver in &self.resolvers {
            let asked =
                async { if tcp { ask_tcp(*resolver, question).await } else { ask_udp(*resolver, question).await } };
            match tokio::time::timeout(FORWARD_TIMEOUT, asked).await {
                Ok(Ok(bytes)) => return Some(bytes),
                Ok(Err(error)) => tracing::debug!(%error, %resolver, "DNS forward"),
                Err(_) => tracing::debug!(%resolver, "DNS forward timed out"),
            }
        }
        None
    }
}

/// A fresh socket, so a fresh random port, and a fresh id for each question: hard to guess, thus hard to forge.
async fn ask_udp(resolver: SocketAddr, question: &[u8]) -> anyhow::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    let id: [u8; 2] = rand::random();
    let mut sent = question.to_vec();
    let original = [sent[0], sent[1]];
    sent[..2].copy_from_slice(&id);
    socket.send(&sent).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length > 2 && buffer[..2] == id {
            buffer.truncate(length);
            buffer[..2].copy_from_slice(&original);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, question: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    stream.write_u16(u16::try_from(question.len())?).await?;
    stream.write_all(question).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn reply_to(question: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new();
    reply
        .set_id(question.id())
        .set_message_type(MessageType::Response)
        .set_op_code(question.op_code())
        .set_recursion_desired(question.recursion_desired())
        .set_recursion_available(true)
        .set_response_code(code)
        .add_queries(question.queries().iter().cloned());
    if question.extensions().is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD);
        reply.set_edns(edns);
    }
    reply
}

fn failure(question: &Message) -> Message {
    reply_to(question, ResponseCode::ServFail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::Records;
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{RData, Record};

    fn question(name: &str) -> Message {
        let mut message = Message::new();
        message
            .set_id(7)
            .set_recursion_desired(true)
            .add_query(Query::query(Name::from_utf8(name).unwrap(), RecordType::A));
        message
    }

    #[test]
    fn resolvers_are_read_as_libc_reads_them() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.1\nnameserver bad\noptions ndots:5\nnameserver ::1\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n";
        let got: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["10.0.0.1:53", "[::1]:53", "1.1.1.1:53"]);
    }

    /// A resolver on loopback answers one question; then there is nobody to ask.
    #[tokio::test]
    async fn the_addresses_of_an_alias_are_asked_for() {
        let resolver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = resolver.local_addr().unwrap();
        let told = tokio::spawn(async move {
            let mut buffer = [0; 512];
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let record = |data| Record::from_rdata(asked.queries()[0].name().clone(), 60, data);
            let mut told = reply_to(&asked, ResponseCode::NoError);
            told.add_answer(record(RData::TXT(TXT::new(vec!["no address".into()]))));
            told.add_answer(record(RData::A(A::new(192, 0, 2, 1))));
            resolver.send_to(&told.to_vec().unwrap(), from).await.unwrap();
        });
        let mut zone = Zone::default();
        zone.set("default", "e", Some(Records::External("example.org".into())));
        let zone = Arc::new(RwLock::new(zone));
        let asked = question("e.default.svc.cluster.local.");
        for (resolvers, want) in [(vec![address], "example.org. 192.0.2.1"), (Vec::new(), "example.org.")] {
            let server = Server { zone: zone.clone(), resolvers, forwards: Semaphore::new(1) };
            let local = server.local(&asked).unwrap();
            let reply = server.complete(&asked, local, false).await;
            let data: Vec<String> = reply.answers().iter().map(|record| record.data().to_string()).collect();
            assert_eq!((reply.id(), reply.queries(), data.join(" ")), (7, asked.queries(), want.to_owned()));
        }
        told.await.unwrap();
    }

    /// A server on loopback whose one resolver is another such server: local names, foreign names, no answer, TCP.
    #[tokio::test]
    async fn cluster_names_are_answered_and_others_asked_for() {
        let shutdown = CancellationToken::new();
        let free = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (near, far, dead) = (free(), free(), free());
        let zone = |address: [u8; 4]| {
            let mut zone = Zone::default();
            zone.set(
                "default",
                "web",
                Some(Records::Cluster { address: address.into(), ports: Vec::new(), endpoints: Vec::new() }),
            );
            Arc::new(RwLock::new(zone))
        };
        let tasks = [
            tokio::spawn(run(zone([10, 96, 0, 1]), vec![near], vec![far], shutdown.clone())),
            // The far server knows no other; what is not in its zone fails.
            tokio::spawn(run(zone([10, 96, 0, 2]), vec![far], vec![dead], shutdown.clone())),
        ];
        let asked = async |name: &str| loop {
            // The servers may still be binding: connection refused is retried until the test's own deadline.
            let raw = question(name).to_vec().unwrap();
            let (udp, tcp) = (ask_udp(near, &raw).await, ask_tcp(near, &raw).await);
            if let (Ok(udp), Ok(tcp)) = (udp, tcp) {
                let (udp, tcp) = (Message::from_vec(&udp).unwrap(), Message::from_vec(&tcp).unwrap());
                assert_eq!((udp.id(), udp.answers()), (7, tcp.answers()));
                break udp;
            }
            tokio::task::yield_now().await;
        };
        let ours =
            tokio::time::timeout(Duration::from_secs(20), asked("web.default.svc.cluster.local.")).await.unwrap();
        assert_eq!(ours.answers()[0].data().to_string(), "10.96.0.1");
        let missing =
            tokio::time::timeout(Duration::from_secs(20), asked("no.default.svc.cluster.local.")).await.unwrap();
        assert_eq!((missing.response_code(), missing.name_servers().len()), (ResponseCode::NXDomain, 1));
        let foreign = tokio::time::timeout(Duration::from_secs(20), asked("example.org.")).await.unwrap();
        assert_eq!(foreign.response_code(), ResponseCode::ServFail);
        shutdown.cancel();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    }
}
