//! `coracle xray`: what the kernel has behind an object.
use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::door::Door;
use super::jsonpath::text;
use super::resource::Discovery;
use crate::api::meta;
use crate::lens::xray;

/// Flags of `xray`.
#[derive(Args)]
pub struct Xray {
    /// POD, or TYPE/NAME of a pod, a node or a service
    #[arg(required = true)]
    words: Vec<String>,
    /// Namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// For a service: whose table to look at [default: the first node]
    #[arg(long)]
    node: Option<String>,
}

impl Xray {
    /// Runs it.
    pub async fn run(self, cluster: &str, door: &Door) -> Result<()> {
        let discovery = Discovery::load(door).await?;
        let item = discovery.one(&self.words, Some("pods"), &self.namespace)?;
        let (object, name) = (door.get(&item.path()).await?, &item.name);
        println!("{}", item.named());
        let report = match item.resource.kind.as_str() {
            "Pod" => xray::pod(cluster, meta::uid(&object)),
            "Node" => {
                let status = door.get("/coracle/v1/status").await?;
                let mut nodes = meta::list(&status, &["nodes"]).iter();
                let node = nodes.find(|node| meta::text(node, &["name"]) == *name);
                let netns = node.map_or("", |node| meta::text(node, &["netns"]));
                let rules = nft(door, name).await?;
                xray::node(cluster, name, netns.as_ref(), &rules)
            }
            "Service" => {
                let node = match self.node {
                    Some(node) => node,
                    None => first_node(door).await?,
                };
                let rules = nft(door, &node).await?;
                xray::service(&node, &rules, &words(&object))
            }
            other => bail!("xray sees pods, nodes and services, not {other}"),
        };
        print!("{}", report.text());
        Ok(())
    }
}

async fn nft(door: &Door, node: &str) -> Result<String> {
    door.text(&format!("/coracle/v1/nodes/{node}/nft")).await
}

async fn first_node(door: &Door) -> Result<String> {
    let status = door.get("/coracle/v1/status").await?;
    let mut nodes = meta::list(&status, &["nodes"]).iter();
    match nodes.find(|node| meta::text(node, &["state"]) == "running") {
        Some(node) => Ok(meta::text(node, &["name"]).to_owned()),
        None => bail!("no node runs"),
    }
}

/// By what a Service's lines are known: its name in chains, its address and node ports in maps.
fn words(service: &Value) -> Vec<String> {
    let (namespace, name) = (meta::namespace(service), meta::name(service));
    let mut words = vec![format!("{namespace}/{name}"), format!("{namespace}-{name}")];
    match meta::text(service, &["spec", "clusterIP"]) {
        "" | "None" => {}
        ip => words.push(format!("{ip} ")),
    }
    let ports = meta::list(service, &["spec", "ports"]).iter();
    words.extend(ports.filter_map(|port| Some(format!(" {} ", text(port.get("nodePort")?)))));
    words
}
