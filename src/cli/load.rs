//! Requests in a loop while something else happens, counted.
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::guest;

/// Clients at once: enough that some request is always under way.
const CLIENTS: usize = 4;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Clients that ask until told to stop.
pub struct Load {
    /// Gone: the clients end.
    stop: Vec<Sender<()>>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What the clients saw.
#[derive(Default)]
pub struct Seen {
    /// Requests sent.
    pub answered: usize,
    /// What went wrong, one entry a failed request.
    pub failed: Vec<String>,
}

impl Load {
    /// Starts asking the URLs in turn, a new connection each time. Each client rests for as long as the answer took: on
    /// a machine without a core to spare, clients that never rest starve the cluster whose work they watch, and its
    /// probes.
    pub fn start(urls: Vec<String>) -> Load {
        let client = |number: usize| {
            let ((stop, stopped), urls) = (mpsc::channel(), urls.clone());
            (stop, thread::spawn(move || ask(&urls, number, &stopped)))
        };
        let (stop, clients) = (0..CLIENTS).map(client).unzip();
        Load { stop, clients }
    }

    /// Ends the clients after the request each is at.
    pub fn stop(self) -> Seen {
        drop(self.stop);
        let mut all = Seen::default();
        for client in self.clients {
            match client.join() {
                Ok(seen) => {
                    all.answered += seen.answered;
                    all.failed.extend(seen.failed);
                }
                Err(_) => all.failed.push("a client panicked".into()),
            }
        }
        all
    }
}

fn ask(urls: &[String], first: usize, stop: &Receiver<()>) -> Seen {
    let mut seen = Seen::default();
    for url in urls.iter().cycle().skip(first) {
        seen.answered += 1;
        let begun = Instant::now();
        match guest::get(url, TIMEOUT) {
            Ok((200, _)) => {}
            Ok((status, _)) => seen.failed.push(format!("{url} answered {status}")),
            Err(error) => seen.failed.push(format!("{error:#}")),
        }
        if stop.recv_timeout(begun.elapsed()) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    seen
}
