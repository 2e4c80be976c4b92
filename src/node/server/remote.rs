//! The client's end of an exec or attach session, over a WebSocket or over SPDY.
//!
//! ```text
//! v4 and v5.channel.k8s.io over a WebSocket: every binary message is  [channel: u8][bytes…]
//!   0 stdin   client -> server
//!   1 stdout  server -> client
//!   2 stderr  server -> client
//!   3 error   server -> client   a Status: Success, or Failure with the exit code as a cause
//!   4 resize  client -> server   {"Width": 80, "Height": 24}
//! 255 close   client -> server   v5 only; its one byte names the channel that ends (stdin)
//!
//! v4.channel.k8s.io over SPDY: a stream each, whose header `streamtype` is one of these names
//! ```
use super::spdy::{self, Input, Output, Stream};
use crate::runtime::Resizer;
use axum::{
    extract::{
        FromRequestParts, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    http::request::Parts,
    response::{IntoResponse, Response},
};
use bytes::{Buf, Bytes};
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};

/// The protocols of WebSockets, the better one first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
const STDIN: u8 = 0;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
/// Channels by number, as SPDY streams are called.
const NAMES: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];
/// How long the other side may take to agree that the session is over; a slow one has much to read before.
const GOODBYE: Duration = Duration::from_secs(30);
/// How long a client may take to open its streams: the kubelet's `streamCreationTimeout`.
const OPENING: Duration = Duration::from_secs(30);

/// What the client asks a connection to become.
pub enum Upgrade {
    Socket(Box<WebSocketUpgrade>),
    Spdy(spdy::Upgrade),
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Upgrade, Response> {
        if let Some(upgrade) = spdy::Upgrade::of(parts) {
            return Ok(Upgrade::Spdy(upgrade));
        }
        let socket = WebSocketUpgrade::from_request_parts(parts, state).await;
        socket.map(|socket| Upgrade::Socket(Box::new(socket))).map_err(IntoResponse::into_response)
    }
}

impl Upgrade {
    /// Has `serve` talk to the client, whose streams are those of `wanted`.
    pub fn serve<F>(self, wanted: Wanted, serve: impl FnOnce(Remote) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Upgrade::Socket(upgrade) => {
                upgrade.protocols(PROTOCOLS).on_upgrade(move |socket| serve(Remote::Channels(Box::new(socket))))
            }
            Upgrade::Spdy(upgrade) => upgrade.serve(&PROTOCOLS[1..], async move |opened| {
                match timeout(OPENING, Streams::gather(opened, wanted)).await {
                    Ok(Some(streams)) => serve(Remote::Streams(streams)).await,
                    _ => tracing::debug!("a client did not open its streams"),
                }
            }),
        }
    }
}

/// Which streams a client asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// Of a decoded query; the kubelet's names `input`, `output`, `error` work too.
    pub fn of(pairs: &[(String, String)]) -> Wanted {
        let is = |names: &[&str]| {
            pairs.iter().any(|(key, value)| names.contains(&&**key) && matches!(&**value, "1" | "true" | "True"))
        };
        let (stdin, stdout) = (is(&["stdin", "input"]), is(&["stdout", "output"]));
        Wanted { stdin, stdout, stderr: is(&["stderr", "error"]), tty: is(&["tty"]) }
    }

    fn streams(self) -> usize {
        let optional = [self.stdin, self.stdout, self.stderr && !self.tty, self.tty];
        1 + optional.into_iter().filter(|wanted| *wanted).count()
    }
}

/// The client's end.
pub enum Remote {
    Channels(Box<WebSocket>),
    Streams(Streams),
}

/// What a client says.
enum Said {
    Input(Bytes),
    InputEnds,
    Resize(Vec<u8>),
    /// Nothing that matters.
    Noise,
    /// It has gone.
    Gone,
}

/// Streams of SPDY, by channel.
pub struct Streams {
    stdin: Option<Input>,
    resize: Option<Input>,
    outputs: [Option<Output>; NAMES.len()],
    opened: mpsc::Receiver<Stream>,
}

impl Streams {
    async fn gather(mut opened: mpsc::Receiver<Stream>, wanted: Wanted) -> Option<Streams> {
        let (mut inputs, mut outputs) = ([const { None }; NAMES.len()], [const { None }; NAMES.len()]);
        for _ in 0..wanted.streams() {
            let stream = opened.recv().await?;
            let Some(channel) = NAMES.iter().position(|name| *name == stream.header("streamtype")) else {
                stream.refuse().await;
                return None;
            };
            stream.accept().await;
            (inputs[channel], outputs[channel]) = (Some(stream.input), Some(stream.output));
        }
        let (stdin, resize) = (inputs[usize::from(STDIN)].take(), inputs[usize::from(RESIZE)].take());
        Some(Streams { stdin, resize, outputs, opened })
    }

