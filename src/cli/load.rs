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
    clients: Vec<JoinHandle<Vec<Answer>>>,
}

/// What came of one request; of a failed one what went wrong.
type Answer = Result<(), String>;

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

    /// Ends the clients after the request each is at; what they saw.
    pub fn stop(self) -> Vec<Answer> {
        drop(self.stop);
        let panicked = |_| vec![Err("a client panicked".into())];
        self.clients.into_iter().flat_map(|client| client.join().unwrap_or_else(panicked)).collect()
    }
}

fn ask(urls: &[String], first: usize, stop: &Receiver<()>) -> Vec<Answer> {
    let mut seen = Vec::new();
    for url in urls.iter().cycle().skip(first) {
        let begun = Instant::now();
        seen.push(match guest::get(url, TIMEOUT) {
            Ok((200, _)) => Ok(()),
            Ok((status, _)) => Err(format!("{url} answered {status}")),
            Err(error) => Err(format!("{error:#}")),
        });
        if stop.recv_timeout(begun.elapsed()) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    seen
}
