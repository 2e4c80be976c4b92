//! Exec and attach sessions as the daemon sees them.
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::conn::Conn;
use super::types::{Error, ExitStatus, Result};
use super::wire::Op;
use crate::sys;

/// How long a program's streams may stay open after it has ended.
const DRAIN: Duration = Duration::from_millis(100);

/// A running exec session. Dropping it kills the program.
pub struct Exec {
    /// Its standard input, if one was asked for (with a terminal: the keyboard). Taking and dropping it closes it.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output (with a terminal: everything).
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    terminal: Option<Terminal>,
    conn: Arc<Conn>,
    id: u64,
    end: oneshot::Receiver<ExitStatus>,
    ended: Option<ExitStatus>,
}

/// Sets the size of a session's terminal from wherever.
#[derive(Clone)]
pub struct Resizer(Option<Terminal>);

impl Resizer {
    /// Columns, rows. Nothing happens without a terminal.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        match &self.0 {
            Some(terminal) => {
                sys::set_size(terminal.0.get_ref().as_fd(), cols, rows).map_err(Error::io("resizing the terminal"))
            }
            None => Ok(()),
        }
    }
}

impl Exec {
    /// Tell the terminal its size (columns, rows). Nothing happens without one.
    pub fn resize(&self, cols: u16, rows: u16) -> Result<()> {
        self.resizer().resize(cols, rows)
    }

    /// A handle for `resize` while the session itself is waited for.
    pub fn resizer(&self) -> Resizer {
        Resizer(self.terminal.clone())
    }

    /// Wait for the program to end. Its streams may hold more to read. Can be called again, and dropped while waiting.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = (&mut self.end).await;
        let status = status.map_err(|_| Error::Gone(self.conn.spec.id.clone()))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Wait for the end while collecting what it says; each stream is cut at `limit` bytes (the rest is read and dropped).
    pub(super) async fn collect(mut self, timeout: Duration, limit: usize) -> Result<ExecOutput> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = std::mem::replace(&mut self.stdout, Box::new(tokio::io::empty()));
        let mut err = self.stderr.take().unwrap_or(Box::new(tokio::io::empty()));
        let status = {
            let reading = async {
                tokio::join!(read_up_to(&mut out, &mut stdout, limit), read_up_to(&mut err, &mut stderr, limit))
            };
            tokio::pin!(reading);
            let (mut said_all, deadline) = (false, tokio::time::Instant::now() + timeout);
            let status = loop {
                tokio::select! {
                    status = self.wait() => break status?,
                    _ = &mut reading, if !said_all => said_all = true,
                    _ = tokio::time::sleep_until(deadline) => return Err(Error::Timeout(timeout)),
                }
            };
            // What it wrote is in the pipes by now. A child of it may keep them open; that is not waited for to the end.
            if !said_all {
                tokio::time::timeout(DRAIN, reading).await.ok();
            }
            status
        };
        Ok(ExecOutput { status, stdout, stderr })
    }
}

async fn read_up_to(from: &mut (dyn AsyncRead + Send + Unpin), into: &mut Vec<u8>, limit: usize) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = limit.saturating_sub(into.len()).min(n);
        into.extend_from_slice(&buffer[..room]);
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if self.ended.is_none() && self.end.try_recv().is_err() {
            self.conn.abandon_exec(self.id);
        }
    }
}

/// A running container's input. Its output is its log.
pub struct Attached {
    /// Which attempt at running the container it is.
    pub attempt: u32,
    /// Its standard input (with a terminal: the keyboard), if it has one that has not been taken.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Sets the size of its terminal.
    pub resizer: Resizer,
}

impl Attached {
    pub(super) fn new(attempt: u32, input: Option<OwnedFd>) -> io::Result<Attached> {
        let (mut stdin, mut resizer) = (None, Resizer(None));
        match input {
            Some(fd) if fd.is_terminal() => {
                let terminal = Terminal::new(fd)?;
                stdin = Some(Box::new(terminal.clone()) as _);
                resizer = Resizer(Some(terminal));
            }
            Some(fd) => stdin = Some(Box::new(pipe::Sender::from_owned_fd(fd)?) as _),
            None => {}
        }
        Ok(Attached { attempt, stdin, resizer })
    }
}

/// What a command run to its end said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, cut at the limit.
    pub stdout: Vec<u8>,
    /// Standard error, cut at the limit.
    pub stderr: Vec<u8>,
}

/// The watching side of a terminal.
#[derive(Clone)]
pub(super) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> io::Result<Terminal> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let raw = std::os::fd::AsRawFd::as_raw_fd(&master);
        fcntl(raw, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        Ok(Terminal(Arc::new(sys::async_fd(master)?)))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            let raw = |fd: &AsyncFd<OwnedFd>| std::os::fd::AsRawFd::as_raw_fd(fd.get_ref());
            match guard.try_io(|fd| Ok(nix::unistd::read(raw(fd), space)?)) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The last user of the terminal is gone: that is the end of the stream.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => continue,
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Start a session on three pipes.
pub(super) async fn on_pipes(conn: Arc<Conn>, op: Op, mut fds: Vec<BorrowedFd<'_>>, stdin: bool) -> Result<Exec> {
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| Error::io("pipe")(e.into()));
    let ((in_end, in_), (out, out_end), (err, err_end)) = (pipe()?, pipe()?, pipe()?);
    let null = File::open("/dev/null").map_err(Error::io("/dev/null"))?;
    let input = if stdin { in_end.as_fd() } else { null.as_fd() };
    fds.extend([input, out_end.as_fd(), err_end.as_fd()]);
    let (id, _, end) = conn.ask_exec(op, &fds).await?;
    let reader = |fd| pipe::Receiver::from_owned_fd(fd).map_err(Error::io("pipe"));
    let stdin = match stdin {
        true => Some(pipe::Sender::from_owned_fd(in_).map_err(Error::io("pipe"))?),
        false => None,
    };
    Ok(Exec {
        stdin: stdin.map(|s| Box::new(s) as _),
        stdout: Box::new(reader(out)?),
        stderr: Some(Box::new(reader(err)?)),
        terminal: None,
        conn,
        id,
        end,
        ended: None,
    })
}

/// Start a session on a terminal.
pub(super) async fn on_terminal(conn: Arc<Conn>, op: Op, fds: Vec<BorrowedFd<'_>>, stdin: bool) -> Result<Exec> {
    let (id, given, end) = conn.ask_exec(op, &fds).await?;
    let master = given.into_iter().next();
    let master = master.ok_or_else(|| Error::Shim("the program has no terminal".into()))?;
    let terminal = Terminal::new(master).map_err(Error::io("terminal"))?;
    Ok(Exec {
        stdin: stdin.then(|| Box::new(terminal.clone()) as _),
        stdout: Box::new(terminal.clone()),
        stderr: None,
        terminal: Some(terminal),
        conn,
        id,
        end,
        ended: None,
    })
}
