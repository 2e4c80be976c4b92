//! What becomes of processes: started, its program, ended.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::container::Container;
use super::launch::{Launch, Launched};
use super::server::{Role, Shim, Source, Task, add, failed, no, pipe, report};
use crate::runtime::step::Failure;
use crate::runtime::types::{Event, ExitStatus};
use crate::runtime::wire::*;
use crate::sys;

impl Shim {
    pub(super) fn start(&mut self, client: u64, id: u64, start: Start, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        self.set_up.clone().map_err(no)?;
        if self.running(&start.name).is_some() || self.quitting.is_some() {
            return Err(no(format!("{} is running already", start.name)));
        }
        let mut fds = fds.into_iter();
        let plan = fds.next().ok_or_else(|| no("no plan"))?;
        let seccomp = if start.seccomp { fds.next() } else { None };
        let (task, launched) = self.launch_container(start, &plan, seccomp.as_ref()).map_err(failed)?;
        self.adopt(client, id, Role::Container(Box::new(task)), launched).map_err(failed)
    }

    fn launch_container(
        &self,
        start: Start,
        plan: &OwnedFd,
        seccomp: Option<&OwnedFd>,
    ) -> io::Result<(Container, Launched)> {
        let null = io::stdin();
        let null = null.as_fd();
        let launch = |stdio| {
            Launch {
                plan,
                seccomp,
                stdio,
                clone_flags: start.clone_flags,
                cgroup: start.cgroup.as_deref(),
                target: None,
            }
            .run()
        };
        if start.tty {
            let launched = launch([null; 3])?;
            let pidfd = launched.pidfd.try_clone()?;
            return Ok((Container::new(start, launched.pid, pidfd)?, launched));
        }
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let input = if start.stdin { Some(pipe()?) } else { None };
        let stdin = input.as_ref().map_or(null, |(read, _)| read.as_fd());
        let launched = launch([stdin, out_end.as_fd(), err_end.as_fd()])?;
        let pidfd = launched.pidfd.try_clone()?;
        let mut container = Container::new(start, launched.pid, pidfd)?;
        container.input = input.map(|(_, write)| write);
        container.add_stream(out, "stdout");
        container.add_stream(err, "stderr");
        Ok((container, launched))
    }

    pub(super) fn exec(&mut self, client: u64, id: u64, exec: ExecStart, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let container = self.running(&exec.container);
        let target = container
            .and_then(|c| c.pidfd.as_ref())
            .ok_or_else(|| no(format!("container {} is not running", exec.container)))?;
        let mut fds = fds.into_iter();
        let plan = fds.next().ok_or_else(|| no("no plan"))?;
        let seccomp = if exec.seccomp { fds.next() } else { None };
        let stdio: Vec<OwnedFd> = fds.collect();
        let null = io::stdin();
        let stream = |n: usize| stdio.get(n).map_or(null.as_fd(), AsFd::as_fd);
        let launched = Launch {
            plan: &plan,
            seccomp: seccomp.as_ref(),
            stdio: [stream(0), stream(1), stream(2)],
            clone_flags: 0,
            cgroup: exec.cgroup.as_deref(),
            target: Some(target.as_fd()),
        }
        .run()
        .map_err(failed)?;
        self.adopt(client, id, Role::Exec, launched).map_err(failed)
    }

    /// A fresh process: hear what it has to say.
    fn adopt(&mut self, client: u64, request: u64, role: Role, launched: Launched) -> io::Result<()> {
        let id = self.watch_task(Source::Pair);
        add(&self.epoll, launched.pair.as_fd(), id)?;
        self.tasks.insert(
            id,
            Task {
                role,
                pidfd: Some(launched.pidfd),
                pair: Some(launched.pair),
                client,
                request,
                pid: launched.pid,
                failure: None,
                notes: Vec::new(),
                terminal: None,
            },
        );
        Ok(())
    }

    /// A source whose number is its task's.
    fn watch_task(&mut self, source: impl Fn(u64) -> Source) -> u64 {
        let id = self.next;
        self.watch(source(id))
    }

