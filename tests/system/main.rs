//! The whole system through the built binary, stock kubectl and stock helm, as root on a real kernel.
//!
//! Most trials share one cluster and keep to a namespace of their own; those that break things start their own
//! cluster. Whatever happened, at the end the host must be as it was before the first trial: links, namespaces, mounts,
//! cgroups, nft tables, routes, sysctls, processes and files are compared.
mod api;
mod crash;
mod harness;
mod helm;
mod host;
mod labs;
mod network;
mod nodes;
mod pods;
mod streams;
mod words;
mod workloads;

use harness::Cluster;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::sync::OnceLock;

/// The cluster that most trials share; made by the first that asks.
static SHARED: OnceLock<Cluster> = OnceLock::new();

/// A test that uses the shared cluster, whose nodes are not lost when this machine stalls.
fn shared(name: &'static str, test: fn(&Cluster)) -> Trial {
    Trial::test(name, move || {
        run(|| test(SHARED.get_or_init(|| Cluster::up("shared", &["--node-monitor-grace", "5m"]))))
    })
}

/// A test that makes what it needs.
fn alone(name: &'static str, test: fn()) -> Trial {
    Trial::test(name, move || run(test))
}

/// A panic is the failure; its message was printed by the hook.
fn run(test: impl FnOnce() + std::panic::UnwindSafe) -> Result<(), Failed> {
    std::panic::catch_unwind(test).map_err(|cause| {
        let text =
            cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|s| s.to_string()));
        Failed::from(text.unwrap_or_else(|| "panicked".into()))
    })
}

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list {
        harness::require();
    }
    // Of an interrupted run; the first `down` would take it away and the host look different for it.
    coracle::runtime::cgroup::remove_empty("coracle").expect("an empty cgroup can be removed");
    let before = (!arguments.list).then(host::Snapshot::take);
    let trials = [
        api::trials(),
        workloads::trials(),
        pods::trials(),
        streams::trials(),
        network::trials(),
        nodes::trials(),
        crash::trials(),
        helm::trials(),
        labs::trials(),
        words::trials(),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    if let Some(cluster) = SHARED.get() {
        cluster.down();
    }
    let left = before.map(|before| before.differences(&host::Snapshot::take())).unwrap_or_default();
    for line in &left {
        eprintln!("left on the host: {line}");
    }
    finish(conclusion, left.is_empty());
}

fn finish(conclusion: Conclusion, clean: bool) {
    if !clean {
        std::process::exit(1);
    }
    conclusion.exit();
}
