//! Whole lives of pods against a model of the node: what is planned, what the status says, and that plans end.
use super::{
    observed::{Exit, Failure, Hook, Observed, Run, SandboxSeen, Stopping, Verdict},
    plan::plan,
    probe,
    spec::{self, Role},
    status::status,
    step::{Policy, Step},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{net::Ipv4Addr, time::Duration};

const POLICY: Policy =
    Policy { first: Duration::from_secs(10), max: Duration::from_secs(300), reset: Duration::from_secs(600) };

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

/// A node that does at once and without fail what it is told.
struct Model {
    pod: Pod,
    seen: Observed,
    now: i64,
    deleted: bool,
}

impl Model {
    fn new(spec: Value) -> Model {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        Model { pod: serde_json::from_value(pod).unwrap(), seen: Observed::default(), now: 0, deleted: false }
    }

    fn perform(&mut self, step: &Step) {
        let now = at(self.now);
        let generation = self.seen.generation;
        match step {
            Step::Admit => (self.seen.admitted, self.seen.start_time) = (true, Some(now)),
            Step::Mount | Step::Refresh => (self.seen.volumes, self.seen.refresh_at) = (true, None),
            Step::CreateSandbox => {
                (self.seen.sandbox, self.seen.ip) = (SandboxSeen::Ready, Some(Ipv4Addr::new(10, 244, 1, 2)));
            }
            Step::DestroySandbox => {
                (self.seen.sandbox, self.seen.ip) = (SandboxSeen::Absent, None);
                self.seen.generation += 1;
            }
            Step::Start { container, attempt } => {
                let hook = spec::container(&self.pod, container).unwrap().1.lifecycle.is_some();
                let seen = self.seen.containers.entry(container.clone()).or_default();
                assert!(!seen.is_running(), "{container} is started twice");
                if let Some(exit) = seen.exit().cloned() {
                    assert_eq!(*attempt, exit.attempt + 1);
                    seen.crashes = POLICY.crashes(seen) + 1;
                    seen.previous = Some(exit);
                }
                (seen.run, seen.attempt, seen.generation) = (Run::Running { since: now }, *attempt, generation);
                (seen.stopping, seen.probes) = (None, Default::default());
                seen.post_start = if hook { Hook::Running } else { Hook::None };
            }
            Step::Stop { container, grace, .. } => {
                let seen = self.seen.containers.get_mut(container).unwrap();
                seen.stopping = Some(Stopping { deadline: now + *grace, forced: false });
            }
            Step::Kill { container } => self.exit(container, 137),
            Step::Probe { container, kind } => {
                let state = self.probe_state(container, *kind);
                (state.asked, state.in_flight) = (Some(now), true);
            }
            Step::Fail { reason, message } => {
                self.seen.failed = Some(Verdict { reason: reason.to_string(), message: message.clone() });
            }
            Step::Settle => self.seen.settled = true,
            Step::TearDown => (self.seen.torn_down, self.seen.sandbox) = (true, SandboxSeen::Absent),
            Step::Delete => self.seen.gone = true,
            Step::Forget => self.deleted = true,
        }
    }

    fn probe_state(&mut self, name: &str, kind: probe::Kind) -> &mut probe::ProbeState {
        let probes = &mut self.seen.containers.get_mut(name).unwrap().probes;
        match kind {
            probe::Kind::Startup => &mut probes.startup,
            probe::Kind::Readiness => &mut probes.readiness,
            probe::Kind::Liveness => &mut probes.liveness,
        }
    }

    fn exit(&mut self, name: &str, code: i32) {
        let now = at(self.now);
        let seen = self.seen.containers.get_mut(name).unwrap();
        let Run::Running { since } = seen.run else {
            return;
        };
        let reason = if code == 0 { "Completed" } else { "Error" };
        seen.run = Run::Exited(Exit {
            attempt: seen.attempt,
            code,
            signal: None,
            reason: reason.into(),
            message: None,
            started: since,
            finished: now,
        });
        (seen.stopping, seen.post_start) = (None, Hook::None);
    }

    /// Plans and performs until nothing is left to do; the steps, as people read them.
    fn settle(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        // The longest way: admit to running is three rounds, two sidecars that are stopped and then killed one after the
        // other are four more, and the end is three.
        for _ in 0..12 {
            let steps = plan(&self.pod, &self.seen, &POLICY, at(self.now)).steps;
            if steps.is_empty() || self.deleted {
                return done;
            }
            for step in &steps {
                done.push(words(step));
                self.perform(step);
            }
        }
        panic!("plans do not end: {done:?}");
    }

    fn status(&self) -> Value {
        let host = Ipv4Addr::new(172, 30, 0, 11);
        serde_json::to_value(status(&self.pod, &self.seen, &POLICY, &[], host, at(self.now))).unwrap()
    }

    /// Phase, readiness and the state of each container in a line.
    fn line(&self) -> String {
        let status = self.status();
        let is = |kind: &str| {
            status["conditions"].as_array().unwrap().iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        let mut line = format!("{}{}", status["phase"].as_str().unwrap(), if is("Ready") { " ready" } else { "" });
        for list in ["initContainerStatuses", "containerStatuses"] {
            for c in status[list].as_array().into_iter().flatten() {
                let state = &c["state"];
                let shown = match (&state["waiting"]["reason"], &state["terminated"]) {
                    (Value::String(reason), _) => reason.clone(),
                    (_, Value::Object(t)) => {
                        format!("{} {}", t["reason"].as_str().unwrap(), t["exitCode"])
                    }
                    _ => "running".into(),
                };
                line += &format!(", {} {shown} x{}", c["name"].as_str().unwrap(), c["restartCount"]);
            }
        }
        line
    }

    fn wake(&self) -> Option<u128> {
        plan(&self.pod, &self.seen, &POLICY, at(self.now)).requeue_after.map(|d| d.as_millis())
    }
}

fn words(step: &Step) -> String {
    match step {
        Step::Start { container, attempt } => format!("start {container}.{attempt}"),
        Step::Stop { container, grace, .. } => format!("stop {container} in {}s", grace.as_secs()),
        Step::Kill { container } => format!("kill {container}"),
        Step::Probe { container, kind } => format!("{kind:?} of {container}"),
        Step::Fail { reason, .. } => format!("fail {reason}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_plain_pod_is_ready_after_one_round_and_ends_in_order() {
    let mut m = Model::new(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    assert_eq!(m.line(), "Pending, a ContainerCreating x0, b ContainerCreating x0");
    assert_eq!(m.settle(), ["Admit", "Mount", "CreateSandbox", "start a.0", "start b.0"]);
    assert_eq!(m.line(), "Running ready, a running x0, b running x0");
    m.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(30_000)));
    m.pod.metadata.deletion_grace_period_seconds = Some(30);
    assert_eq!(m.settle(), ["stop a in 30s", "stop b in 30s"]);
    assert_eq!(m.line(), "Running ready, a running x0, b running x0");
    m.exit("a", 0);
    assert_eq!((m.settle().len(), m.wake()), (0, Some(30_000)));
    m.now = 31_000;
    assert_eq!(m.settle(), ["kill b", "Settle", "TearDown", "Delete", "Forget"]);
}

#[test]
fn a_crashing_container_backs_off() {
    let mut m = Model::new(json!({"containers": [{"name": "a"}]}));
    m.settle();
    m.exit("a", 1);
    assert_eq!(m.settle(), ["start a.1"], "the first restart is at once");
    m.exit("a", 1);
    assert_eq!((m.settle().len(), m.wake()), (0, Some(10_000)));
    assert_eq!(m.line(), "Running, a CrashLoopBackOff x1");
    let state = &m.status()["containerStatuses"][0];
    assert_eq!(state["state"]["waiting"]["message"], "back-off 10s restarting failed container=a pod=p_d(u)");
    assert_eq!(state["lastState"]["terminated"]["exitCode"], 1);
    m.now = 10_000;
    assert_eq!(m.settle(), ["start a.2"]);
    m.now += 700_000;
    m.exit("a", 1);
    assert_eq!(m.settle(), ["start a.3"], "it ran long, so this is no crash loop");
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_stay() {
    let mut m = Model::new(json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
        "containers": [{"name": "a"}], "restartPolicy": "Never"}));
    assert_eq!(m.settle(), ["Admit", "Mount", "CreateSandbox", "start i.0"]);
    assert_eq!(m.line(), "Pending, i running x0, s PodInitializing x0, j PodInitializing x0, a PodInitializing x0");
    m.exit("i", 0);
    assert_eq!(m.settle(), ["start s.0", "start j.0"]);
    m.exit("j", 0);
    assert_eq!(m.settle(), ["start a.0"]);
    assert_eq!(m.line(), "Running ready, i Completed 0 x0, s running x0, j Completed 0 x0, a running x0");
    m.exit("a", 0);
    assert_eq!(m.settle(), ["stop s in 30s"]);
    m.exit("s", 0);
    assert_eq!(m.settle(), ["Settle", "TearDown"]);
    assert_eq!(m.line(), "Succeeded, i Completed 0 x0, s Completed 0 x0, j Completed 0 x0, a Completed 0 x0");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut m =
        Model::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "restartPolicy": "Never"}));
    m.settle();
    m.exit("i", 3);
    assert_eq!(m.settle(), ["Settle", "TearDown"]);
    assert_eq!(m.line(), "Failed, i Error 3 x0, a PodInitializing x0");
}

