//! A client in memory, and what it sees.
use super::*;
use tokio::io::DuplexStream;

/// The other side.
pub struct Client {
    to: tokio::io::WriteHalf<DuplexStream>,
    writer: Writer,
    pub reader: Reader<tokio::io::ReadHalf<DuplexStream>>,
}

impl Client {
    pub fn new() -> (Client, mpsc::Receiver<Stream>) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (from, to) = tokio::io::split(ours);
        (Client { to, writer: Writer::new().unwrap(), reader: Reader::new(from) }, start(theirs))
    }

    pub async fn say(&mut self, frame: Frame) {
        self.to.write_all(&self.writer.bytes(&frame).unwrap()).await.unwrap();
    }

    async fn open(&mut self, id: u32) {
        self.open_with(id, &[("port", "80")]).await;
    }

    pub async fn open_with(&mut self, id: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.say(Frame::SynStream { id, end: false, headers }).await;
    }
}

fn data(id: u32, end: bool, data: &[u8]) -> Frame {
    Frame::Data { id, end, data: data.to_vec() }
}

#[tokio::test]
async fn streams_carry_both_ways_and_end_apart() {
    let (mut client, mut streams) = Client::new();
    client.open(1).await;
    client.say(data(1, false, b"there")).await;
    client.say(data(1, true, b"")).await;
    client.say(Frame::Ping(3)).await;
    let mut stream = streams.recv().await.unwrap();
    assert_eq!((stream.header("port"), stream.header("none")), ("80", ""));
    assert_eq!(stream.input.next().await.unwrap(), b"there");
    assert_eq!(stream.input.next().await, None);
    assert_eq!(client.reader.next().await.unwrap(), Some(Frame::Ping(3)));
    stream.accept().await;
    assert!(stream.output.send(b"and back").await);
    stream.output.end().await;
    assert!(matches!(client.reader.next().await.unwrap(), Some(Frame::SynReply { id: 1, .. })));
    assert_eq!(client.reader.next().await.unwrap(), Some(data(1, false, b"and back")));
    assert_eq!(client.reader.next().await.unwrap(), Some(data(1, true, b"")));
    // Dropping the queue of streams is the end, but the client is the first to hang up.
    drop((stream, streams));
    assert!(timeout(Duration::from_millis(50), client.reader.next()).await.is_err());
    client.to.shutdown().await.unwrap();
    assert_eq!(client.reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_reset_and_a_hang_up_are_heard() {
    let (mut client, mut streams) = Client::new();
    for id in [1, 3] {
        client.open(id).await;
    }
    let (first, second) = (streams.recv().await.unwrap(), streams.recv().await.unwrap());
    let ((_, life), (_, other)) = (first.input.split(), second.input.split());
    client.say(Frame::Reset { id: 1, status: 5 }).await;
    assert!(life.await.is_err());
    drop(client);
    assert!(other.await.is_err());
    assert!(streams.recv().await.is_none());
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let (mut client, mut streams) = Client::new();
    let mut kept = Vec::new();
    for id in 0..MAX_STREAMS as u32 {
        client.open(2 * id + 1).await;
        kept.push(streams.recv().await.unwrap());
    }
    client.open(9001).await;
    assert_eq!(client.reader.next().await.unwrap(), Some(Frame::Reset { id: 9001, status: REFUSED }));
    // A stream that is done makes room; a number in use does not.
    drop(kept.pop());
    client.open(1).await;
    assert_eq!(client.reader.next().await.unwrap(), Some(Frame::Reset { id: 1, status: REFUSED }));
    client.open(9003).await;
    assert_eq!(streams.recv().await.unwrap().id, 9003);
}
