//! The command line: one file a verb.
//!
//! Where a verb is kubectl's, so are its words, its flags and its output; the server prints the tables (as it does for
//! kubectl) and everything else is asked for over the daemon's unix socket, where being root is the credential. The verbs
//! of our own (`up`, `down`, `node`, `image`, `xray`, `demo`) are about what Kubernetes does not know: this host.
//!
//! Left out: what kubectl does that is not about seeing or changing objects (`proxy`, `cp`, `edit`, plugins); kubectl works
//! with the kubeconfig that `up` writes.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)] // doc comments of flags are help texts
mod apply;
mod delete;
mod demo;
mod describe;
mod doctor;
mod door;
mod down;
mod error;
mod events;
mod exec;
mod get;
mod gotemplate;
mod image;
mod jsonpath;
mod kyaml;
mod load;
mod logs;
mod man;
mod node;
mod objects;
mod output;
mod print;
mod prune;
mod resource;
mod rollout;
mod scale;
mod scope;
mod status;
mod up;
mod wait;
mod xray;
mod yaml;

use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgAction, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use door::Door;

/// A whole Kubernetes on one Linux host.
#[derive(Parser)]
#[command(name = "coracle", version, propagate_version = true)]
struct Cli {
    /// Which cluster of this host
    #[arg(long, global = true, default_value = "default", env = "CORACLE_NAME", value_parser = cluster_name)]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

/// Whatever a verb does to a cluster, the name becomes part of paths.
fn cluster_name(name: &str) -> Result<String, String> {
    crate::daemon::check_name(name).map(|()| name.to_owned())
}

#[derive(Subcommand)]
enum Verb {
    /// A cluster from nothing, and what it can do
    Demo(demo::Demo),
    /// Bring a cluster up
    Up(up::Up),
    /// Take a cluster off this host
    Down(down::Down),
    /// The daemon and its nodes
    Status(status::Status),
    /// Print the path of the kubeconfig
    Kubeconfig,
    /// Images
    Image(image::Image),
    /// Nodes: more, fewer, switched off, cut off
    Node(node::Node),
    /// The kernel objects behind a pod, a node or a service
    Xray(xray::Xray),
    /// Show objects
    Get(get::Get),
    /// Show an object with all that belongs to it
    Describe(describe::Describe),
    /// Make objects be as manifests say (server-side apply)
    Apply(apply::Apply),
    /// Delete objects
    Delete(delete::Delete),
    /// Show what containers wrote
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(exec::Exec),
    /// Change the number of replicas
    Scale(scale::Scale),
    /// Rollouts of Deployments
    Rollout(rollout::Rollout),
    /// Wait for a condition
    Wait(wait::Wait),
    /// Show events
    Events(events::Events),
    /// Say whether a cluster works on this machine, and what to do if not
    Doctor(doctor::Doctor),
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: Shell,
    },
    #[command(hide = true)]
    Man(man::Man),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    end_quietly_without_a_reader();
    let matches = switches_with_values(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return error::usage(&error),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error::words(&error));
            ExitCode::FAILURE
        }
    }
}

/// `--wait=false`, `--watch=true`: as with kubectl, a flag that is on or off may say which.
fn switches_with_values(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => {
            let default = if arg.get_default_values().is_empty() { "false" } else { "true" };
            let arg = arg.action(ArgAction::Set).num_args(0..=1).require_equals(true);
            let arg = arg.default_value(default).default_missing_value("true").value_name("true|false");
            arg.hide_default_value(true).hide_possible_values(true)
        }
        _ => arg,
    });
    command.mut_subcommands(switches_with_values)
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.verb {
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "coracle", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script)?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Man(man) => man.run(Cli::command()).map(|()| ExitCode::SUCCESS),
        Verb::Up(up) => up.run(&cli.name).map(|()| ExitCode::SUCCESS),
        Verb::Image(image) => image.run(&cli.name).map(|()| ExitCode::SUCCESS),
        Verb::Kubeconfig => kubeconfig(&cli.name),
        Verb::Doctor(doctor) => doctor.run(&cli.name),
        verb => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let code = runtime.block_on(client_verb(&cli.name, verb));
            // A read of standard input may still be under way in a thread; it must not hold up the end.
            runtime.shutdown_background();
            code
        }
    }
}

fn kubeconfig(cluster: &str) -> Result<ExitCode> {
    let path = crate::daemon::Paths::new(cluster, None).kubeconfig();
    anyhow::ensure!(path.exists(), "{} is not there; `coracle up` writes it", path.display());
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Verbs that talk to a running cluster.
async fn client_verb(cluster: &str, verb: Verb) -> Result<ExitCode> {
    if let Verb::Down(down) = verb {
        return down.run(cluster).await.map(|()| ExitCode::SUCCESS);
    }
    if let Verb::Demo(demo) = verb {
        return demo.run(cluster).await.map(|()| ExitCode::SUCCESS);
    }
    let door = Door::open(cluster).await?;
    match verb {
        Verb::Status(status) => status.run(&door).await?,
        Verb::Node(node) => node.run(&door).await?,
        Verb::Xray(xray) => xray.run(cluster, &door).await?,
        Verb::Get(get) => get.run(&door).await?,
        Verb::Describe(describe) => describe.run(&door).await?,
        Verb::Apply(apply) => apply.run(&door).await?,
        Verb::Delete(delete) => delete.run(&door).await?,
        Verb::Logs(logs) => logs.run(&door).await?,
        Verb::Exec(exec) => return Ok(ExitCode::from(exec.run(&door).await?)),
        Verb::Scale(scale) => scale.run(&door).await?,
        Verb::Rollout(rollout) => rollout.run(&door).await?,
        Verb::Wait(wait) => wait.run(&door).await?,
        Verb::Events(events) => events.run(&door).await?,
        // Done without a cluster, above.
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// `coracle get … | head`: the print macros panic when the reader has gone, which is no accident of ours.
fn end_quietly_without_a_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|text| text.starts_with("failed printing to stdout")) {
            std::process::exit(0);
        }
        usual(panic);
    }));
}

/// The same, where the error was returned.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_verb_a_cluster_has_a_name() {
        for name in ["", "..", "a/b", "-"] {
            let line = ["coracle".to_owned(), format!("--name={name}"), "down".to_owned()];
            assert!(Cli::try_parse_from(line).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_switch_may_say_which_way_it_is() {
        let command = || switches_with_values(Cli::command());
        command().debug_assert();
        let parse =
            |line: &str| Cli::from_arg_matches(&command().get_matches_from(line.split(' '))).map(|cli| cli.verb);
        for line in ["coracle exec -it web -- sh", "coracle delete pod web --wait=false --all=true -i"] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for (line, watch) in [
            ("coracle rollout status -w=false web", "false"),
            ("coracle rollout status web", "true"),
            ("coracle rollout status web -w", "true"),
        ] {
            let matches = command().get_matches_from(line.split(' '));
            let status = matches.subcommand_matches("rollout").unwrap().subcommand_matches("status").unwrap();
            assert_eq!(status.get_one::<bool>("watch").unwrap().to_string(), watch, "{line}");
        }
    }
}
