//! `kubectl attach`: a running container's log from now on, and its standard input.
//!
//! The shim writes everything a container says to its log and never waits for a reader, so the log is what a session
//! reads: nobody who is slow holds up a container, and a daemon that dies takes nothing along. Who falls behind by more
//! than the log keeps misses what is in between. Once somebody has attached, the shim writes unfinished lines too, for a
//! prompt is one.
use super::{
    Refused,
    exec::{is_not_running, pairs, success},
    logs::{Follow, Options, Piece, Source},
    remote::{Keyboard, Remote, STDERR, STDOUT, Upgrade, Wanted},
};
use crate::node::Node;
use axum::{
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use tokio::sync::mpsc;

pub async fn attach(
    State(node): State<Arc<Node>>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    upgrade: Upgrade,
) -> Response {
    let (uid, manifest) = match node.find_container(&namespace, &name, &container) {
        Ok(found) => found,
        Err(refused) => return refused.into_response(),
    };
    let wanted = Wanted::of(&pairs(&query.unwrap_or_default()));
    // `stdinOnce`: this session gets the input, and its end is the input's end.
    let once = wanted.stdin && manifest.stdin_once == Some(true);
    let attached = match node.runtime.attach(&uid, &container, once).await {
        Ok(attached) => attached,
        Err(error) if is_not_running(&error) => return Refused::no_container(&container).into_response(),
        Err(error) => return Refused::internal(error).into_response(),
    };
    let path = node.log_path(&uid, &container, attached.attempt);
    let source = Source { uid, container, attempt: attached.attempt, path };
    // What was made for one session shows that session from its start, the first prompt included.
    let tail_lines = if once && attached.stdin.is_some() { None } else { Some(0) };
    let options = Options { follow: true, tail_lines, ..Options::default() };
    // Before the client can type: what its words bring about is not missed.
    let follow = match Follow::open(&node, source, options).await {
        Ok(follow) => follow,
        Err(error) => return Refused::internal(error).into_response(),
    };
    let keyboard = Keyboard::new(attached.stdin.filter(|_| wanted.stdin), attached.resizer);
    upgrade.serve(wanted, move |remote| serve(remote, keyboard, follow.start(), wanted))
}

async fn serve(mut remote: Remote, mut keyboard: Keyboard, mut output: mpsc::Receiver<Piece>, wanted: Wanted) {
    loop {
        tokio::select! {
            there = keyboard.turn(&mut remote) => if !there { return },
            piece = output.recv() => match piece {
                Some(Ok((error, data))) => {
                    let (channel, wanted) = if error { (STDERR, wanted.stderr) } else { (STDOUT, wanted.stdout) };
                    if wanted && !remote.say(channel, &data).await {
                        return;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "reading the log of an attached container");
                    break;
                }
                None => break,
            },
        }
    }
    // However the container ended, attaching to it went well.
    remote.close(&success()).await;
}
