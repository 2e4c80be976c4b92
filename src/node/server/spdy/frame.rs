//! Frames of SPDY/3.1 as bytes.
//!
//! ```text
//! control  |1| version: 15 = 3 | type: 16 | flags: 8 | length: 24 |   data  |0| stream: 31 | flags: 8 | length: 24 |
//!
//!   1 SYN_STREAM  stream: 32, associated: 32, priority: 8, slot: 8, headers…
//!   2 SYN_REPLY   stream: 32, headers…
//!   3 RST_STREAM  stream: 32, status: 32
//!   6 PING        id: 32
//!   4 SETTINGS  7 GOAWAY  8 HEADERS  9 WINDOW_UPDATE     flags: 1 is FIN, the sender's last frame of the stream
//!
//! headers  count: 32, then (length: 32, name, length: 32, value) for each
//! ```
//! Headers are compressed: one zlib stream a direction for the whole connection, which begins with a dictionary. Whoever
//! skips a frame with headers has lost the thread.
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a control frame; those of Kubernetes' clients have some hundred.
const MAX_CONTROL: usize = 16 << 10;
/// Bytes of headers once they are decompressed.
const MAX_HEADERS: usize = 16 << 10;
/// Bytes of a piece of a data frame; longer ones come in several.
pub const PIECE: usize = 32 << 10;
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const HEADERS: u16 = 8;
const FIN: u8 = 1;

/// Names and values in their order; names are in lower case.
pub type Headers = Vec<(String, String)>;

/// What either side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A new stream.
    SynStream { id: u32, end: bool, headers: Headers },
    /// The stream is welcome.
    SynReply { id: u32, end: bool, headers: Headers },
    /// The stream is over, whatever is on its way.
    Reset { id: u32, status: u32 },
    /// To be sent back by whoever did not begin it.
    Ping(u32),
    /// Part of a stream.
    Data { id: u32, end: bool, data: Vec<u8> },
    /// Of this type, and of no interest: nobody here keeps windows, and a connection's end says what GOAWAY says.
    Other(u16),
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

/// Takes frames out of a stream of bytes.
pub struct Reader<R> {
    from: R,
    inflate: Decompress,
    /// A data frame that has not been read to its end: stream, whether it ends that, bytes to come.
    rest: Option<(u32, bool, usize)>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(from: R) -> Reader<R> {
        Reader { from, inflate: Decompress::new(true), rest: None }
    }

    /// The next frame, or piece of a data frame; `None` at the end between two frames. Not to be cancelled and resumed.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        if let Some(rest) = self.rest.take() {
            return self.piece(rest).await.map(Some);
        }
        let mut head = [0; 8];
        match self.from.read(&mut head).await? {
            0 => return Ok(None),
            n => self.from.read_exact(&mut head[n..]).await?,
        };
        let [a, b, c, d, flags, length @ ..] = head;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if a & 0x80 == 0 {
            let id = u32::from_be_bytes([a, b, c, d]);
            return self.piece((id, flags & FIN != 0, length)).await.map(Some);
        }
        if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
            return Err(bad("not version 3"));
        }
        if length > MAX_CONTROL {
            return Err(bad("too long a control frame"));
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body).await?;
        control(u16::from_be_bytes([c, d]), flags, &body, &mut self.inflate).map(Some)
    }

    async fn piece(&mut self, (id, end, left): (u32, bool, usize)) -> io::Result<Frame> {
        let mut data = vec![0; left.min(PIECE)];
        self.from.read_exact(&mut data).await?;
        let left = left - data.len();
        if left > 0 {
            self.rest = Some((id, end, left));
        }
        Ok(Frame::Data { id, end: end && left == 0, data })
    }

    /// What the frames are read from.
    pub fn into_inner(self) -> R {
        self.from
    }
}

fn control(kind: u16, flags: u8, body: &[u8], inflate: &mut Decompress) -> io::Result<Frame> {
    let word = |at| word(body, at);
    let block = |at: usize| body.get(at..).ok_or_else(|| bad("too short a frame"));
    let (end, stream) = (flags & FIN != 0, || word(0).map(|id| id & (u32::MAX >> 1)));
    Ok(match kind {
        SYN_STREAM => Frame::SynStream { id: stream()?, end, headers: headers(block(10)?, inflate)? },
        SYN_REPLY => Frame::SynReply { id: stream()?, end, headers: headers(block(4)?, inflate)? },
        RST_STREAM => Frame::Reset { id: stream()?, status: word(4)? },
        PING => Frame::Ping(word(0)?),
        HEADERS => {
            headers(block(4)?, inflate)?;
            Frame::Other(kind)
        }
        other => Frame::Other(other),
    })
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.map(|word| u32::from_be_bytes(*word)).ok_or_else(|| bad("too short a frame"))
}

