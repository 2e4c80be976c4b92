//! `coracle doctor`: judges this machine and prints what to do.
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ipnetwork::Ipv4Network;

use crate::lens::doctor::{self, Finding, Level, Wanted};

/// Says whether a cluster would work on this machine, and how to make it work.
#[derive(Args)]
pub struct Doctor {
    /// Where the cluster would keep its state [default: /var/lib/coracle/<name>]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The port the API server would listen on
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    #[arg(long, default_value = "10.244.0.0/16")]
    pod_cidr: Ipv4Network,
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cidr: Ipv4Network,
}

impl Doctor {
    /// Fails (exit status 1) if `up` would refuse.
    pub fn run(self, cluster: &str) -> Result<ExitCode> {
        let wanted = Wanted {
            name: cluster.to_owned(),
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("/var/lib/coracle").join(cluster)),
            api_port: self.api_port,
            pod_cidr: self.pod_cidr,
            service_cidr: self.service_cidr,
        };
        let findings = doctor::plan(&wanted, &doctor::read(&wanted));
        print(&findings, &mut std::io::stdout())?;
        let refused = findings.iter().any(|f| f.level == Level::Refuse);
        Ok(ExitCode::from(u8::from(refused)))
    }
}

/// One paragraph a finding: the level, what is so, and below it the fix.
pub fn print(findings: &[Finding], out: &mut impl Write) -> Result<()> {
    for finding in findings {
        let level = match finding.level {
            Level::Refuse => "stop",
            Level::Warn => "warn",
            Level::Note => "note",
        };
        writeln!(out, "{level}  {}", finding.what)?;
        writeln!(out, "      fix: {}", finding.fix)?;
    }
    match findings.first().map(|f| f.level) {
        None => writeln!(out, "Everything a cluster needs is here.")?,
        Some(Level::Refuse) => writeln!(out, "`coracle up` would refuse until each `stop` is fixed.")?,
        Some(_) => writeln!(out, "A cluster works here, apart from the above.")?,
    }
    Ok(())
}
