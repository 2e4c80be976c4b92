//! One connection to a shim: requests out, answers and events in.
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, oneshot};

use super::step::Failure;
use super::types::{Error, Event, ExitStatus, Result, SandboxSpec};
use super::wire::{Answer, FromShim, MAX_ANSWER, Op, Request};
use crate::sys;

type Reply = (std::result::Result<Answer, Failure>, Vec<OwnedFd>);

/// A live connection; shared by everybody who talks to this sandbox.
pub(super) struct Conn {
    pub spec: SandboxSpec,
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    state: Mutex<State>,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Requests that have not been answered.
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    /// Exec sessions that have not ended, by the request that started them.
    execs: HashMap<u64, oneshot::Sender<ExitStatus>>,
}

impl Conn {
    /// Connect; a task of its own reads until the shim closes, and then says `SandboxDied`.
    pub(super) fn open(
        path: &Path,
        spec: SandboxSpec,
        events: broadcast::Sender<(String, Event)>,
    ) -> io::Result<Arc<Conn>> {
        let conn = Arc::new(Conn {
            spec,
            socket: sys::async_fd(sys::connect_packet(path)?)?,
            next: AtomicU64::new(1),
            state: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let reader = conn.clone();
        tokio::spawn(async move {
            let id = reader.spec.id.clone();
            if let Err(error) = reader.read(&events).await {
                tracing::debug!(sandbox = %id, %error, "connection to the shim ended");
            }
            reader.closed.store(true, Ordering::Release);
            // Whoever waits for an answer now gets none.
            *reader.state() = State::default();
            events.send((id, Event::SandboxDied)).ok(); // nobody listening is fine
        });
        Ok(conn)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Process id of the shim, as the kernel knows it.
    pub(super) fn shim_pid(&self) -> io::Result<i32> {
        sys::peer_cred(self.socket.get_ref().as_fd()).map(|c| c.pid)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; if somebody did, the maps are still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, events: &broadcast::Sender<(String, Event)>) -> io::Result<()> {
        let mut buffer = vec![0; MAX_ANSWER];
        loop {
            let packet = self
                .socket
                .async_io(tokio::io::Interest::READABLE, |s| sys::recv_packet(s.as_fd(), &mut buffer))
                .await?;
            if packet.len == 0 {
                return Ok(());
            }
            match serde_json::from_slice(&buffer[..packet.len])? {
                FromShim::Answer { id, answer } => {
                    if let Some(waiting) = self.state().waiting.remove(&id) {
                        waiting.send((answer, packet.fds)).ok(); // who asked has left
                    }
                }
                FromShim::Event(event) => {
                    events.send((self.spec.id.clone(), event)).ok(); // nobody listening is fine
                }
                FromShim::ExecExited { exec, status } => {
                    if let Some(waiting) = self.state().execs.remove(&exec) {
                        waiting.send(status).ok(); // the session was dropped
                    }
                }
            }
        }
    }

    /// Ask, and wait for the answer.
    pub(super) async fn ask(&self, op: Op, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>)> {
        self.ask_numbered(self.number(), op, fds).await
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Start an exec session: its number, the answer, and where its end will be told.
    pub(super) async fn ask_exec(
        &self,
        op: Op,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(u64, Vec<OwnedFd>, oneshot::Receiver<ExitStatus>)> {
        let id = self.number();
        let (sender, receiver) = oneshot::channel();
        // Before it is started: it may end before we hear that it has.
        self.state().execs.insert(id, sender);
        let answer = self.ask_numbered(id, op, fds).await;
        if answer.is_err() {
            self.state().execs.remove(&id);
        }
        Ok((id, answer?.1, receiver))
    }

    async fn ask_numbered(&self, id: u64, op: Op, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>)> {
        let (sender, receiver) = oneshot::channel();
        self.state().waiting.insert(id, sender);
        if !self.is_open() {
            return Err(Error::Gone(self.spec.id.clone()));
        }
        let starts = matches!(op, Op::Start(_) | Op::Exec(_));
        let bytes = serde_json::to_vec(&Request { id, op }).map_err(|e| Error::Invalid(e.to_string()))?;
        self.socket
            .async_io(tokio::io::Interest::WRITABLE, |s| sys::send_packet(s.as_fd(), &bytes, fds))
            .await
            .map_err(Error::io("talking to the shim"))?;
        match receiver.await {
            Ok((Ok(answer), fds)) => Ok((answer, fds)),
            Ok((Err(Failure { code, message }), _)) if starts => Err(Error::Start { code, message }),
            Ok((Err(failure), _)) => Err(Error::Shim(failure.message)),
            Err(_) => Err(Error::Gone(self.spec.id.clone())),
        }
    }

    /// Kill an exec session without waiting for anything.
    pub(super) fn abandon_exec(&self, exec: u64) {
        let (id, signal) = (self.number(), libc::SIGKILL);
        let request = Request { id, op: Op::KillExec { exec, signal } };
        let sent = serde_json::to_vec(&request)
            .map_err(io::Error::from)
            .and_then(|bytes| sys::send_packet(self.socket.get_ref().as_fd(), &bytes, &[]));
        if let Err(error) = sent {
            tracing::debug!(sandbox = %self.spec.id, %error, "could not end an exec session");
        }
    }
}