fn headers(block: &[u8], inflate: &mut Decompress) -> io::Result<Headers> {
    let (mut plain, start) = (Vec::with_capacity(MAX_HEADERS), inflate.total_in());
    loop {
        let rest = &block[(inflate.total_in() - start) as usize..];
        match inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
            Err(error) if error.needs_dictionary().is_some() => {
                inflate.set_dictionary(&dictionary()).map_err(|_| bad("another dictionary"))?;
            }
            Err(_) => return Err(bad("unreadable headers")),
            Ok(_) if plain.len() == plain.capacity() => return Err(bad("too many headers")),
            Ok(Status::Ok) if inflate.total_in() - start < block.len() as u64 => {}
            Ok(_) => break,
        }
    }
    let mut at = 4;
    let mut text = || {
        let length = word(&plain, at)? as usize;
        let found = plain.get(at + 4..).and_then(|rest| rest.get(..length)).ok_or_else(|| bad("torn headers"))?;
        at += 4 + length;
        Ok::<_, io::Error>(String::from_utf8_lossy(found).into_owned())
    };
    (0..word(&plain, 0)?).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

/// Makes bytes of frames, in the order in which they are sent.
pub struct Writer(Compress);

impl Writer {
    pub fn new() -> io::Result<Writer> {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary())?;
        Ok(Writer(deflate))
    }

    pub fn bytes(&mut self, frame: &Frame) -> io::Result<Vec<u8>> {
        let flags = |end: &bool| if *end { FIN } else { 0 };
        let control = |kind: u16, flags, body: &[u8]| {
            let first = u32::from(0x8000 | VERSION) << 16 | u32::from(kind);
            frame_bytes(first, flags, body)
        };
        match frame {
            Frame::SynStream { id, end, headers } => {
                let block = self.block(headers)?;
                control(SYN_STREAM, flags(end), &[&id.to_be_bytes()[..], &[0; 6], &block].concat())
            }
            Frame::SynReply { id, end, headers } => {
                let block = self.block(headers)?;
                control(SYN_REPLY, flags(end), &[&id.to_be_bytes()[..], &block].concat())
            }
            Frame::Reset { id, status } => control(RST_STREAM, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat()),
            Frame::Ping(id) => control(PING, 0, &id.to_be_bytes()),
            Frame::Data { id, end, data } => frame_bytes(*id, flags(end), data),
            Frame::Other(kind) => Err(bad(&format!("frames of type {kind} are not sent"))),
        }
    }

    fn block(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        // Room for what cannot be compressed, and for the marks of the dictionary and the flush.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 64);
        self.0.compress_vec(&plain, &mut block, FlushCompress::Sync)?;
        match block.len() < block.capacity() {
            true => Ok(block),
            false => Err(bad("too many headers")),
        }
    }
}

fn frame_bytes(first: u32, flags: u8, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length < 1 << 24);
    let length = length.ok_or_else(|| bad("too long a frame"))?;
    Ok([&first.to_be_bytes()[..], &(u32::from(flags) << 24 | length).to_be_bytes(), body].concat())
}

