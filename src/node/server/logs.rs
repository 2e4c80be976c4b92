//! `kubectl logs`: reading a container's log file, whose lines are `<time> <stream> <F|P> <text>`.
use super::{Refused, follow};
use crate::node::{Node, observed::Run, setup::blocking, spec};
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::Deserialize;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::mpsc;

/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;
/// Chunks that wait for a slow reader.
const CHUNKS: usize = 8;
/// Bytes of a line that are read as one; the shim writes shorter ones.
const MAX_LINE: u64 = 1 << 20;

/// The options of `pods/log`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<i64>,
    pub since_seconds: Option<i64>,
    pub since_time: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
}

/// Output on its way to a reader, and whether it is standard error.
pub type Piece = io::Result<(bool, Vec<u8>)>;

/// One attempt's log.
pub struct Source {
    pub uid: String,
    pub container: String,
    pub attempt: u32,
    pub path: PathBuf,
}

pub async fn logs(
    State(node): State<Arc<Node>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Response {
    match find(&node, &namespace, &pod, &container, options.previous) {
        Ok(source) => stream(node, source, options).await,
        Err(refused) => refused.into_response(),
    }
}

/// Which file it is. Errors are worded as the kubelet words them.
fn find(node: &Node, namespace: &str, name: &str, container: &str, previous: bool) -> Result<Source, Refused> {
    let Some((uid, entry)) = node.find_pod(namespace, name) else {
        return Err(Refused::not_found(format!("pods \"{name}\" not found")));
    };
    if spec::container(&entry.pod, container).is_none() {
        let message = format!("container {container} is not valid for pod {name}");
        return Err(Refused::bad_request(message));
    }
    let seen = entry.seen.containers.get(container).cloned().unwrap_or_default();
    let attempt = match (previous, seen.run) {
        (true, _) => match seen.previous {
            Some(exit) => exit.attempt,
            None => {
                let message = format!("previous terminated container \"{container}\" in pod \"{name}\" not found");
                return Err(Refused::bad_request(message));
            }
        },
        (false, Run::Never) => {
            let why = seen.failure.map_or("ContainerCreating".to_string(), |failure| failure.reason);
            let message = match why.as_str() {
                "ContainerCreating" => {
                    format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}")
                }
                "ErrImagePull" | "ImagePullBackOff" => {
                    format!(
                        "container \"{container}\" in pod \"{name}\" is waiting to start: trying and failing to pull image"
                    )
                }
                _ => format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}"),
            };
            return Err(Refused::bad_request(message));
        }
        (false, _) => seen.attempt,
    };
    let path = node.log_path(&uid, container, attempt);
    Ok(Source { uid, container: container.to_string(), attempt, path })
}

async fn stream(node: Arc<Node>, source: Source, options: Options) -> Response {
    let follow = match Follow::open(&node, source, options).await {
        Ok(follow) => follow,
        Err(error) => return Refused::internal(error).into_response(),
    };
    let body = futures::stream::unfold(follow.start(), |mut receive| async {
        let piece = receive.recv().await?;
        Some((piece.map(|(_, data)| data), receive))
    });
    ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(body)).into_response()
}

/// A log that is read, and listened to if that was asked for.
pub struct Follow {
    reader: Reader,
    news: Option<follow::News>,
}

impl Follow {
    pub async fn open(node: &Arc<Node>, source: Source, options: Options) -> Result<Follow, String> {
        // First the ear, then the reading, so that nothing falls between them.
        let news = match options.follow {
            true => Some(follow::News::of(node, &source).map_err(|e| e.to_string())?),
            false => None,
        };
        let reader = blocking(move || Reader::open(source.path, options).map_err(|e| e.to_string())).await?;
        Ok(Follow { reader, news })
    }

    /// What is there, and what comes; closed at the log's end.
    pub fn start(self) -> mpsc::Receiver<Piece> {
        let (send, receive) = mpsc::channel(CHUNKS);
        tokio::spawn(async move {
            if let Err(why) = self.copy(&send).await {
                // The reader hears of it if it still listens.
                send.send(Err(io::Error::other(why))).await.ok();
            }
        });
        receive
    }

