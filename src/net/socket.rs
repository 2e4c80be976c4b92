//! One netlink socket: framing, batches with acknowledgements, dumps. Knows no family's messages.
//!
//! The kernel handles a netlink request inside `send`: when it returns, every answer already waits in the
//! receive queue. So the socket never blocks, and an empty queue where an answer is due is a protocol error.
use super::{Error, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use std::{collections::BTreeMap, io};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// Acknowledgements that fit the default receive buffer (212,992 bytes; each costs about 800 with its
/// bookkeeping), with room to spare. More at once and the kernel would drop some.
const BATCH: usize = 128;
/// How often a dump that the kernel says was torn by a concurrent change is read again.
const DUMP_TRIES: usize = 5;
/// Receive buffer of one read; the kernel fills at most 32 KiB of a dump into one datagram.
const BUFFER: usize = 64 * 1024;

/// A message to be sent, without header: the sequence number is the socket's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub kind: u16,
    pub flags: u16,
    pub payload: Vec<u8>,
    /// What it does, for errors.
    pub what: String,
    /// Error numbers that mean "already so" and are no failure.
    pub fine: &'static [i32],
}

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub payload: Vec<u8>,
}

/// A socket stays in the network namespace in which it was opened, whoever uses it.
pub struct Netlink {
    socket: Socket,
    seq: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace; `protocol` as `NETLINK_ROUTE`.
    pub fn open(protocol: isize) -> Result<Self> {
        let failed = |source| Error::Kernel { what: "opening a netlink socket".into(), source };
        let mut socket = Socket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        Ok(Netlink { socket, seq: 0 })
    }

    /// Sends requests in as few system calls as the receive buffer allows; every one is acknowledged. The kernel
    /// goes on after a refused one; the first real refusal is returned.
    pub fn batch(&mut self, requests: &[Request]) -> Result<()> {
        let mut first = Ok(());
        for chunk in requests.chunks(BATCH) {
            let mut bytes = Vec::new();
            let mut open = BTreeMap::new();
            for r in chunk {
                let seq = self.frame(&mut bytes, r.kind, r.flags | NLM_F_REQUEST | NLM_F_ACK, &r.payload);
                open.insert(seq, r);
            }
            self.send(&bytes, &chunk[0].what)?;
            while !open.is_empty() {
                for frame in self.receive()? {
                    let Some(request) = (frame.kind == NLMSG_ERROR).then(|| open.remove(&frame.seq)).flatten() else {
                        continue;
                    };
                    if let Some(e) = refusal(&frame, &request.what, request.fine) {
                        first = first.and(Err(e));
                    }
                }
            }
        }
        first
    }

    /// One request whose answer is data, such as one link by name.
    pub fn get(&mut self, kind: u16, payload: &[u8], what: &str) -> Result<Frame> {
        let mut bytes = Vec::new();
        let seq = self.frame(&mut bytes, kind, NLM_F_REQUEST, payload);
        self.send(&bytes, what)?;
        loop {
            // What is left of an earlier, failed exchange is skipped.
            if let Some(frame) = self.receive()?.into_iter().find(|f| f.seq == seq) {
                return refusal(&frame, what, &[]).map_or(Ok(frame), Err);
            }
        }
    }

    /// Reads a whole table; again, when it changed while it was read.
    pub fn dump(&mut self, kind: u16, payload: &[u8], what: &str) -> Result<Vec<Frame>> {
        for _ in 0..DUMP_TRIES {
            if let Some(frames) = self.dump_once(kind, payload, what)? {
                return Ok(frames);
            }
        }
        Err(Error::Protocol(format!("{what}: changed while it was read, {DUMP_TRIES} times")))
    }