/// What both sides' compressors have seen before the first header: HTTP's words with their lengths, then loose text.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options,head,post,put,delete,trace,accept,accept-charset,accept-encoding,accept-language,\
        accept-ranges,age,allow,authorization,cache-control,connection,content-base,content-encoding,content-language,\
        content-length,content-location,content-md5,content-range,content-type,date,etag,expect,expires,from,host,\
        if-match,if-modified-since,if-none-match,if-range,if-unmodified-since,last-modified,location,max-forwards,\
        pragma,proxy-authenticate,proxy-authorization,range,referer,retry-after,server,te,trailer,transfer-encoding,\
        upgrade,user-agent,vary,via,warning,www-authenticate,method,get,status,200 OK,version,HTTP/1.1,url,public,\
        set-cookie,keep-alive,origin";
    const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
        Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
        Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
        Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
        application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=\
        utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let words = WORDS.split(',').flat_map(|word| [&(word.len() as u32).to_be_bytes()[..], word.as_bytes()].concat());
    words.chain(TEXT.bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<Vec<Frame>> {
        let (mut reader, mut frames) = (Reader::new(bytes), Vec::new());
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn unhex(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    fn some_headers(n: u32) -> Headers {
        vec![("streamtype".into(), "data".into()), ("port".into(), "80".into()), ("requestid".into(), n.to_string())]
    }

    #[tokio::test]
    async fn frames_are_these_bytes() {
        let data = |end, data: &[u8]| Frame::Data { id: 5, end, data: data.to_vec() };
        for (frame, bytes) in [
            (data(false, b"hi"), "00000005 00000002 6869"),
            (data(true, b""), "00000005 01000000"),
            (Frame::Reset { id: 7, status: 5 }, "80030003 00000008 00000007 00000005"),
            (Frame::Ping(1), "80030006 00000004 00000001"),
        ] {
            let bytes = unhex(bytes);
            assert_eq!(Writer::new().unwrap().bytes(&frame).unwrap(), bytes);
            assert_eq!(read(&bytes).await.unwrap(), [frame]);
        }
        // Heard, and of no interest: SETTINGS, GOAWAY, WINDOW_UPDATE.
        let others =
            "80030004 00000004 00000000 80030007 00000008 00000000 00000000 80030009 00000008 00000001 00010000";
        assert_eq!(read(&unhex(others)).await.unwrap(), [Frame::Other(4), Frame::Other(7), Frame::Other(9)]);
    }

    #[tokio::test]
    async fn headers_begin_with_the_dictionary_of_spdy_3() {
        // As zlib makes it; e3c6a7c2 is the dictionary's sum.
        let reply = unhex("80030002 00000014 00000001 78bbe3c6a7c202a6230600000000ffff");
        assert_eq!(read(&reply).await.unwrap(), [Frame::SynReply { id: 1, end: false, headers: vec![] }]);
        let ours = Writer::new().unwrap().bytes(&Frame::SynReply { id: 1, end: false, headers: vec![] }).unwrap();
        assert_eq!(ours[12..18], unhex("78bbe3c6a7c2"));
    }

    #[tokio::test]
    async fn what_is_written_is_read_again() {
        let mut frames = Vec::new();
        for n in 0..50 {
            let (id, headers) = (2 * n + 1, some_headers(n));
            frames.push(Frame::SynStream { id, end: n % 2 == 0, headers: headers.clone() });
            frames.push(Frame::SynReply { id, end: false, headers });
            frames.push(Frame::Data { id, end: true, data: vec![n as u8; 1000] });
        }
        let mut writer = Writer::new().unwrap();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| writer.bytes(frame).unwrap()).collect();
        assert_eq!(read(&bytes).await.unwrap(), frames);
        // A long data frame comes in pieces, and only the last one ends the stream.
        let long = Frame::Data { id: 1, end: true, data: vec![7; PIECE + 1] };
        let pieces = read(&Writer::new().unwrap().bytes(&long).unwrap()).await.unwrap();
        let sizes = pieces.iter().map(|piece| match piece {
            Frame::Data { end, data, .. } => (data.len(), *end),
            other => panic!("{other:?}"),
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [(PIECE, false), (1, true)]);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        let mut bomb = Writer::new().unwrap();
        let headers = vec![("x".to_string(), "y".repeat(MAX_HEADERS))];
        let bomb = bomb.bytes(&Frame::SynStream { id: 1, end: false, headers }).unwrap();
        assert!(bomb.len() < 1000);
        for (bytes, why) in [
            (unhex("80020001 00000000"), "not version 3"),
            (unhex("80030001 00ffffff"), "too long a control frame"),
            (unhex("80030001 00000004 00000001"), "too short a frame"),
            (unhex("80030003 00000004 00000001"), "too short a frame"),
            (unhex("80030006 00000000"), "too short a frame"),
            (unhex("80030002 00000006 00000001 ffff"), "unreadable headers"),
            (unhex("80030002 00000004 00000001"), "too short a frame"),
            (bomb, "too many headers"),
            // Cut in the middle.
            (unhex("80030006 000000"), "early eof"),
            (unhex("00000001 00000009 00"), "early eof"),
        ] {
            let error = read(&bytes).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error} is not {why}");
        }
        // One header that claims to be longer than all of them.
        let mut writer = Writer::new().unwrap();
        let mut block = Vec::with_capacity(100);
        writer.0.compress_vec(&unhex("00000001 7fffffff 61"), &mut block, FlushCompress::Sync).unwrap();
        let torn = frame_bytes(0x8003_0002, 0, &[&[0, 0, 0, 1], &block[..]].concat()).unwrap();
        assert!(read(&torn).await.unwrap_err().to_string().contains("torn headers"));
    }
}
