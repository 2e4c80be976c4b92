//! `guest fetch`: one GET over plain HTTP, for images that have nothing else.
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

/// Flags of `guest fetch`.
#[derive(Args)]
pub struct Fetch {
    /// http://host[:port]/path
    url: String,
    /// Seconds to wait for the connection and for each read
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

impl Fetch {
    /// Prints the body; an error when the status is not 2xx.
    pub fn run(self) -> anyhow::Result<()> {
        let (status, body) = get(&self.url, Duration::from_secs(self.timeout))?;
        std::io::stdout().write_all(&body)?;
        ensure!((200..300).contains(&status), "{} answered {status}", self.url);
        Ok(())
    }
}

/// One request on a connection of its own: status and body.
pub fn get(url: &str, timeout: Duration) -> anyhow::Result<(u16, Vec<u8>)> {
    let rest = url.strip_prefix("http://").context("only http:// URLs")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let host_port = if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let address =
        host_port.to_socket_addrs().with_context(|| format!("looking up {host}"))?.next().context("no address")?;
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("reading from {address}"))?;
    parse(&bytes).with_context(|| format!("what {address} answered is not HTTP"))
}

fn parse(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body = &bytes[end + 4..];
    match length {
        // A connection cut in the middle of an answer is a failure, not a short body.
        Some((_, value)) if value.trim().parse::<usize>().ok()? != body.len() => None,
        _ => Some((status, body.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_answer_is_not_an_answer() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Some((200, b"ok".to_vec())));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"), None);
        assert_eq!(parse(b"HTTP/1.1 200"), None);
    }
}
