//! SPDY/3.1 as Kubernetes uses it: many streams over one connection, all opened by the client, none of them HTTP.
//!
//! Two ways lead here: `Upgrade: SPDY/3.1` on a plain request, and a WebSocket whose binary messages are the bytes.
//!
//! Left out, because the clients (all built on Go's spdystream) do not do it either: windows, priorities, settings, and
//! streams opened by the server. Back-pressure is the connection's own: a stream whose reader is slow holds up the others
//! for [`STALL`] at most, then it is reset.
mod frame;
#[cfg(test)]
pub mod tests;
mod upgrade;

pub use frame::{Frame, PIECE};
pub use upgrade::{Upgrade, tunnel};

use frame::{Headers, Reader, Writer};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Streams of one connection at a time; more are refused. A forwarded connection has two.
const MAX_STREAMS: usize = 512;
/// Pieces of one stream that wait to be read: with all streams full, 64 MiB.
const PIECES: usize = 4;
/// Frames of a connection that wait to be sent.
const QUEUE: usize = 16;
/// How long a client may say nothing: the kubelet's `streamingConnectionIdleTimeout`. kubectl sends pings.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a full stream may hold up the connection.
const STALL: Duration = Duration::from_secs(30);
/// How long the rest may take to get out, and again how long the client may take to hang up, once we are done.
const GOODBYE: Duration = Duration::from_secs(30);
/// Statuses of RST_STREAM.
const REFUSED: u32 = 3;
const INTERNAL_ERROR: u32 = 6;

/// A stream that the client has opened; to be accepted or refused.
pub struct Stream {
    pub id: u32,
    headers: Headers,
    pub input: Input,
    pub output: Output,
}

impl Stream {
    /// A header's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Tells the client that the stream is welcome.
    pub async fn accept(&self) {
        self.output.say(Frame::SynReply { id: self.id, end: false, headers: Headers::new() }).await;
    }

    /// Tells the client that it is not.
    pub async fn refuse(self) {
        self.output.say(Frame::Reset { id: self.id, status: REFUSED }).await;
    }
}

/// What the client sends on a stream.
pub struct Input {
    pieces: mpsc::Receiver<Vec<u8>>,
    life: oneshot::Receiver<()>,
}

impl Input {
    /// The next piece; `None` when no more will come.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.pieces.recv().await
    }

    /// Splits off something to wait for: that the client has reset the stream, or has gone.
    pub fn split(self) -> (mpsc::Receiver<Vec<u8>>, oneshot::Receiver<()>) {
        (self.pieces, self.life)
    }
}

/// What is sent to the client on a stream, which is forgotten when this is dropped.
pub struct Output {
    id: u32,
    frames: mpsc::Sender<Frame>,
    table: Table,
}

impl Output {
    /// Sends some; false when the connection has ended.
    pub async fn send(&self, data: &[u8]) -> bool {
        self.say(Frame::Data { id: self.id, end: false, data: data.to_vec() }).await
    }

    /// Nothing more will be sent.
    pub async fn end(&self) {
        self.say(Frame::Data { id: self.id, end: true, data: Vec::new() }).await;
    }

    async fn say(&self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}

/// The connection's side of a stream.
struct Slot {
    /// None after the client's last frame.
    pieces: Option<mpsc::Sender<Vec<u8>>>,
    /// Dropped when the stream is reset.
    _life: oneshot::Sender<()>,
}

#[derive(Clone, Default)]
struct Table(Arc<Mutex<HashMap<u32, Slot>>>);

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a stream of the client's; none if there are too many, or one of that number.
    fn open(&self, id: u32, end: bool, headers: Headers, frames: &mpsc::Sender<Frame>) -> Option<Stream> {
        let mut slots = self.lock();
        if slots.len() >= MAX_STREAMS || slots.contains_key(&id) {
            return None;
        }
        let ((sender, pieces), (alive, life)) = (mpsc::channel(PIECES), oneshot::channel());
        slots.insert(id, Slot { pieces: (!end).then_some(sender), _life: alive });
        let output = Output { id, frames: frames.clone(), table: self.clone() };
        Some(Stream { id, headers, input: Input { pieces, life }, output })
    }
}

/// Speaks SPDY over `transport`. New streams come out of what is returned; dropping that ends the connection, and the
/// connection's end closes it.
pub fn start<T: AsyncRead + AsyncWrite + Send + 'static>(transport: T) -> mpsc::Receiver<Stream> {
    let (opened, streams) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let (from, to) = tokio::io::split(transport);
        let (frames, outgoing) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(write(to, outgoing));
        let (mut reader, table) = (Reader::new(from), Table::default());
        let ended = tokio::select! {
            ended = listen(&mut reader, &table, &frames, &opened) => ended,
            () = opened.closed() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a SPDY connection ended");
        }
        table.lock().clear();
        drop((frames, opened));
        let unwritten = writer.abort_handle();
        let Ok(Ok(Ok(mut to))) = timeout(GOODBYE, writer).await else { return unwritten.abort() };
        // The client hangs up first. At the end of a connection Go's spdystream forgets its streams, whatever frames still
        // wait; and one that is closed over unread input is reset, and with it what the client has not read yet.
        let mut from = reader.into_inner();
        let hung_up = async { while let Ok(1..) = from.read(&mut [0; 1024]).await {} };
        timeout(GOODBYE, hung_up).await.ok();
        to.shutdown().await.ok(); // it may have gone
    });
    streams
}

/// Writes until there are no more; what it wrote to is left open.
async fn write<W: AsyncWrite + Unpin>(mut to: W, mut frames: mpsc::Receiver<Frame>) -> io::Result<W> {
    let mut writer = Writer::new()?;
    while let Some(frame) = frames.recv().await {
        to.write_all(&writer.bytes(&frame)?).await?;
        if frames.is_empty() {
            to.flush().await?;
        }
    }
    Ok(to)
}

async fn listen(
    reader: &mut Reader<impl AsyncRead + Unpin>,
    table: &Table,
    frames: &mpsc::Sender<Frame>,
    opened: &mpsc::Sender<Stream>,
) -> io::Result<()> {
    loop {
        let Some(frame) = timeout(IDLE, reader.next()).await?? else {
            return Ok(());
        };
        let answer = match frame {
            Frame::SynStream { id, end, headers } => match table.open(id, end, headers, frames) {
                Some(stream) => {
                    opened.send(stream).await.map_err(io::Error::other)?;
                    None
                }
                None => Some(Frame::Reset { id, status: REFUSED }),
            },
            Frame::Data { id, end, data } => take_in(table, id, end, data).await,
            Frame::Reset { id, .. } => {
                table.lock().remove(&id);
                None
            }
            // Even ones would be answers to ours.
            Frame::Ping(id) => (id % 2 == 1).then_some(Frame::Ping(id)),
            Frame::SynReply { .. } | Frame::Other(_) => None,
        };
        if let Some(answer) = answer {
            frames.send(answer).await.map_err(io::Error::other)?;
        }
    }
}

/// Hands a piece to its stream; one that is not there (any more) loses it.
async fn take_in(table: &Table, id: u32, end: bool, data: Vec<u8>) -> Option<Frame> {
    let pieces = table.lock().get(&id).and_then(|slot| slot.pieces.clone())?;
    if !data.is_empty() && timeout(STALL, pieces.send(data)).await.is_err() {
        table.lock().remove(&id);
        return Some(Frame::Reset { id, status: INTERNAL_ERROR });
    }
    if end && let Some(slot) = table.lock().get_mut(&id) {
        slot.pieces = None;
    }
    None
}
