//! What to do next about one pod: pure. The driver performs the steps; planned again, nothing is left to do.
use super::{
    observed::{ContainerSeen, Exit, Hook, Observed, Run, SandboxSeen},
    probe::{self, ProbeState},
    spec::{self, Restart, Role},
    step::{Policy, Step, Why},
};
use crate::client::Plan;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use std::time::Duration;

/// What the containers of a pod that was deleted by force still get.
const FORCED_GRACE: Duration = Duration::from_secs(1);
/// What a container still gets after its preStop hook has used up the grace period; the kubelet's number.
pub(super) const AFTER_HOOK: Duration = Duration::from_secs(2);

/// Plans for one pod.
pub fn plan(pod: &Pod, seen: &Observed, policy: &Policy, now: Timestamp) -> Plan<Step> {
    let mut planner = Planner { pod, seen, policy, now, plan: Plan::default() };
    if seen.gone || spec::deletion(pod).is_some() {
        planner.end();
    } else if seen.settled || seen.failed.is_some() || finished(pod, seen) {
        planner.finish();
    } else if !seen.admitted {
        planner.plan.push(Step::Admit);
    } else {
        planner.run();
    }
    planner.plan
}

/// Whether every container has done what it was to do, or an init container made that impossible.
pub fn finished(pod: &Pod, seen: &Observed) -> bool {
    let over = |role, c: &Container| {
        let state = seen.containers.get(&c.name)?;
        let exit = state.exit()?;
        (!restarts(spec::restart(pod, role), exit)).then_some(exit)
    };
    let init_failed = spec::containers(pod)
        .filter(|(role, _)| *role == Role::Init)
        .any(|(role, c)| over(role, c).is_some_and(|exit| exit.code != 0));
    let mut apps = spec::containers(pod).filter(|(role, _)| *role == Role::App);
    init_failed || apps.all(|(role, c)| over(role, c).is_some())
}

fn restarts(policy: Restart, exit: &Exit) -> bool {
    match policy {
        Restart::Always => true,
        Restart::OnFailure => exit.code != 0,
        Restart::Never => false,
    }
}

/// Whether the init containers are behind us: some other container has run in this sandbox.
pub fn initialized(pod: &Pod, seen: &Observed) -> bool {
    spec::containers(pod).filter(|(role, _)| *role == Role::App).any(|(_, c)| {
        let state = seen.containers.get(&c.name);
        state.is_some_and(|s| s.run != Run::Never && s.generation == seen.generation)
    })
}

/// Whether a sidecar lets those after it start.
pub fn started(container: &Container, seen: &ContainerSeen) -> bool {
    seen.is_running()
        && seen.post_start != Hook::Running
        && (container.startup_probe.is_none() || seen.probes.startup.verdict == Some(true))
}

struct Planner<'a> {
    pod: &'a Pod,
    seen: &'a Observed,
    policy: &'a Policy,
    now: Timestamp,
    plan: Plan<Step>,
}

