//! The shim's loop: connections, requests, and what happens to processes.
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::container::{Container, record_path};
use crate::runtime::step::Failure;
use crate::runtime::types::Event;
use crate::runtime::wire::*;
use crate::sys;

/// Events taken from the kernel at once.
const BATCH: usize = 16;

/// What a descriptor in the epoll set means.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Listener,
    Client,
    /// A stream of a container, by number.
    Stream(u64, usize),
    /// A process on its way to its program.
    Pair(u64),
    /// A process that will end.
    Exit(u64),
}

/// Whose process it is.
pub(super) enum Role {
    Container(Box<Container>),
    /// Bound to its client: killed when that goes.
    Exec,
}

/// Something started and not yet forgotten.
pub(super) struct Task {
    pub role: Role,
    pub pidfd: Option<OwnedFd>,
    pub pair: Option<OwnedFd>,
    /// The connection and the request that started it; the former 0 when it has gone.
    pub client: u64,
    pub request: u64,
    pub pid: i32,
    /// Why it never became its program.
    pub failure: Option<Failure>,
    pub notes: Vec<String>,
    pub terminal: Option<OwnedFd>,
}

pub(super) struct Shim {
    pub(super) epoll: Epoll,
    pub(super) sources: BTreeMap<u64, Source>,
    /// Numbers for sources and tasks; never used twice.
    pub(super) next: u64,
    listener: OwnedFd,
    clients: BTreeMap<u64, OwnedFd>,
    pub(super) tasks: BTreeMap<u64, Task>,
    pub(super) exits: PathBuf,
    pub(super) set_up: Result<(), String>,
    /// The request to end, once there is one.
    pub(super) quitting: Option<(u64, u64)>,
    done: bool,
}

impl Shim {
    pub(super) fn new(listener: OwnedFd, exits: PathBuf, set_up: Result<(), String>) -> io::Result<Shim> {
        let mut shim = Shim {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sources: BTreeMap::new(),
            next: 1,
            listener,
            clients: BTreeMap::new(),
            tasks: BTreeMap::new(),
            exits,
            set_up,
            quitting: None,
            done: false,
        };
        let token = shim.watch(Source::Listener);
        add(&shim.epoll, shim.listener.as_fd(), token)?;
        Ok(shim)
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut tidy = false;
        while !self.done {
            let mut events = [EpollEvent::empty(); BATCH];
            // After a burst of work, give memory back; then sleep for good.
            let timeout = if tidy { TIDY_AFTER.into() } else { EpollTimeout::NONE };
            let n = match self.epoll.wait(&mut events, timeout) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            if n == 0 {
                sys::give_back_pages()?;
                tidy = false;
                continue;
            }
            for event in &events[..n] {
                if let Some(source) = self.sources.get(&event.data()).copied() {
                    tidy |= !matches!(source, Source::Stream(..));
                    self.handle(event.data(), source);
                }
            }
            self.finish_quitting();
        }
        Ok(())
    }

    fn handle(&mut self, token: u64, source: Source) {
        match source {
            Source::Listener => {
                if let Err(error) = self.accept() {
                    note!("accept: {error}");
                }
            }
            Source::Client => self.client(token),
            Source::Stream(task, index) => self.stream(token, task, index),
            Source::Pair(task) => self.pair(token, task),
            Source::Exit(task) => self.ended(token, task),
        }
    }

    pub(super) fn watch(&mut self, source: Source) -> u64 {
        let token = self.next;
        self.next += 1;
        self.sources.insert(token, source);
        token
    }

    fn accept(&mut self) -> io::Result<()> {
        let socket = sys::accept_packet(self.listener.as_fd())?;
        if sys::peer_cred(socket.as_fd())?.uid != 0 {
            return Ok(()); // only root may look into a pod
        }
        let token = self.watch(Source::Client);
        add(&self.epoll, socket.as_fd(), token)?;
        self.clients.insert(token, socket);
        Ok(())
    }

    fn client(&mut self, token: u64) {
        let mut buffer = [0; MAX_REQUEST];
        let Some(socket) = self.clients.get(&token) else {
            return;
        };
        let packet = match sys::recv_packet(socket.as_fd(), &mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            other => other,
        };
        let request = packet.and_then(|packet| {
            let request: Request = serde_json::from_slice(&buffer[..packet.len])?;
            Ok((request, packet.fds))
        });
        match request {
            Ok((request, fds)) => self.request(token, request, fds),
            Err(_) => self.hang_up(token), // closed, or not speaking our language
        }
    }