    async fn copy(mut self, send: &mpsc::Sender<Piece>) -> Result<(), String> {
        loop {
            // Asked before reading: what was written before the end is read after it was seen.
            let over = self.news.as_ref().is_none_or(|news| news.over());
            loop {
                let mut reader = self.reader;
                let (back, pieces) = blocking(move || {
                    let pieces = reader.pieces().map_err(|e| e.to_string())?;
                    Ok((reader, pieces))
                })
                .await?;
                self.reader = back;
                if pieces.is_empty() {
                    break;
                }
                for piece in pieces {
                    if send.send(Ok(piece)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            let Some(news) = self.news.as_mut().filter(|_| !over && !self.reader.full()) else {
                return Ok(());
            };
            tokio::select! {
                () = news.wait() => {}
                () = send.closed() => return Ok(()),
            }
        }
    }
}

/// Reads log lines as far as they are there.
struct Reader {
    file: BufReader<fs::File>,
    path: PathBuf,
    /// The file has been turned over; what there was until then is read first.
    turned: bool,
    options: Options,
    since: Option<Timestamp>,
    /// Bytes that may still be sent.
    left: u64,
    /// A line that is not complete yet.
    partial: Vec<u8>,
    /// The next text starts a line of the container's.
    fresh: bool,
}

impl Reader {
    fn open(path: PathBuf, options: Options) -> std::io::Result<Reader> {
        let mut file = fs::File::open(&path)?;
        if let Some(lines) = options.tail_lines {
            let at = tail_offset(&mut file, lines.max(0) as u64)?;
            file.seek(SeekFrom::Start(at))?;
        }
        let ago = options.since_seconds.map(|s| Timestamp::now() - std::time::Duration::from_secs(s.max(0) as u64));
        Ok(Reader {
            file: BufReader::new(file),
            path,
            turned: false,
            since: options.since_time.or(ago),
            left: options.limit_bytes.unwrap_or(u64::MAX),
            options,
            partial: Vec::new(),
            fresh: true,
        })
    }

    fn full(&self) -> bool {
        self.left == 0
    }

    /// The next pieces of output, each as long as its stream goes on; none when there is no more for now.
    fn pieces(&mut self) -> io::Result<Vec<(bool, Vec<u8>)>> {
        let (mut pieces, mut size) = (Vec::<(bool, Vec<u8>)>::new(), 0);
        while size < CHUNK && self.left > 0 {
            let n = self.file.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.partial)?;
            if n == 0 && self.partial.is_empty() && self.turn()? {
                continue;
            }
            if n == 0 || self.partial.last() != Some(&b'\n') {
                break;
            }
            let line = std::mem::take(&mut self.partial);
            let Some((error, mut text)) = self.line(&line) else { continue };
            text.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= text.len() as u64;
            size += text.len();
            match pieces.last_mut() {
                Some((same, piece)) if *same == error => piece.append(&mut text),
                _ => pieces.push((error, text)),
            }
        }
        Ok(pieces)
    }

    /// At the end of a file: if that has another name by now, the next younger one is read, after a last look at this.
    fn turn(&mut self) -> io::Result<bool> {
        let mine = self.file.get_ref().metadata()?.ino();
        let mut younger = self.path.clone();
        for age in 0.. {
            let name = if age == 0 { self.path.clone() } else { format!("{}.{age}", self.path.display()).into() };
            match fs::metadata(&name) {
                Ok(found) if found.ino() == mine && age == 0 => return Ok(false),
                Ok(found) if found.ino() == mine => break,
                Ok(_) => younger = name,
                // Between two files; or this is older than all there are.
                Err(_) if age == 0 => return Ok(false),
                Err(_) => break,
            }
        }
        if self.turned {
            self.file = BufReader::new(fs::File::open(younger)?);
        }
        self.turned = !self.turned;
        Ok(true)
    }

    /// A line's text as the container wrote it, and whether that was to standard error.
    fn line(&mut self, line: &[u8]) -> Option<(bool, Vec<u8>)> {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (time, stream, tag, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        if let Some(since) = self.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return None;
            }
        }
        let mut out = Vec::with_capacity(line.len());
        if self.options.timestamps && self.fresh {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        let whole = tag != b"P";
        out.extend_from_slice(if whole { text } else { text.strip_suffix(b"\n").unwrap_or(text) });
        self.fresh = whole;
        Some((stream == b"stderr", out))
    }
}

/// Where the last `lines` lines of a file begin.
fn tail_offset(file: &mut fs::File, lines: u64) -> std::io::Result<u64> {
    let mut at = file.metadata()?.len();
    if lines == 0 {
        return Ok(at);
    }
    let (mut seen, mut block) = (0, vec![0; 8192]);
    while at > 0 {
        let start = at.saturating_sub(block.len() as u64);
        let part = &mut block[..(at - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        for (n, _) in part.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            seen += 1;
            // The newline that ends the last line counts too.
            if seen > lines {
                return Ok(start + n as u64 + 1);
            }
        }
        at = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, text).unwrap();
        text_of(&mut Reader::open(path, options).unwrap())
    }

    fn text_of(reader: &mut Reader) -> String {
        String::from_utf8(reader.pieces().unwrap().into_iter().flat_map(|(_, data)| data).collect()).unwrap()
    }

    #[test]
    fn streams_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "T stdout F a\nT stdout P b\nT stderr F c\nT stdout F d\n").unwrap();
        let pieces = Reader::open(path, Options::default()).unwrap().pieces().unwrap();
        assert_eq!(pieces, [(false, b"a\nb".to_vec()), (true, b"c\n".to_vec()), (false, b"d\n".to_vec())]);
    }