impl Planner<'_> {
    fn wake_at(&mut self, at: Timestamp) {
        let wait = at.duration_since(self.now);
        self.plan.again_after(Duration::try_from(wait).unwrap_or(Duration::ZERO));
    }

    fn seen(&self, name: &str) -> ContainerSeen {
        self.seen.containers.get(name).cloned().unwrap_or_default()
    }

    /// The pod is deleted.
    fn end(&mut self) {
        if self.stop_all() {
            return;
        }
        if !self.seen.gone && !self.seen.settled {
            self.plan.push(Step::Settle);
        }
        if !self.seen.torn_down {
            self.plan.push(Step::TearDown);
        }
        self.plan.push(if self.seen.gone { Step::Forget } else { Step::Delete });
    }

    /// The pod is over, but its object stays.
    fn finish(&mut self) {
        if self.stop_all() {
            return;
        }
        if !self.seen.settled {
            self.plan.push(Step::Settle);
        }
        if !self.seen.torn_down {
            self.plan.push(Step::TearDown);
        }
    }

    /// Asks what runs to end, sidecars after the others and last come first. Returns whether something still runs.
    fn stop_all(&mut self) -> bool {
        let running: Vec<(Role, String)> = spec::containers(self.pod)
            .filter(|(_, c)| self.seen.containers.get(&c.name).is_some_and(|s| s.is_running()))
            .map(|(role, c)| (role, c.name.clone()))
            .collect();
        let apps = running.iter().filter(|(role, _)| *role != Role::Sidecar);
        let mut now: Vec<&String> = apps.map(|(_, name)| name).collect();
        if now.is_empty() {
            now.extend(running.last().map(|(_, name)| name));
        }
        for name in now {
            self.stop(name);
        }
        !running.is_empty()
    }

    fn stop(&mut self, name: &str) {
        let container = name.to_string();
        let seconds = spec::grace(self.pod);
        let grace = match self.seen.gone {
            true => FORCED_GRACE,
            false => Duration::from_secs(seconds as u64),
        };
        match self.seen(name).stopping {
            Some(stopping) if stopping.forced => {}
            Some(stopping) => {
                // Deleting again with a shorter grace period, or by force, moves the deadline.
                let hook = spec::container(self.pod, name).and_then(|(_, c)| c.lifecycle.as_ref()?.pre_stop.as_ref());
                let asked = match self.seen.gone {
                    true => Some(self.now + FORCED_GRACE),
                    false => spec::deletion(self.pod).map(|at| at + hook.map_or(FORCED_GRACE, |_| AFTER_HOOK)),
                };
                let hurry = self.seen.gone && asked.is_some_and(|at| at < stopping.deadline);
                let deadline = asked.map_or(stopping.deadline, |at| at.min(stopping.deadline));
                match hurry || deadline <= self.now {
                    true => self.plan.push(Step::Kill { container }),
                    false => self.wake_at(deadline),
                }
            }
            None if grace.is_zero() => self.plan.push(Step::Kill { container }),
            None => self.plan.push(Step::Stop { container, grace, why: Why::PodEnds }),
        }
    }

    /// The pod should run.
    fn run(&mut self) {
        if let (Some(limit), Some(start)) = (spec::spec(self.pod).active_deadline_seconds, self.seen.start_time) {
            let end = start + Duration::from_secs(limit.max(0) as u64);
            if end <= self.now {
                let message = "Pod was active on the node longer than the specified deadline";
                return self.plan.push(Step::Fail { reason: "DeadlineExceeded", message: message.to_string() });
            }
            self.wake_at(end);
        }
        if self.seen.sandbox == SandboxSeen::Dead {
            return self.plan.push(Step::DestroySandbox);
        }
        let set_up = self.seen.volumes && self.seen.sandbox == SandboxSeen::Ready;
        if let Some(failure) = &self.seen.setup
            && failure.retry_at > self.now
            && !set_up
        {
            return self.wake_at(failure.retry_at);
        }
        match self.seen.refresh_at {
            _ if !self.seen.volumes => self.plan.push(Step::Mount),
            Some(at) if at <= self.now => self.plan.push(Step::Refresh),
            Some(at) => self.wake_at(at),
            None => {}
        }
        if self.seen.sandbox == SandboxSeen::Absent {
            self.plan.push(Step::CreateSandbox);
        }
        self.containers();
    }

    fn containers(&mut self) {
        let initialized = initialized(self.pod, self.seen);
        for (role, container) in spec::containers(self.pod) {
            let mut seen = self.seen(&container.name);
            let current = seen.generation == self.seen.generation;
            if role == Role::Init {
                if initialized {
                    continue;
                }
                match &seen.run {
                    Run::Exited(exit) if exit.code == 0 && current => continue,
                    Run::Exited(_) if !current => seen.crashes = 0,
                    _ => {}
                }
            }
            match &seen.run {
                Run::Running { since } => self.supervise(container, &seen, *since),
                _ => self.start(role, container, &seen, current),
            }
            let wait = match role {
                Role::Init => true,
                Role::Sidecar => !initialized && !started(container, &seen),
                Role::App => false,
            };
            if wait {
                return;
            }
        }
    }

    fn start(&mut self, role: Role, container: &Container, seen: &ContainerSeen, current: bool) {
        if let Some(failure) = &seen.failure
            && failure.retry_at > self.now
        {
            return self.wake_at(failure.retry_at);
        }
        let mut attempt = 0;
        if let Some(exit) = seen.exit() {
            if current && !restarts(spec::restart(self.pod, role), exit) {
                return;
            }
            let at = self.policy.restart_at(seen, exit);
            if at > self.now {
                return self.wake_at(at);
            }
            attempt = seen.attempt + 1;
        }
        self.plan.push(Step::Start { container: container.name.clone(), attempt });
    }

    /// Looks after a running container: its probes, and the end of patience once it was asked to stop.
    fn supervise(&mut self, container: &Container, seen: &ContainerSeen, since: Timestamp) {
        if let Some(stopping) = &seen.stopping {
            if !stopping.forced && stopping.deadline <= self.now {
                self.plan.push(Step::Kill { container: container.name.clone() });
            } else if !stopping.forced {
                self.wake_at(stopping.deadline);
            }
            return;
        }
        if seen.post_start == Hook::Running {
            return;
        }
        let probes = &seen.probes;
        let mut since = since;
        if let Some(probe) = &container.startup_probe {
            if probes.startup.verdict != Some(true) {
                return self.probe(container, probe::Kind::Startup, probe, &probes.startup, since);
            }
            since = probes.startup.asked.unwrap_or(since);
        }
        if let Some(probe) = &container.liveness_probe {
            self.probe(container, probe::Kind::Liveness, probe, &probes.liveness, since);
        }
        if let Some(probe) = &container.readiness_probe {
            self.probe(container, probe::Kind::Readiness, probe, &probes.readiness, since);
        }
    }

    fn probe(&mut self, container: &Container, kind: probe::Kind, probe: &Probe, state: &ProbeState, since: Timestamp) {
        let name = container.name.clone();
        if kind != probe::Kind::Readiness && state.verdict == Some(false) {
            let seconds = probe.termination_grace_period_seconds;
            let seconds = seconds.unwrap_or_else(|| spec::grace(self.pod)).max(0) as u64;
            let (grace, why) = (Duration::from_secs(seconds), Why::Unhealthy(kind));
            return self.plan.push(Step::Stop { container: name, grace, why });
        }
        if state.in_flight {
            return;
        }
        match state.due(probe, since) {
            due if due <= self.now => self.plan.push(Step::Probe { container: name, kind }),
            due => self.wake_at(due),
        }
    }
}
