//! `coracle status`: the daemon and its nodes.
use anyhow::Result;
use clap::Args;

use super::door::Door;
use super::print::Columns;
use crate::daemon::control::Status as Answer;

/// Flags of `status`.
#[derive(Args)]
pub struct Status {
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        let value = door.get("/coracle/v1/status").await?;
        if self.json {
            print!("{}", super::print::json(&value));
            return Ok(());
        }
        let status: Answer = serde_json::from_value(value)?;
        let about = &status.about;
        let running = jiff::Timestamp::now().as_second() - about.started.as_second();
        let time = crate::api::duration::human(running);
        let facts = [
            ("cluster", about.name.clone()),
            ("daemon", format!("process {}, version {}, up {time}", about.pid, about.version)),
            ("api", about.api.clone()),
            ("kubeconfig", about.kubeconfig.clone()),
            ("state", about.data_dir.clone()),
            ("underlay", about.underlay.clone()),
            ("pods", about.pod_cidr.clone()),
            ("services", about.service_cidr.clone()),
        ];
        let rows: Vec<Vec<String>> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        println!("{}", Columns::default().lines(&rows));
        let mut rows: Vec<Vec<String>> =
            vec![["NODE", "STATE", "ADDRESS", "PODS", "CPU", "MEMORY", "NETNS"].map(str::to_owned).to_vec()];
        for node in status.nodes {
            let (name, size) = (node.setting.name, node.setting.size);
            let (cpu, memory) = (format!("{}m", size.cpu_milli), format!("{}Mi", size.memory >> 20));
            rows.push(vec![name, node.state, node.address, node.pod_cidr, cpu, memory, node.netns]);
        }
        print!("{}", Columns::default().lines(&rows));
        Ok(())
    }
}
