//! Event expiry: an Event goes an hour after its last write, as the API server's leases in etcd make it go.
//!
//! Events are many and no loop reads them: only their metadata are kept, and an Event is read when it is due.
use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, core::ApiResource};

use super::{Context, Controller, Loop, pods::until};
use crate::client::{Action, DeleteOptions, Error, ObjectKey, Plan, Result, Target, WorkQueue};

/// Subscribes and returns the loop. Events of `events.k8s.io` are stored as core Events.
pub(super) fn start(context: &Context) -> Loop {
    let queue = Arc::new(WorkQueue::default());
    let (wake, ttl) = (queue.clone(), context.config.event_ttl);
    context.informers.subscribe_meta(
        &ApiResource::erase::<Event>(&()),
        Box::new(move |old, new| {
            // One that is written again keeps its deadline; that it comes too early is found out then.
            if let Some(new) = new.filter(|new| old.is_none_or(|old| old.uid != new.uid)) {
                let created = new.creation_timestamp.as_ref().map(|time| time.0);
                wake.add_after(ObjectKey::from(new), left(created, ttl, Timestamp::now()));
            }
        }),
    );
    context.run(Expiry { client: context.client.clone(), ttl }, queue)
}

struct Expiry {
    client: kube::Client,
    ttl: Duration,
}

impl Controller for Expiry {
    type Key = ObjectKey;
    type View = Option<Event>;
    const NAME: &'static str = "event-ttl-controller";

    async fn observe(&self, key: &ObjectKey) -> Result<Option<Event>> {
        let found = Api::<Event>::namespaced(self.client.clone(), &key.namespace).get_opt(&key.name).await;
        found.map_err(|e| Error::api(format!("look for event {key}"), e))
    }

    fn plan(&self, _: &ObjectKey, view: &Option<Event>, now: Timestamp) -> Plan<Action> {
        plan(view.as_ref(), self.ttl, now)
    }
}

fn plan(event: Option<&Event>, ttl: Duration, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::default();
    let Some(event) = event else {
        return plan;
    };
    let left = left(last_write(event), ttl, now);
    if left.is_zero() {
        let (uid, resource_version) = (event.metadata.uid.clone(), event.metadata.resource_version.clone());
        // Not if it is counted up right now.
        let options = DeleteOptions { uid, resource_version, ..DeleteOptions::default() };
        plan.push(Action::Delete { target: Target::of(event), options, done: None, failed: None });
    } else {
        plan.again_after(left);
    }
    plan
}

/// How long an Event written then still has. One from the future (a clock ahead of ours) counts as written now.
fn left(written: Option<Timestamp>, ttl: Duration, now: Timestamp) -> Duration {
    written.map_or(ttl, |written| ttl.saturating_sub(until(now, written)))
}

fn last_write(event: &Event) -> Option<Timestamp> {
    let observed = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let micros = event.event_time.iter().chain(observed).map(|time| time.0);
    let seconds = event.metadata.creation_timestamp.iter().chain(&event.last_timestamp).map(|time| time.0);
    micros.chain(seconds).max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn an_event_lives_for_an_hour_after_its_last_write() {
        let ttl = Duration::from_secs(3600);
        for (fields, left) in [
            (json!({}), None),
            (json!({"firstTimestamp": at(0), "lastTimestamp": at(400)}), None),
            (json!({"lastTimestamp": at(500)}), Some(100)),
            (json!({"eventTime": at(500)}), Some(100)),
            (json!({"eventTime": at(1), "series": {"lastObservedTime": at(600)}}), Some(200)),
            (json!({"lastTimestamp": at(9999)}), Some(3600)),
        ] {
            let meta = json!({"name": "e", "namespace": "ns", "resourceVersion": "7", "creationTimestamp": at(0)});
            let mut event = json!({ "metadata": meta });
            json_patch::merge(&mut event, &fields);
            let event: Event = serde_json::from_value(event).unwrap();
            let plan = plan(Some(&event), ttl, at(4000));
            assert_eq!(plan.requeue_after.map(|wait| wait.as_secs()), left, "{fields}");
            let versions = plan.steps.iter().map(|step| match step {
                Action::Delete { options, .. } => options.resource_version.as_deref(),
                other => panic!("{other:?}"),
            });
            assert!(versions.eq(left.is_none().then_some(Some("7"))), "{fields}");
        }
        assert_eq!(plan(None, ttl, at(4000)), Plan::default(), "a second plan is empty");
    }
}
