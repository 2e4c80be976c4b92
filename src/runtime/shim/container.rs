//! One container as its shim sees it: its process, its streams, its record on disk.
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::log::{Lines, Log};
use crate::runtime::cgroup::keyed;
use crate::runtime::types::{ContainerState, ExitRecord};
use crate::runtime::wire::Start;

/// Read from a stream at once; also what a pipe holds by default.
const CHUNK: usize = 16 << 10;

/// What a container writes, on its way to the log.
pub(super) struct Stream {
    pub fd: OwnedFd,
    lines: Lines,
}

/// A container, from its start to `Forget`.
pub(super) struct Container {
    pub start: Start,
    pub state: ContainerState,
    /// The init, until it is reaped.
    pub pidfd: Option<OwnedFd>,
    /// Standard output and error, or the terminal.
    pub streams: Vec<Option<Stream>>,
    /// The other end of its standard input.
    pub input: Option<OwnedFd>,
    /// Whether unfinished lines go to the log at once.
    attached: bool,
    log: Log,
}

/// Where a container's record is kept; also for readers after the shim's death.
pub(in crate::runtime) fn record_path(exits: &Path, name: &str, attempt: u32) -> PathBuf {
    exits.join(format!("{name}.{attempt}.json"))
}

impl Container {
    pub(super) fn new(start: Start, pid: i32, pidfd: OwnedFd) -> io::Result<Container> {
        Ok(Container {
            state: ContainerState {
                name: start.name.clone(),
                attempt: start.attempt,
                pid,
                bundle: start.bundle.clone(),
                started_at: Timestamp::now(),
                exit: None,
            },
            log: Log::open(&start.log)?,
            pidfd: Some(pidfd),
            streams: Vec::new(),
            input: None,
            attached: false,
            start,
        })
    }

    /// Have `fd` read into the log as `stream`.
    pub(super) fn add_stream(&mut self, fd: OwnedFd, stream: &'static str) {
        let lines = Lines::new(stream);
        self.streams.push(Some(Stream { fd, lines }));
    }

    /// Move what is there to the log. The stream is dropped at its end. True: come again when there is more.
    pub(super) fn pump(&mut self, index: usize) -> bool {
        let Some(Some(stream)) = self.streams.get_mut(index) else {
            return false;
        };
        let (mut buffer, mut out) = ([0; CHUNK], Vec::new());
        let now = Timestamp::now();
        let open = match read(stream.fd.as_fd(), &mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                stream.lines.push(now, &buffer[..n], &mut out);
                if self.attached {
                    stream.lines.flush(now, &mut out);
                }
                true
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            // A terminal whose last user is gone says EIO.
            Err(_) => false,
        };
        if !open {
            stream.lines.finish(now, &mut out);
            self.streams[index] = None;
        }
        self.write(&out);
        open
    }

    /// A full disk loses lines, not the container; whoever reads stderr may know.
    fn write(&mut self, out: &[u8]) {
        if let Err(error) = self.log.write(out) {
            note!("{}: {error}", self.start.log.display());
        }
    }

    /// From now on somebody reads along. Returns an end of the input; with `take`, a pipe's only one.
    pub(super) fn attach(&mut self, take: bool) -> io::Result<Option<OwnedFd>> {
        let (now, mut out) = (Timestamp::now(), Vec::new());
        self.streams.iter_mut().flatten().for_each(|stream| stream.lines.flush(now, &mut out));
        self.write(&out);
        self.attached = true;
        match take && !self.start.tty {
            true => Ok(self.input.take()),
            false => self.input.as_ref().map(OwnedFd::try_clone).transpose(),
        }
    }

    /// Init is gone: empty the streams (nobody is left to write, so this ends) and close them.
    pub(super) fn drain(&mut self) {
        for index in 0..self.streams.len() {
            while self.ready(index) && self.pump(index) {}
            if let Some(mut stream) = self.streams[index].take() {
                let mut out = Vec::new();
                stream.lines.finish(Timestamp::now(), &mut out);
                self.write(&out);
            }
        }
        self.input = None;
    }

    fn ready(&self, index: usize) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(Some(stream)) = self.streams.get(index) else {
            return false;
        };
        let mut fds = [PollFd::new(stream.fd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
    }

    /// Kill what init left behind where no pid namespace does.
    pub(super) fn kill_rest(&self) {
        let Some(procs) = &self.start.procs else {
            return;
        };
        let pids = fs::read_to_string(procs).unwrap_or_default();
        for pid in pids.lines().filter_map(|l| l.parse::<i32>().ok()) {
            let killed = crate::sys::pidfd_open(pid).and_then(|p| crate::sys::pidfd_signal(p.as_fd(), libc::SIGKILL));
            if let Err(error) = killed
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                note!("killing {pid}: {error}");
            }
        }
    }

    /// Note how it ended.
    pub(super) fn ended(&mut self, code: i32, signal: Option<i32>) -> ExitRecord {
        self.pidfd = None;
        let kills = self.start.oom.as_ref().map(fs::read_to_string);
        let kills = kills.map_or(0, |text| keyed(&text.unwrap_or_default(), "oom_kill"));
        let record = ExitRecord {
            name: self.state.name.clone(),
            attempt: self.state.attempt,
            code,
            signal,
            oom_killed: kills > 0 && code != 0,
            known: true,
            started_at: self.state.started_at,
            finished_at: Timestamp::now(),
        };
        self.state.exit = Some(record.clone());
        record
    }

    /// Write the state to disk: whole or not at all. Not synced: what a power cut could take is a record of processes
    /// that the power cut has ended.
    pub(super) fn save(&self, exits: &Path) -> io::Result<()> {
        let path = record_path(exits, &self.state.name, self.state.attempt);
        let draft = path.with_extension("tmp");
        fs::write(&draft, serde_json::to_vec(&self.state)?)?;
        fs::rename(draft, path)
    }
}

fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match nix::unistd::read(std::os::fd::AsRawFd::as_raw_fd(&fd), buffer) {
            Err(nix::Error::EINTR) => continue,
            other => return other.map_err(Into::into),
        }
    }
}
