//! Port-forward over a WebSocket with the `v4.channel.k8s.io` protocol: two channels a port, data and errors.
//!
//! ```text
//! channel 2n    data of the n-th port     both start with the port's number, u16 little endian
//! channel 2n+1  errors of the n-th port
//! ```
//! kube-rs and the Python client speak it; kubectl never did.
use super::{
    forward::Pod,
    remote::{close, send},
};
use axum::extract::ws::{Message, WebSocket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::OwnedWriteHalf,
    sync::mpsc,
};

/// Ports of one session: channels are one byte.
const MAX_PORTS: usize = 127;
const CHUNK: usize = 32 << 10;

/// The ports a query asks for, as `ports=80,443` or one by one; `None` if there are none, or too many.
pub fn ports(pairs: &[(String, String)]) -> Option<Vec<u16>> {
    let lists = pairs.iter().filter(|(key, _)| key == "ports" || key == "port");
    let ports: Vec<u16> = lists.flat_map(|(_, list)| list.split(',').filter_map(|port| port.parse().ok())).collect();
    (1..=MAX_PORTS).contains(&ports.len()).then_some(ports)
}

pub async fn serve(mut socket: WebSocket, pod: Pod, ports: Vec<u16>) {
    let (send_out, mut out) = mpsc::channel::<(u8, Vec<u8>)>(ports.len() * 2);
    let mut writers: Vec<Option<OwnedWriteHalf>> = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        let channel = 2 * n as u8;
        let number = port.to_le_bytes();
        if !send(&mut socket, channel, &number).await || !send(&mut socket, channel + 1, &number).await {
            return;
        }
        match pod.dial(*port).await {
            Ok(stream) => writers.push(Some(carry(stream, channel, send_out.clone()))),
            Err(message) => {
                writers.push(None);
                if !send(&mut socket, channel + 1, message.as_bytes()).await {
                    return;
                }
            }
        }
    }
    drop(send_out);
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let Some((channel, data)) = bytes.split_first() else { continue };
                    let slot = writers.get_mut(usize::from(*channel) / 2);
                    let Some(slot @ Some(_)) = slot.filter(|_| channel % 2 == 0) else { continue };
                    let written = match slot {
                        Some(writer) => writer.write_all(data).await,
                        None => Ok(()),
                    };
                    if written.is_err() {
                        *slot = None;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            piece = out.recv() => match piece {
                Some((_, data)) if data.is_empty() => {}
                Some((channel, data)) => if !send(&mut socket, channel, &data).await { return },
                // Every connection has ended: so has the session.
                None => {
                    close(&mut socket).await;
                    return;
                }
            },
        }
    }
}

/// Carries what a connection says to `sender`; an empty piece is its end. Returns the other direction.
fn carry(stream: tokio::net::TcpStream, channel: u8, sender: mpsc::Sender<(u8, Vec<u8>)>) -> OwnedWriteHalf {
    let (mut reader, writer) = stream.into_split();
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n) = reader.read(&mut buffer).await {
            if sender.send((channel, buffer[..n].to_vec())).await.is_err() || n == 0 {
                return;
            }
        }
    });
    writer
}