    /// A connection has ended, and with it the exec sessions it asked for.
    fn hang_up(&mut self, token: u64) {
        self.clients.remove(&token);
        self.sources.remove(&token);
        for task in self.tasks.values_mut().filter(|t| t.client == token) {
            task.client = 0;
            if let (Role::Exec, Some(pidfd)) = (&task.role, &task.pidfd) {
                report(sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL));
            }
        }
    }

    pub(super) fn send(&mut self, client: u64, message: &FromShim, fds: &[BorrowedFd<'_>]) {
        let Some(socket) = self.clients.get(&client) else {
            return;
        };
        let sent = serde_json::to_vec(message)
            .map_err(io::Error::from)
            .and_then(|bytes| sys::send_packet(socket.as_fd(), &bytes, fds));
        // Who does not read is hung up on, and asks again from the start when it connects anew: nothing is queued here.
        if sent.is_err() {
            self.hang_up(client);
        }
    }

    pub(super) fn answer(&mut self, client: u64, id: u64, answer: Result<Answer, Failure>) {
        self.send(client, &FromShim::Answer { id, answer }, &[]);
    }

    pub(super) fn broadcast(&mut self, event: Event) {
        let message = FromShim::Event(event);
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        for client in clients {
            self.send(client, &message, &[]);
        }
    }

    fn request(&mut self, client: u64, request: Request, fds: Vec<OwnedFd>) {
        let id = request.id;
        let outcome = match request.op {
            Op::Hello => self.hello().map(Some),
            Op::Kill { name, signal } => self.kill(&name, signal).map(Some),
            Op::Forget { name, attempt } => self.forget(&name, attempt).map(Some),
            Op::KillExec { exec, signal } => self.kill_exec(client, exec, signal).map(Some),
            Op::Attach { name, take } => self.attach(&name, take).map(|input| {
                let fds: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
                self.send(client, &FromShim::Answer { id, answer: Ok(Answer::Done) }, &fds);
                None
            }),
            // These are answered when it has happened.
            Op::Start(start) => self.start(client, id, start, fds).map(|()| None),
            Op::Exec(exec) => self.exec(client, id, exec, fds).map(|()| None),
            Op::Quit => {
                self.quitting = Some((client, id));
                self.kill_all();
                Ok(None)
            }
        };
        match outcome {
            Ok(Some(answer)) => self.answer(client, id, Ok(answer)),
            Ok(None) => {}
            Err(failure) => self.answer(client, id, Err(failure)),
        }
    }

    fn hello(&self) -> Result<Answer, Failure> {
        if let Err(message) = &self.set_up {
            return Err(no(message.clone()));
        }
        let containers = self.tasks.values().filter_map(|t| match &t.role {
            Role::Container(c) if t.pair.is_none() && t.failure.is_none() => Some(c.state.clone()),
            _ => None,
        });
        Ok(Answer::State { pid: std::process::id() as i32, containers: containers.collect() })
    }

    pub(super) fn running(&self, name: &str) -> Option<&Container> {
        self.tasks.values().find_map(|t| match &t.role {
            Role::Container(c) if c.start.name == name && c.pidfd.is_some() => Some(&**c),
            _ => None,
        })
    }

    fn kill(&self, name: &str, signal: i32) -> Result<Answer, Failure> {
        if let Some(pidfd) = self.running(name).and_then(|c| c.pidfd.as_ref()) {
            sys::pidfd_signal(pidfd.as_fd(), signal).or_else(gone_is_fine).map_err(failed)?;
        }
        Ok(Answer::Done)
    }

    fn kill_exec(&self, client: u64, exec: u64, signal: i32) -> Result<Answer, Failure> {
        let mine = |t: &&Task| t.client == client && t.request == exec;
        let task = self.tasks.values().find(mine);
        if let Some(pidfd) = task.and_then(|t| t.pidfd.as_ref()) {
            sys::pidfd_signal(pidfd.as_fd(), signal).or_else(gone_is_fine).map_err(failed)?;
        }
        Ok(Answer::Done)
    }

    fn attach(&mut self, name: &str, take: bool) -> Result<Option<OwnedFd>, Failure> {
        let container = self.tasks.values_mut().find_map(|task| match &mut task.role {
            Role::Container(c) if c.start.name == name && c.pidfd.is_some() => Some(c),
            _ => None,
        });
        container.ok_or_else(|| no(format!("{name} is not running")))?.attach(take).map_err(failed)
    }

    fn forget(&mut self, name: &str, attempt: u32) -> Result<Answer, Failure> {
        let found = self.tasks.iter().find_map(|(id, t)| match &t.role {
            Role::Container(c) if c.start.name == name && c.start.attempt == attempt => Some((*id, c.pidfd.is_some())),
            _ => None,
        });
        match found {
            Some((_, true)) => Err(no(format!("{name} is running"))),
            Some((id, false)) => {
                self.tasks.remove(&id);
                remove_file(&record_path(&self.exits, name, attempt)).map_err(failed)?;
                Ok(Answer::Done)
            }
            None => Ok(Answer::Done),
        }
    }

    fn kill_all(&self) {
        for pidfd in self.tasks.values().filter_map(|t| t.pidfd.as_ref()) {
            report(sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL).or_else(gone_is_fine));
        }
    }

    fn finish_quitting(&mut self) {
        if let Some((client, id)) = self.quitting
            && self.tasks.values().all(|t| t.pidfd.is_none())
        {
            self.answer(client, id, Ok(Answer::Done));
            self.done = true;
        }
    }
}

/// Milliseconds without a request until memory is given back: long enough not to do it between two of a burst.
const TIDY_AFTER: u16 = 1000;

pub(super) fn add(epoll: &Epoll, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
    Ok(epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
}

pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

pub(super) fn no(message: impl Into<String>) -> Failure {
    Failure { code: 128, message: message.into() }
}

pub(super) fn failed(error: io::Error) -> Failure {
    no(error.to_string())
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ESRCH) => Ok(()),
        _ => Err(error),
    }
}

fn remove_file(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// There is nobody to return this to; it goes to the pod's shim log.
pub(super) fn report(result: io::Result<()>) {
    if let Err(error) = result {
        note!("shim: {error}");
    }
}
