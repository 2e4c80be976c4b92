//! Waiting for more of a log: its directory changes (inotify), or its container ends (the runtime's event).
use super::logs::Source;
use crate::{
    node::{Node, changes::Changes},
    runtime::Event,
};
use nix::sys::inotify::AddWatchFlags;
use std::{io, sync::Arc};
use tokio::sync::broadcast::{Receiver, error::RecvError};

/// What may happen to one log.
pub struct News {
    changes: Changes,
    events: Receiver<(String, Event)>,
    node: Arc<Node>,
    uid: String,
    container: String,
    attempt: u32,
}

impl News {
    pub fn of(node: &Arc<Node>, source: &Source) -> io::Result<News> {
        let events = node.runtime.subscribe();
        // The directory, for a log that is full goes on in another file.
        let dir = source.path.parent().unwrap_or(&source.path);
        Ok(News {
            changes: Changes::of(dir, AddWatchFlags::IN_MODIFY)?,
            events,
            node: node.clone(),
            uid: source.uid.clone(),
            container: source.container.clone(),
            attempt: source.attempt,
        })
    }

    /// Whether nothing will be written any more.
    pub fn over(&self) -> bool {
        let running = self.node.pods.attempt(&self.uid, &self.container, self.attempt, |seen| seen.is_running());
        running != Some(true)
    }

    /// Returns when something may have happened.
    pub async fn wait(&mut self) {
        tokio::select! {
            // An error here shows up when the log is read.
            _ = self.changes.wait() => {}
            () = ended(&mut self.events, &self.uid, &self.container, self.attempt) => {
                // The node takes in the same event; once it has, `over` says so.
                while !self.over() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

async fn ended(events: &mut Receiver<(String, Event)>, uid: &str, container: &str, attempt: u32) {
    loop {
        match events.recv().await {
            Ok((id, Event::Exited(record))) if id == uid && record.name == container && record.attempt == attempt => {
                return;
            }
            Ok((id, Event::SandboxDied)) if id == uid => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_) | RecvError::Closed) => return,
        }
    }
}
