//! Counts and durations of requests, in Prometheus' text format.
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What requests are told apart by. Few values each: metrics must not grow with the objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Label {
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) subresource: String,
    pub(super) code: u16,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    requests: u64,
    seconds: f64,
}

/// All counts since the start.
#[derive(Default)]
pub(super) struct Metrics {
    counts: Mutex<BTreeMap<Label, Count>>,
}

impl Metrics {
    pub(super) fn record(&self, label: Label, took: Duration) {
        let mut counts = self.counts.lock();
        let count = counts.entry(label).or_default();
        count.requests += 1;
        count.seconds += took.as_secs_f64();
    }

    /// The text of `/metrics`; `revision` is the store's.
    pub(super) fn render(&self, revision: u64) -> String {
        let counts = self.counts.lock();
        let mut out = String::new();
        let mut family = |name: &str, help: &str, of: &dyn Fn(&Count) -> String| {
            out += &format!("# HELP {name} {help}\n# TYPE {name} counter\n");
            for (label, count) in counts.iter() {
                // Writing to a string cannot fail.
                writeln!(
                    out,
                    "{name}{{verb=\"{}\",group=\"{}\",resource=\"{}\",subresource=\"{}\",code=\"{}\"}} {}",
                    label.verb,
                    label.group,
                    label.resource,
                    label.subresource,
                    label.code,
                    of(count)
                )
                .ok();
            }
        };
        let requests = "Requests by verb, resource and code.";
        family("apiserver_request_total", requests, &|c| c.requests.to_string());
        let seconds = "Time spent until the response began, in seconds.";
        family("apiserver_request_duration_seconds_sum", seconds, &|c| format!("{:.6}", c.seconds));
        out += "# HELP coracle_store_revision The newest revision.\n# TYPE coracle_store_revision counter\n";
        out + &format!("coracle_store_revision {revision}\n")
    }
}
