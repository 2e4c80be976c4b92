//! Container output as CRI log files.
//!
//! ```text
//!   2026-11-21T06:26:08.123456789Z stdout F a whole line
//!   2026-11-21T06:26:08.123456789Z stderr P the first 16 KiB of a longer one
//! ```
//! A file that has grown to [`MAX_SIZE`] becomes `<log>.1`, the one before it `<log>.2`, and so on: who follows a log sees
//! the name refer to another inode.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// A longer line is cut into parts marked `P`, as the CRI does: a reader's buffer is bounded.
const MAX_LINE: usize = 16 << 10;
/// The kubelet's defaults: `containerLogMaxSize`, `containerLogMaxFiles`.
const MAX_SIZE: u64 = 10 << 20;
const MAX_FILES: u32 = 5;

/// Cuts one stream into lines.
pub(super) struct Lines {
    stream: &'static str,
    /// The beginning of a line whose end has not come yet; shorter than `MAX_LINE`.
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: &'static str) -> Lines {
        let rest = Vec::new();
        Lines { stream, rest }
    }

    /// Append to `out` what can be said after `data` has come in.
    pub(super) fn push(&mut self, now: Timestamp, mut data: &[u8], out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let end = data.iter().take(room).position(|b| *b == b'\n');
            let (part, full, used) = match end {
                Some(at) => (&data[..at], true, at + 1),
                None if data.len() >= room => (&data[..room], false, room),
                None => {
                    self.rest.extend_from_slice(data);
                    return;
                }
            };
            entry(out, now, self.stream, full, &[&self.rest, part]);
            self.rest.clear();
            data = &data[used..];
        }
        self.rest.shrink_to(0);
    }

    /// Append the part of a line that is there: somebody waits for it.
    pub(super) fn flush(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            entry(out, now, self.stream, false, &[&self.rest]);
            self.rest.clear();
        }
    }

    /// The stream has ended: its last line may lack its end.
    pub(super) fn finish(&mut self, now: Timestamp, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            entry(out, now, self.stream, true, &[&self.rest]);
            self.rest = Vec::new();
        }
    }
}

fn entry(out: &mut Vec<u8>, now: Timestamp, stream: &str, full: bool, parts: &[&[u8]]) {
    let tag = if full { 'F' } else { 'P' };
    // Writing to a Vec cannot fail.
    write!(out, "{now:.9} {stream} {tag} ").expect("memory is not a file");
    parts.iter().for_each(|p| out.extend_from_slice(p));
    out.push(b'\n');
}

/// A log file that is turned over when it is full.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Log> {
        Log::with_limit(path, MAX_SIZE)
    }

    fn with_limit(path: &Path, max_size: u64) -> io::Result<Log> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Log { path: path.to_owned(), size: file.metadata()?.len(), file, max_size })
    }

    /// Append whole entries.
    pub(super) fn write(&mut self, entries: &[u8]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if self.size + entries.len() as u64 > self.max_size && self.size > 0 {
            self.turn_over()?;
        }
        self.file.write_all(entries)?;
        self.size += entries.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let all: Vec<PathBuf> = files(&self.path).collect();
        for pair in all.windows(2).rev() {
            rename_if_there(&pair[0], &pair[1])?;
        }
        *self = Log::with_limit(&self.path, self.max_size)?;
        Ok(())
    }
}

/// The files of a log, newest first: the one that is written, and those that were full.
pub fn files(path: &Path) -> impl Iterator<Item = PathBuf> {
    let full = (1..MAX_FILES).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
    std::iter::once(path.to_owned()).chain(full)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(chunks: &[&[u8]]) -> String {
        let (mut lines, mut out) = (Lines::new("stdout"), Vec::new());
        let now = Timestamp::from_second(1).unwrap();
        chunks.iter().for_each(|c| lines.push(now, c, &mut out));
        lines.finish(now, &mut out);
        String::from_utf8(out).unwrap().replace("1970-01-01T00:00:01.000000000Z ", "")
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        assert_eq!(said(&[b"a\nb", b"c\n\n", b"end"]), "stdout F a\nstdout F bc\nstdout F \nstdout F end\n");
        let long = "x".repeat(MAX_LINE);
        assert_eq!(said(&[long.as_bytes(), b"yz\n"]), format!("stdout P {long}\nstdout F yz\n"));
        let (a, b) = long.as_bytes().split_at(100);
        // With somebody who waits, at once.
        let (mut lines, mut out) = (Lines::new("stdout"), Vec::new());
        lines.push(Timestamp::UNIX_EPOCH, b"a\n> ", &mut out);
        lines.flush(Timestamp::UNIX_EPOCH, &mut out);
        lines.flush(Timestamp::UNIX_EPOCH, &mut out);
        assert!(out.ends_with(b" stdout F a\n1970-01-01T00:00:00.000000000Z stdout P > \n"));
        assert_eq!(said(&[a, b, b"\n"]), format!("stdout P {long}\nstdout F \n"));
    }

    #[test]
    fn a_full_file_is_turned_over_and_the_oldest_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::with_limit(&path, 10).unwrap();
        for n in 0..9 {
            log.write(format!("entry {n}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            (read("0.log"), read("0.log.1"), read("0.log.4")),
            ("entry 8\n".into(), "entry 7\n".into(), "entry 4\n".into())
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), MAX_FILES as usize);
    }
}