    #[test]
    fn a_log_that_is_turned_over_goes_on_in_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, older) = (dir.path().join("log"), dir.path().join("log.1"));
        fs::write(&path, "T stdout F 1\n").unwrap();
        let mut reader = Reader::open(path.clone(), Options::default()).unwrap();
        assert_eq!(text_of(&mut reader), "1\n");
        let turn = |text: &str| {
            fs::rename(&older, dir.path().join("log.2")).ok();
            fs::rename(&path, &older).unwrap();
            fs::write(&path, text).unwrap();
        };
        fs::write(&path, "T stdout F 1\nT stdout F 2\n").unwrap();
        turn("T stdout F 3\n");
        assert_eq!(text_of(&mut reader), "2\n3\n");
        turn("T stdout F 4\n");
        turn("T stdout F 5\n");
        assert_eq!(text_of(&mut reader), "4\n5\n");
        assert_eq!(text_of(&mut reader), "");
    }

    #[test]
    fn lines_are_selected_and_put_together() {
        let log = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr P two \n\
                   2026-01-01T00:00:03Z stderr F halves\n2026-01-01T00:00:04Z stdout F three\n2026-01-01T00:00:05Z std";
        let of = |options| read(log, options);
        assert_eq!(of(Options::default()), "one\ntwo halves\nthree\n");
        let since_time = "2026-01-01T00:00:04Z".parse().ok();
        assert_eq!(of(Options { since_time, ..Default::default() }), "three\n");
        assert_eq!(of(Options { limit_bytes: Some(5), ..Default::default() }), "one\nt");
        let stamped = of(Options { timestamps: true, ..Default::default() });
        assert!(stamped.ends_with("2026-01-01T00:00:02Z two halves\n2026-01-01T00:00:04Z three\n"));
        let whole = &log[..log.rfind("2026").unwrap()];
        assert_eq!(read(whole, Options { tail_lines: Some(1), ..Default::default() }), "three\n");
        assert_eq!(read(whole, Options { tail_lines: Some(0), ..Default::default() }), "");
        assert_eq!(read(whole, Options { tail_lines: Some(99), ..Default::default() }), "one\ntwo halves\nthree\n");
    }
}