    async fn hear(&mut self) -> Said {
        tokio::select! {
            piece = next(&mut self.stdin) => piece.map_or(Said::InputEnds, |piece| Said::Input(piece.into())),
            piece = next(&mut self.resize) => piece.map_or(Said::Noise, Said::Resize),
            // Every stream is there: nothing but the end is to come.
            more = self.opened.recv() => more.map_or(Said::Gone, |_| Said::Noise),
        }
    }
}

/// The next piece; `None` once, at the end. Waits for ever on a stream that is not there (any more).
async fn next(stream: &mut Option<Input>) -> Option<Vec<u8>> {
    let Some(input) = stream else {
        return std::future::pending().await;
    };
    let piece = input.next().await;
    if piece.is_none() {
        *stream = None;
    }
    piece
}

impl Remote {
    /// Can be cancelled.
    async fn hear(&mut self) -> Said {
        let socket = match self {
            Remote::Streams(streams) => return streams.hear().await,
            Remote::Channels(socket) => socket,
        };
        match socket.recv().await {
            Some(Ok(Message::Binary(bytes))) => match bytes.first() {
                Some(&STDIN) => Said::Input(bytes.slice(1..)),
                Some(&RESIZE) => Said::Resize(bytes[1..].to_vec()),
                Some(&CLOSE) if bytes[1..] == [STDIN] => Said::InputEnds,
                _ => Said::Noise,
            },
            Some(Ok(Message::Close(_)) | Err(_)) | None => Said::Gone,
            Some(Ok(_)) => Said::Noise,
        }
    }

    /// Sends some on a channel; false when the client has gone.
    pub async fn say(&mut self, channel: u8, data: &[u8]) -> bool {
        match self {
            Remote::Channels(socket) => send(socket, channel, data).await,
            Remote::Streams(streams) => match streams.outputs.get(usize::from(channel)) {
                Some(Some(output)) => output.send(data).await,
                _ => true,
            },
        }
    }

    /// Says how it ended and that it is over. The other side may have gone already, which is the same.
    pub async fn close(mut self, status: &Value) {
        self.say(ERROR, status.to_string().as_bytes()).await;
        match self {
            Remote::Channels(mut socket) => close(&mut socket).await,
            Remote::Streams(streams) => {
                for output in streams.outputs.iter().flatten() {
                    output.end().await;
                }
            }
        }
    }
}

/// One message on a channel of a WebSocket; false when the client has gone.
pub async fn send(socket: &mut WebSocket, channel: u8, data: &[u8]) -> bool {
    let message = [&[channel], data].concat();
    socket.send(Message::Binary(message.into())).await.is_ok()
}

/// Says over a WebSocket that the session is over.
pub async fn close(socket: &mut WebSocket) {
    let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    if socket.send(Message::Close(Some(normal))).await.is_err() {
        return;
    }
    // What it still sends is read until it agrees: a socket closed over unread input is reset, and with it what the
    // other side has not read yet.
    let agreed = async { while let Some(Ok(_)) = socket.recv().await {} };
    timeout(GOODBYE, agreed).await.ok();
}

/// What the client types, on its way to a program.
pub struct Keyboard {
    pipe: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resizer: Resizer,
    /// Not written yet; until it is, the client is not listened to.
    pending: Bytes,
}

impl Keyboard {
    pub fn new(pipe: Option<Box<dyn AsyncWrite + Send + Unpin>>, resizer: Resizer) -> Keyboard {
        Keyboard { pipe, resizer, pending: Bytes::new() }
    }

    /// One step: hears the client, or writes some of what it said. False when it has gone. Can be cancelled.
    pub async fn turn(&mut self, remote: &mut Remote) -> bool {
        if let Some(pipe) = self.pipe.as_mut().filter(|_| !self.pending.is_empty()) {
            match pipe.write(&self.pending).await {
                Ok(n @ 1..) => self.pending.advance(n),
                // A program that closed its input is no error of the session.
                Ok(0) | Err(_) => self.pipe = None,
            }
            return true;
        }
        match remote.hear().await {
            Said::Input(data) => self.pending = data,
            Said::InputEnds => self.pipe = None,
            Said::Resize(size) => resize(&self.resizer, &size),
            Said::Noise => {}
            Said::Gone => return false,
        }
        true
    }
}

/// Several sizes may come as one piece of a stream; the last is the one.
fn resize(resizer: &Resizer, data: &[u8]) {
    let size: Value =
        serde_json::Deserializer::from_slice(data).into_iter().map_while(Result::ok).last().unwrap_or_default();
    let side = |name: &str| size[name].as_u64().and_then(|n| u16::try_from(n).ok());
    if let (Some(width), Some(height)) = (side("Width"), side("Height"))
        && let Err(error) = resizer.resize(width, height)
    {
        tracing::debug!(%error, "resizing a terminal");
    }
}
