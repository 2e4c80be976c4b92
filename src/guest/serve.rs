//! `guest serve`: a small HTTP server that ends gracefully.
use std::io::{BufReader, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use super::http::{Request, answer};
use super::{inspect, term::Term};

/// Connections served at once; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 256;
/// A connection without a request for this long is closed, so that clients that vanished do not use up the above.
const IDLE: Duration = Duration::from_secs(60);
/// A handler needs a few buffers and no recursion.
const STACK: usize = 128 * 1024;
/// How long an answer that is being written may hold up the end.
const FINISH: Duration = Duration::from_secs(5);
/// The longest drain, unless more is asked for: a little less than the 30 s of grace that a pod has by default.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// The path that probes ask for.
const PROBE: &str = "/healthz";

/// Flags of `guest serve`.
#[derive(Args)]
pub struct Serve {
    /// Port to listen on, on every address
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The word after the hostname in an answer
    #[arg(long, default_value = "v1", env = "VERSION")]
    version: String,
    /// After SIGTERM, go on accepting until nobody but a probe has asked for this long, in milliseconds: the cluster has
    /// stopped sending
    #[arg(long, default_value_t = 5000)]
    drain_ms: u64,
}

/// What connections share with the accept loop.
struct Shared {
    version: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Open connections.
    open: usize,
    /// Requests read whose answer is not written yet.
    in_flight: usize,
    /// SIGTERM was seen: every answer closes its connection.
    draining: bool,
    /// When the last request came that was not a probe's.
    asked: Option<Instant>,
}

impl Shared {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        value
    }

    /// Waits until `ready` holds, at most for `time`.
    fn wait(&self, time: Duration, ready: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(state, time, |state| !ready(state)));
    }
}

impl Serve {
    /// Serves until SIGTERM, then drains.
    pub fn run(self) -> anyhow::Result<()> {
        let term = Term::block()?;
        // The unspecified IPv6 address takes IPv4 as well, but some hosts have IPv6 switched off.
        let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)))
            .or_else(|_| TcpListener::bind(("0.0.0.0", self.port)))
            .with_context(|| format!("listening on port {}", self.port))?;
        listener.set_nonblocking(true)?;
        println!("serving version {} on port {}", self.version, self.port);
        let shared = Arc::new(Shared { version: self.version, state: Mutex::default(), changed: Condvar::new() });

        accept_until(&listener, &shared, || Ok(!term.poll(Some(listener.as_fd()), None)?))?;
        println!("draining");
        shared.with(|state| state.draining = true);
        let (begun, drain) = (Instant::now(), Duration::from_millis(self.drain_ms));
        accept_until(&listener, &shared, || {
            let quiet_since = shared.with(|state| state.asked).map_or(begun, |asked| asked.max(begun));
            let end = (quiet_since + drain).min(begun + drain.max(DRAIN_MAX));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // Signals stay readable on their descriptor, so only the listener may wake this wait.
            super::term::readable(listener.as_fd(), left)?;
            Ok(true)
        })?;
        drop(listener);
        shared.wait(FINISH, |state| state.in_flight == 0);
        println!("done");
        Ok(())
    }
}

/// Accepts what waits each time `go_on` returns true.
fn accept_until(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    mut go_on: impl FnMut() -> nix::Result<bool>,
) -> anyhow::Result<()> {
    while go_on()? {
        shared.wait(IDLE, |state| state.open < CONNECTIONS_MAX);
        match listener.accept() {
            Ok((stream, _)) => {
                shared.with(|state| state.open += 1);
                let for_thread = shared.clone();
                let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
                    // A connection that breaks is the client's matter.
                    if let Err(error) = connection(&stream, &for_thread)
                        && !matches!(
                            error.kind(),
                            ErrorKind::WouldBlock | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                        )
                    {
                        eprintln!("connection: {error}");
                    }
                    for_thread.with(|state| state.open -= 1);
                });
                if let Err(error) = spawned {
                    shared.with(|state| state.open -= 1);
                    eprintln!("no thread for a connection: {error}");
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) => {}
            Err(error) => return Err(error).context("accepting"),
        }
    }
    Ok(())
}

fn connection(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::with_capacity(4096, stream);
    while let Some(request) = Request::read(&mut reader)? {
        let keep_alive = shared.with(|state| {
            state.in_flight += 1;
            if request.path != PROBE {
                state.asked = Some(Instant::now());
            }
            request.keep_alive && !state.draining
        });
        let done = respond(stream, &request, shared, keep_alive);
        shared.with(|state| state.in_flight -= 1);
        done?;
        if !keep_alive {
            break;
        }
    }
    Ok(())
}

fn respond(mut stream: &TcpStream, request: &Request, shared: &Shared, keep_alive: bool) -> std::io::Result<()> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const BIG: usize = 1 << 20;
    let peer = stream.peer_addr();
    let mut send = |status: &str, kind: &str, body: &[u8]| answer(&mut stream, status, kind, body, keep_alive);
    match request.path.as_str() {
        "/" => send("200 OK", TEXT, format!("{} {}\n", inspect::hostname(), shared.version).as_bytes()),
        PROBE => send("200 OK", TEXT, b"ok"),
        "/peer" => {
            // Whom we see: the client's own address, unless something translated it on the way.
            let address = peer.map(|a| a.ip().to_canonical().to_string());
            send("200 OK", TEXT, address.unwrap_or_default().as_bytes())
        }
        "/env" => {
            let mut lines: Vec<String> = std::env::vars_os()
                .map(|(k, v)| format!("{}={}\n", k.to_string_lossy(), v.to_string_lossy()))
                .collect();
            lines.sort();
            send("200 OK", TEXT, lines.concat().as_bytes())
        }
        "/big" => send("200 OK", TEXT, &vec![b'x'; request.number("bytes").unwrap_or(BIG).min(64 * BIG)]),
        "/inspect" => send("200 OK", "application/json", format!("{:#}\n", inspect::report()).as_bytes()),
        "/slow" => {
            thread::sleep(Duration::from_millis(request.number("ms").unwrap_or(1000)));
            send("200 OK", TEXT, b"slow\n")
        }
        "/exit" => {
            let code = request.number("code").unwrap_or(0);
            println!("asked to leave with {code}");
            send("200 OK", TEXT, b"bye\n")?;
            std::process::exit(code)
        }
        _ => send("404 Not Found", TEXT, b"not found\n"),
    }
}
