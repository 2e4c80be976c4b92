//! Probes: when one is due and what its results mean (here, pure), and how to ask (in `ask`).
//!
//! As in Kubernetes, the first probe is due `initialDelaySeconds` after the start, and the next every
//! `periodSeconds`. One thing is better here: as long as a container has not become ready (or started) for the
//! first time, and its first period is not over, a failed probe is repeated after 25, 50, 100 ms … without
//! counting as a failure. A server that needs 30 ms to listen is ready after 75 ms, not after ten seconds.
mod ask;
mod grpc;

pub use ask::{Asker, Target};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;
use serde::Serialize;
use std::time::Duration;

/// The wait after the first failed probe of a container that has just started; doubles.
const EAGER_FIRST: Duration = Duration::from_millis(25);

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// As events say it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// What is remembered of one probe of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ProbeState {
    /// When the last one was asked.
    pub asked: Option<Timestamp>,
    pub in_flight: bool,
    pub successes: u32,
    pub failures: u32,
    /// Early failures that did not count.
    pub eager: u32,
    /// What the thresholds made of it; none before the first verdict.
    pub verdict: Option<bool>,
}

impl ProbeState {
    /// When the next one is due. `since` is when probing could begin: the start, or the end of the startup probe.
    pub fn due(&self, probe: &Probe, since: Timestamp) -> Timestamp {
        let first = since + seconds(probe.initial_delay_seconds.unwrap_or(0));
        match self.asked {
            None => first,
            Some(asked) if self.eager > 0 && self.verdict.is_none() && self.failures == 0 => {
                asked + period(probe).min(EAGER_FIRST * 2u32.saturating_pow(self.eager - 1))
            }
            Some(asked) => asked + period(probe),
        }
    }

    /// Takes in a result. Returns whether it counts as a failure people should hear of.
    pub fn record(&mut self, kind: Kind, probe: &Probe, since: Timestamp, ok: bool) -> bool {
        self.in_flight = false;
        let first = since + seconds(probe.initial_delay_seconds.unwrap_or(0));
        let young = self.asked.is_some_and(|asked| asked < first + period(probe));
        if !ok && kind != Kind::Liveness && self.verdict.is_none() && self.failures == 0 && young {
            self.eager += 1;
            return false;
        }
        if ok {
            self.successes += 1;
            self.failures = 0;
            if self.successes >= at_least_one(probe.success_threshold, 1) {
                self.verdict = Some(true);
            }
        } else {
            self.failures += 1;
            self.successes = 0;
            if self.failures >= at_least_one(probe.failure_threshold, 3) {
                self.verdict = Some(false);
            }
        }
        !ok
    }
}

fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value.map_or(default, |v| v.max(1) as u32)
}

fn seconds(n: i32) -> Duration {
    Duration::from_secs(n.max(0) as u64)
}

pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(at_least_one(probe.period_seconds, 10).into())
}

pub fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(at_least_one(probe.timeout_seconds, 1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        serde_json::from_value(serde_json::json!({"periodSeconds": 10, "failureThreshold": 2})).unwrap()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn a_slow_starter_is_asked_again_soon_and_not_blamed() {
        let (probe, mut state) = (probe(), ProbeState::default());
        let mut asked = Vec::new();
        while asked.len() < 12 {
            let due = state.due(&probe, at(0));
            asked.push(due.as_millisecond());
            (state.asked, state.in_flight) = (Some(due), true);
            state.record(Kind::Readiness, &probe, at(0), false);
        }
        assert_eq!(asked, [0, 25, 75, 175, 375, 775, 1575, 3175, 6375, 12775, 22775, 32775]);
        assert_eq!(state.verdict, Some(false));
        state.record(Kind::Readiness, &probe, at(0), true);
        assert_eq!(state.verdict, Some(true));
    }

    #[test]
    fn liveness_counts_from_the_first_failure() {
        let (probe, mut state) = (probe(), ProbeState::default());
        state.asked = Some(at(0));
        assert!(state.record(Kind::Liveness, &probe, at(0), false));
        assert_eq!(state.due(&probe, at(0)), at(10_000));
        assert_eq!(state.verdict, None);
        state.record(Kind::Liveness, &probe, at(0), false);
        assert_eq!(state.verdict, Some(false));
    }
}
