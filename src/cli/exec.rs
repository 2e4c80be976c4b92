//! `coracle exec`: kubectl's exec, with a terminal when asked for.
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::{SinkExt, channel::mpsc::Sender, future::OptionFuture};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, TerminalSize};
use nix::sys::termios::{self, SetArg, Termios};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::door::Door;
use super::logs::{chosen, container, pods_behind};
use super::resource::Discovery;
use super::scope::{Files, duration};
use crate::api::meta;

/// Flags of `exec`.
#[derive(Args)]
pub struct Exec {
    /// POD or TYPE/NAME
    target: Option<String>,
    #[command(flatten)]
    files: Files,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Nothing but the command's own output
    #[arg(short, long)]
    quiet: bool,
    /// How long to wait for an object's first pod
    #[arg(long, default_value = "1m", value_parser = duration)]
    pod_running_timeout: std::time::Duration,
    /// The command, after --
    #[arg(last = true)]
    command: Vec<String>,
}

impl Exec {
    /// Runs it; the command's exit code.
    pub async fn run(self, door: &Door) -> Result<u8> {
        let pod = self.pod(door).await?;
        // One that was named is for the server to judge.
        let container = match self.container {
            Some(given) => given,
            None => container(&pod, None, !self.quiet)?,
        };
        let is_terminal = nix::unistd::isatty(0).unwrap_or(false);
        let tty = self.tty && is_terminal;
        if self.tty && !is_terminal {
            eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        let params = AttachParams {
            container: Some(container),
            stdin: self.stdin,
            stdout: true,
            stderr: !tty,
            tty,
            ..AttachParams::default()
        };
        let pods: Api<Pod> = Api::namespaced(door.client(), &self.namespace);
        let mut process = pods.exec(meta::name(&pod), &self.command, &params).await?;
        let raw = if tty { Some(Raw::enter()?) } else { None };
        if let Some(sizes) = process.terminal_size() {
            tokio::spawn(follow_size(sizes));
        }
        if let Some(stdin) = process.stdin() {
            tokio::spawn(copy(tokio::io::stdin(), stdin));
        }
        let status = process.take_status().context("the status was taken before")?;
        let out = process.stdout().map(|stdout| copy(stdout, tokio::io::stdout()));
        let err = process.stderr().map(|stderr| copy(stderr, tokio::io::stderr()));
        let both = futures::future::join(OptionFuture::from(out), OptionFuture::from(err));
        let ((out, err), status) = futures::future::join(both, status).await;
        drop(raw);
        out.transpose().and(err.transpose()).context("copying the output")?;
        exit_code(status)
    }

    async fn pod(&self, door: &Door) -> Result<Value> {
        ensure!(!self.command.is_empty(), "you must specify at least one command for the container");
        ensure!(!self.pod_running_timeout.is_zero(), "--pod-running-timeout must be higher than zero");
        let discovery = Discovery::load(door).await?;
        let item = match (&self.target, self.files.is_empty()) {
            (Some(target), _) => discovery.one(std::slice::from_ref(target), Some("pods"), &self.namespace)?,
            (None, true) => bail!("pod, type/name or --filename must be specified"),
            (None, false) => discovery.item(&self.files.read("")?[0], &self.namespace)?,
        };
        let pods = pods_behind(door, &item, self.pod_running_timeout, "attach to").await?;
        Ok(chosen(pods, false))
    }
}

/// Copies to the end, and ends the other side.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

fn exit_code(status: Option<Status>) -> Result<u8> {
    let Some(status) = status else { bail!("the connection ended before the command did") };
    let causes = status.details.into_iter().filter_map(|details| details.causes).flatten();
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message) {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(code.parse().unwrap_or(1))
        }
        None if status.status.as_deref() == Some("Success") => Ok(0),
        None => bail!("{}", status.message.unwrap_or_default()),
    }
}

/// Sends the terminal's size now and each time it changes.
async fn follow_size(mut sizes: Sender<TerminalSize>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((width, height)) = terminal_size::terminal_size()
            && sizes.send(TerminalSize { width: width.0, height: height.0 }).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The terminal in raw mode until dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Raw> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0) {
            eprintln!("the terminal stays raw ({error}); type: stty sane");
        }
    }
}