    fn dump_once(&mut self, kind: u16, payload: &[u8], what: &str) -> Result<Option<Vec<Frame>>> {
        let mut bytes = Vec::new();
        let seq = self.frame(&mut bytes, kind, NLM_F_REQUEST | NLM_F_DUMP, payload);
        self.send(&bytes, what)?;
        let (mut frames, mut torn) = (Vec::new(), false);
        loop {
            for frame in self.receive()?.into_iter().filter(|f| f.seq == seq) {
                torn |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.kind {
                    NLMSG_DONE => return Ok((!torn).then_some(frames)),
                    NLMSG_ERROR => {
                        return match refusal(&frame, what, &[]) {
                            Some(e) => Err(e),
                            None => Ok(Some(frames)),
                        };
                    }
                    _ => frames.push(frame),
                }
            }
        }
    }

    /// Sends an already framed byte string, as a transaction is.
    pub(crate) fn send(&self, bytes: &[u8], what: &str) -> Result<()> {
        let failed = |source| Error::Kernel { what: what.to_string(), source };
        match self.socket.send(bytes, 0) {
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                // Larger than the send buffer allows: only a big transaction is.
                setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len() * 2)).map_err(|e| failed(e.into()))?;
                self.socket.send(bytes, 0).map_err(failed)?;
            }
            other => {
                other.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Appends a header and payload; returns its sequence number.
    pub(crate) fn frame(&mut self, out: &mut Vec<u8>, kind: u16, flags: u16, payload: &[u8]) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        out.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(self.seq.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(payload);
        out.resize(out.len().next_multiple_of(4), 0);
        self.seq
    }

    /// The messages of the next datagram in the queue.
    pub(crate) fn receive(&self) -> Result<Vec<Frame>> {
        let mut buffer = Vec::with_capacity(BUFFER);
        let n = self.socket.recv(&mut buffer, 0).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::Protocol("no answer".into()),
            _ => Error::Kernel { what: "reading a netlink socket".into(), source: e },
        })?;
        frames(&buffer[..n.min(buffer.len())])
    }
}

/// Splits a datagram into its messages.
fn frames(mut bytes: &[u8]) -> Result<Vec<Frame>> {
    let mut out = Vec::new();
    while bytes.len() >= HEADER {
        let (len, kind, flags, seq) = (u32_at(bytes, 0) as usize, u16_at(bytes, 4), u16_at(bytes, 6), u32_at(bytes, 8));
        if len < HEADER || len > bytes.len() {
            return Err(Error::Protocol(format!("a message of {len} bytes in {}", bytes.len())));
        }
        out.push(Frame { kind, flags, seq, payload: bytes[HEADER..len].to_vec() });
        bytes = &bytes[len.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(out)
}

/// The error a frame carries, if it is one; the kernel's own words are added when it gave some.
pub(crate) fn refusal(frame: &Frame, what: &str, fine: &[i32]) -> Option<Error> {
    if frame.kind != NLMSG_ERROR || frame.payload.len() < 4 + HEADER {
        return None;
    }
    let errno = -(u32_at(&frame.payload, 0) as i32);
    if errno == 0 || fine.contains(&errno) {
        return None;
    }
    let what = match words(frame) {
        Some(words) => format!("{what} ({words})"),
        None => what.to_string(),
    };
    Some(Error::Kernel { what, source: io::Error::from_raw_os_error(errno) })
}

/// The text of an extended acknowledgement.
fn words(frame: &Frame) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    if frame.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let quoted = if frame.flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(&frame.payload, 4) as usize };
    let attrs = super::attr::Attrs::new(frame.payload.get(4 + quoted.next_multiple_of(4)..)?);
    attrs.get(NLMSGERR_ATTR_MSG)?.text().ok()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_and_a_torn_one_refused() {
        let mut bytes = Vec::new();
        for payload in [&[1u8, 2, 3][..], &[][..]] {
            bytes.extend(((HEADER + payload.len()) as u32).to_ne_bytes());
            bytes.extend([7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let got = frames(&bytes).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].payload, [1, 2, 3]);
        assert_eq!((got[1].kind, got[1].seq), (7, 9));
        bytes[0] = 200;
        assert!(frames(&bytes).is_err());
    }
}
