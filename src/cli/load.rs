//! Requests in a loop while something else happens, counted.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::guest;

/// Clients at once: enough that some request is always under way.
const CLIENTS: usize = 4;
/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Clients that ask until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
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
    /// Starts asking the URLs in turn, a new connection each time.
    pub fn start(urls: Vec<String>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: usize| {
            let (stop, urls) = (stop.clone(), urls.clone());
            thread::spawn(move || ask(&urls, number, &stop))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { stop, clients }
    }

    /// Ends the clients after the request each is at.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
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

fn ask(urls: &[String], first: usize, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    for url in urls.iter().cycle().skip(first) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        seen.answered += 1;
        match guest::get(url, TIMEOUT) {
            Ok((200, _)) => {}
            Ok((status, _)) => seen.failed.push(format!("{url} answered {status}")),
            Err(error) => seen.failed.push(format!("{error:#}")),
        }
    }
    seen
}