#[test]
fn a_dead_sandbox_is_replaced_and_everything_runs_again() {
    let mut m = Model::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    m.settle();
    m.exit("i", 0);
    m.settle();
    m.seen.sandbox = SandboxSeen::Dead;
    m.exit("a", 137);
    assert_eq!(m.settle(), ["DestroySandbox", "CreateSandbox", "start i.1"]);
    m.exit("i", 0);
    assert_eq!(m.settle(), ["start a.1"]);
    assert_eq!(m.line(), "Running ready, i Completed 0 x1, a running x1");
}

#[test]
fn probes_gate_readiness_and_end_the_unhealthy() {
    let mut m = Model::new(json!({"containers": [{"name": "a",
        "readinessProbe": {"tcpSocket": {"port": 1}},
        "livenessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 1, "initialDelaySeconds": 5}}]}));
    assert_eq!(m.settle().last().unwrap(), "Readiness of a");
    assert_eq!(m.line(), "Running, a running x0");
    let pod = m.pod.clone();
    let c = &pod.spec.as_ref().unwrap().containers[0];
    let readiness = c.readiness_probe.as_ref().unwrap();
    m.probe_state("a", probe::Kind::Readiness).record(probe::Kind::Readiness, readiness, at(0), true);
    assert_eq!(m.line(), "Running ready, a running x0");
    assert_eq!((m.settle().len(), m.wake()), (0, Some(5_000)));
    m.now = 5_000;
    assert_eq!(m.settle(), ["Liveness of a"]);
    let liveness = c.liveness_probe.as_ref().unwrap();
    m.probe_state("a", probe::Kind::Liveness).record(probe::Kind::Liveness, liveness, at(0), false);
    assert_eq!(m.settle(), ["stop a in 30s"]);
    m.exit("a", 143);
    assert_eq!(m.settle(), ["start a.1", "Readiness of a"]);
}

#[test]
fn files_that_cannot_be_refreshed_hold_up_a_pod_that_starts_and_none_that_runs() {
    let mut m = Model::new(json!({"containers": [{"name": "a"}]}));
    let failure = Failure { reason: "FailedMount".into(), message: String::new(), count: 1, retry_at: at(9_000) };
    m.perform(&Step::Admit);
    m.seen.setup = Some(failure.clone());
    assert_eq!((m.settle().len(), m.wake()), (0, Some(9_000)));
    m.seen.setup = None;
    m.settle();
    m.exit("a", 1);
    (m.seen.setup, m.seen.refresh_at) = (Some(failure), Some(at(9_000)));
    assert_eq!((m.settle(), m.wake()), (vec!["start a.1".into()], Some(9_000)));
    m.now = 9_000;
    assert_eq!(m.settle(), ["Refresh"]);
}

#[test]
fn a_hook_that_uses_up_the_grace_period_leaves_some() {
    let lifecycle = json!({"preStop": {"sleep": {"seconds": 60}}});
    let mut m = Model::new(json!({"containers": [{"name": "a", "lifecycle": lifecycle}, {"name": "b"}]}));
    m.settle();
    m.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(2_000)));
    for name in ["a", "b"] {
        m.seen.containers.get_mut(name).unwrap().stopping = Some(Stopping { deadline: at(9_000), forced: false });
    }
    m.now = 3_000;
    assert_eq!((m.settle(), m.wake()), (vec!["kill b".into()], Some(1_000)));
}

#[test]
fn a_deadline_ends_a_pod() {
    let mut m = Model::new(json!({"containers": [{"name": "a"}], "activeDeadlineSeconds": 7}));
    m.settle();
    assert_eq!(m.wake(), Some(7_000));
    m.now = 7_000;
    assert_eq!(m.settle(), ["fail DeadlineExceeded", "stop a in 30s"]);
    m.exit("a", 143);
    assert_eq!(m.settle(), ["Settle", "TearDown"]);
    assert_eq!(m.status()["reason"], "DeadlineExceeded");
}

fn a_container(name: &'static str, init: bool) -> impl Strategy<Value = Value> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(move |(probe, live, start, sidecar)| {
        let mut c = json!({"name": name});
        let p = json!({"tcpSocket": {"port": 1}, "failureThreshold": 2, "periodSeconds": 3});
        let takes = !init || sidecar;
        for (field, yes) in [("readinessProbe", probe), ("livenessProbe", live), ("startupProbe", start)] {
            if yes && takes {
                c[field] = p.clone();
            }
        }
        if init && sidecar {
            c["restartPolicy"] = json!("Always");
        }
        c
    })
}

fn a_pod() -> impl Strategy<Value = Value> {
    let init = (a_container("i", true), a_container("j", true), 0..3usize);
    let apps = (a_container("a", false), a_container("b", false), 1..3usize);
    (init, apps, prop_oneof!["Always", "OnFailure", "Never"]).prop_map(|((i, j, n), (a, b, m), policy)| {
        let (init, apps) = (vec![i, j], vec![a, b]);
        json!({"initContainers": init[..n], "containers": apps[..m], "restartPolicy": policy,
            "terminationGracePeriodSeconds": 5})
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_happens_plans_end_and_never_start_what_runs(
        spec in a_pod(),
        events in prop::collection::vec((0..7u8, 0..4usize, any::<bool>(), 0..20_000i64), 1..40),
    ) {
        let mut m = Model::new(spec);
        m.settle();
        let names: Vec<String> = spec::containers(&m.pod).map(|(_, c)| c.name.clone()).collect();
        for (what, which, yes, ms) in events {
            if m.deleted {
                break;
            }
            let name = &names[which % names.len()];
            m.now += ms;
            let known = m.seen.containers.contains_key(name);
            match what {
                0 | 1 if known => m.exit(name, if yes { 0 } else { 1 }),
                2 => {
                    m.seen.sandbox = if m.seen.sandbox == SandboxSeen::Ready { SandboxSeen::Dead } else { m.seen.sandbox };
                    if m.seen.sandbox == SandboxSeen::Dead {
                        for name in &names {
                            if m.seen.containers.contains_key(name) {
                                m.exit(name, 137);
                            }
                        }
                    }
                }
                3 if which == 0 => {
                    let end = at(m.now + 5_000);
                    m.pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
                    m.pod.metadata.deletion_grace_period_seconds = Some(5);
                }
                4 if which == 1 => m.seen.gone = true,
                5 | 6 if known => answer(&mut m, name, yes),
                _ => {}
            }
            m.settle();
            invariants(&m)?;
        }
    }
}

/// Answers the probes that were asked of a container.
fn answer(m: &mut Model, name: &str, ok: bool) {
    let pod = m.pod.clone();
    let (_, c) = spec::container(&pod, name).unwrap();
    let all = [
        (probe::Kind::Startup, &c.startup_probe),
        (probe::Kind::Readiness, &c.readiness_probe),
        (probe::Kind::Liveness, &c.liveness_probe),
    ];
    for (kind, probe) in all {
        let state = m.probe_state(name, kind);
        if let (Some(probe), true) = (probe, state.in_flight) {
            state.record(kind, probe, at(0), ok);
        }
    }
}

fn invariants(m: &Model) -> Result<(), TestCaseError> {
    let running = |role: Role| {
        spec::containers(&m.pod)
            .filter(move |(r, _)| *r == role)
            .any(|(_, c)| m.seen.containers.get(&c.name).is_some_and(|s| s.is_running()))
    };
    prop_assert!(!(running(Role::Init) && running(Role::App)), "init beside app");
    let any = running(Role::App) || running(Role::Init) || running(Role::Sidecar);
    prop_assert!(!any || m.seen.sandbox == SandboxSeen::Ready, "something runs in no sandbox");
    prop_assert!(!(m.seen.settled && any), "settled while something runs");
    let status = m.status();
    let ready = status["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    prop_assert!(!ready || running(Role::App), "ready without a running container");
    Ok(())
}
