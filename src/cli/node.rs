//! `coracle node`: nodes of this host, and accidents of theirs.
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use super::door::Door;
use super::up::NodeSize;
use crate::daemon::Size;

/// Flags of `node`.
#[derive(Args)]
pub struct Node {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One more node
    Add {
        /// Its name [default: the next free node-<n>]
        node: Option<String>,
        #[command(flatten)]
        size: NodeSize,
    },
    /// A node less: its pods, its network and its objects go
    Rm {
        /// Its name
        node: String,
    },
    /// Pull the plug: all its processes and its link are gone, and nobody is told
    Stop {
        /// Its name
        node: String,
    },
    /// Switch a stopped node on
    Start {
        /// Its name
        node: String,
    },
    /// Cut its link; its pods run on, unheard
    Cut {
        /// Its name
        node: String,
    },
    /// Join a cut link again
    Join {
        /// Its name
        node: String,
    },
}

impl Node {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        let base = "/coracle/v1/nodes";
        let (node, action, done) = match self.verb {
            Verb::Add { node, size } => {
                let new = json!({"name": node, "size": size.size().of(Size::USUAL)});
                let answer = door.post(base, &new).await?;
                println!("node/{} added", answer["name"].as_str().unwrap_or("?"));
                return Ok(());
            }
            Verb::Rm { node } => {
                door.delete(&format!("{base}/{node}"), &json!({})).await?;
                println!("node/{node} removed");
                return Ok(());
            }
            Verb::Stop { node } => (node, "stop", "stopped"),
            Verb::Start { node } => (node, "start", "started"),
            Verb::Cut { node } => (node, "cut", "cut off"),
            Verb::Join { node } => (node, "join", "joined"),
        };
        door.post(&format!("{base}/{node}/{action}"), &json!({})).await?;
        println!("node/{node} {done}");
        Ok(())
    }
}