    pub(super) fn pair(&mut self, token: u64, id: u64) {
        let mut buffer = [0; MAX_REQUEST];
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(pair) = &task.pair else { return };
        let packet = match sys::recv_packet(pair.as_fd(), &mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
            Ok(packet) if packet.len > 0 => packet,
            _ => {
                task.pair = None;
                self.sources.remove(&token);
                return self.became(id);
            }
        };
        match serde_json::from_slice(&buffer[..packet.len]) {
            Ok(FromChild::Note(note)) => task.notes.push(note),
            Ok(FromChild::Terminal) => task.terminal = packet.fds.into_iter().next(),
            Ok(FromChild::Failed(failure)) => task.failure = Some(failure),
            Err(error) => note!("message of a fresh process: {error}"),
        }
    }

    /// A process is its program now, or has failed and is about to end.
    fn became(&mut self, id: u64) {
        let token = self.watch(Source::Exit(id));
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if let Some(pidfd) = &task.pidfd {
            report(add(&self.epoll, pidfd.as_fd(), token));
        }
        if task.failure.is_some() {
            return; // answered when it is reaped, so that nothing of it is left then
        }
        let (client, request) = (task.client, task.request);
        let answer = Ok(Answer::Started { pid: task.pid, notes: std::mem::take(&mut task.notes) });
        let terminal = task.terminal.take();
        let mut event = None;
        if let Role::Container(container) = &mut task.role {
            report(container.save(&self.exits));
            let state = &container.state;
            event = Some(Event::Started {
                name: state.name.clone(),
                attempt: state.attempt,
                pid: state.pid,
                at: state.started_at,
            });
            if let Some(terminal) = terminal {
                container.input = terminal.try_clone().ok();
                container.add_stream(terminal, "stdout");
            }
            self.watch_streams(id);
            self.answer(client, request, answer);
        } else {
            let fds: Vec<BorrowedFd<'_>> = terminal.iter().map(AsFd::as_fd).collect();
            let id = request;
            self.send(client, &FromShim::Answer { id, answer }, &fds);
        }
        if let Some(event) = event {
            self.broadcast(event);
        }
    }

    fn watch_streams(&mut self, id: u64) {
        let count = match self.tasks.get(&id).map(|t| &t.role) {
            Some(Role::Container(c)) => c.streams.len(),
            _ => 0,
        };
        for index in 0..count {
            let token = self.watch(Source::Stream(id, index));
            if let Some(Role::Container(c)) = self.tasks.get(&id).map(|t| &t.role)
                && let Some(Some(stream)) = c.streams.get(index)
            {
                report(add(&self.epoll, stream.fd.as_fd(), token));
            }
        }
    }

    pub(super) fn stream(&mut self, token: u64, id: u64, index: usize) {
        let open = match self.tasks.get_mut(&id).map(|t| &mut t.role) {
            Some(Role::Container(c)) => c.pump(index),
            _ => false,
        };
        if !open {
            self.sources.remove(&token);
        }
    }

    pub(super) fn ended(&mut self, token: u64, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(pidfd) = &task.pidfd else { return };
        let (code, signal) = match sys::reap(pidfd.as_fd()) {
            Ok(None) => return,
            Ok(Some(status)) => status,
            Err(error) => return note!("reaping {}: {error}", task.pid),
        };
        task.pidfd = None;
        self.sources.remove(&token);
        let (client, request) = (task.client, task.request);
        if let Some(failure) = task.failure.take() {
            self.tasks.remove(&id);
            return self.answer(client, request, Err(failure));
        }
        match &mut task.role {
            Role::Container(container) => {
                container.kill_rest();
                container.drain();
                let record = container.ended(code, signal);
                report(container.save(&self.exits));
                self.broadcast(Event::Exited(record));
            }
            Role::Exec => {
                self.tasks.remove(&id);
                let status = ExitStatus { code, signal };
                let exec = request;
                self.send(client, &FromShim::ExecExited { exec, status }, &[]);
            }
        }
    }
}
