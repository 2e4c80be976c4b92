//! A watcher's end of the store: what it missed, then what happens.
use std::collections::VecDeque;

use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{Event, WATCH_QUEUE};

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The watcher did not keep up; it must list again.
    #[error("the watcher fell behind")]
    Lagged,
}

/// A stream of changes in revision order.
pub struct Watch {
    /// Changes between the asked-for revision and the moment of subscription.
    backlog: VecDeque<Event>,
    queue: mpsc::Receiver<Event>,
}

impl Watch {
    pub(super) fn new(backlog: VecDeque<Event>) -> (Self, mpsc::Sender<Event>) {
        let (sender, queue) = mpsc::channel(WATCH_QUEUE);
        (Self { backlog, queue }, sender)
    }

    /// The next change; waits for it. The store cuts off a watcher whose queue is full, which ends the watch.
    pub async fn next(&mut self) -> Result<Event, WatchError> {
        match self.backlog.pop_front() {
            Some(event) => Ok(event),
            None => self.queue.recv().await.ok_or(WatchError::Lagged),
        }
    }

    /// The next change if it is already there.
    pub fn try_next(&mut self) -> Result<Option<Event>, WatchError> {
        if let Some(event) = self.backlog.pop_front() {
            return Ok(Some(event));
        }
        match self.queue.try_recv() {
            Ok(event) => Ok(Some(event)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(WatchError::Lagged),
        }
    }
}
