//! As much HTTP/1.1 as the server inside a test image needs: a request's head in, an answer with a length out.
use std::io::{self, BufRead, Read, Write};

/// Longest request head: a test that sends more is wrong, and the buffer is a connection's whole memory.
const HEAD_MAX: u64 = 16 * 1024;

/// A parsed request head.
pub struct Request {
    /// Path without the query.
    pub path: String,
    /// `key=value` pairs as they were sent (no percent decoding: the values are numbers and words).
    query: Vec<(String, String)>,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
}

impl Request {
    /// Reads one head; `None` when the peer closed the connection between two requests.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut from = from.take(HEAD_MAX);
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_ascii_whitespace();
        let (Some(_method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request"));
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut request = Request {
            path: path.to_owned(),
            query: query.map(|(k, v)| (k.into(), v.into())).collect(),
            keep_alive: version == "HTTP/1.1",
        };
        loop {
            let mut header = String::new();
            if from.read_line(&mut header)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match header.trim_end().split_once(':') {
                None => return Ok(Some(request)),
                Some((name, value)) if name.eq_ignore_ascii_case("connection") => {
                    request.keep_alive = !value.trim().eq_ignore_ascii_case("close");
                }
                Some(_) => {}
            }
        }
    }

    /// A query parameter as a number.
    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.query.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok())
    }
}

/// Writes an answer in one go, so that it is one packet when it is small.
pub fn answer(to: &mut impl Write, status: &str, kind: &str, body: &[u8], keep_alive: bool) -> io::Result<()> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    to.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_parsed_and_the_next_one_follows() {
        let mut bytes: &[u8] =
            b"GET /big?bytes=7&x=y HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        let first = Request::read(&mut bytes).unwrap().unwrap();
        assert_eq!((first.path.as_str(), first.number("bytes"), first.keep_alive), ("/big", Some(7), true));
        let second = Request::read(&mut bytes).unwrap().unwrap();
        assert_eq!((second.path.as_str(), second.keep_alive), ("/", false));
        assert!(Request::read(&mut bytes).unwrap().is_none());
    }
}
