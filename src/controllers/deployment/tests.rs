//! Rollouts in a small world: plans are performed, ReplicaSets obey at once or as told, and every story ends with a
//! plan that is empty.
use serde_json::{Value, json};

use super::*;
use crate::controllers::tests::world::World;

/// A world with one deployment `web` and replica sets that do as they are told.
struct Story {
    world: World,
    now: Timestamp,
    /// New pods become available.
    healthy: bool,
    /// Most pods and fewest available pods seen.
    seen: (i32, i32),
}

impl Story {
    fn new(spec: Value) -> Self {
        let mut all = json!({
            "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600,
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "one"}]}},
        });
        json_patch::merge(&mut all, &spec);
        let deployment: Deployment =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": all})).unwrap();
        let mut world = World::default();
        world.put(&deployment);
        let now = Timestamp::from_second(1_700_001_000).unwrap();
        let mut story = Self { world, now, healthy: true, seen: (0, i32::MAX) };
        story.settle();
        story
    }

    fn view(&self) -> View {
        let deployment = self.world.list::<Deployment>().pop();
        let sets = self.world.list::<ReplicaSet>();
        let name = deployment.as_deref().map(revision::new_set_name);
        let namesake = sets.iter().find(|set| set.metadata.name == name).cloned();
        let running = |set: &&Arc<ReplicaSet>| set.status.as_ref().is_some_and(|status| status.replicas > 0);
        let running = sets.iter().filter(running).filter_map(|set| set.metadata.uid.clone()).collect();
        View { deployment, sets, namesake, running }
    }

    /// Plans and performs once; says whether there was anything to do.
    fn step(&mut self) -> bool {
        let plan = plan(&self.view(), self.now);
        self.world.perform(&plan.steps);
        !plan.steps.is_empty()
    }

    /// Replica sets make as many pods as told, all available if healthy.
    fn obey(&mut self) -> bool {
        let before = self.world.list::<ReplicaSet>();
        let healthy = self.healthy;
        self.world.change::<ReplicaSet>(|set| {
            let size = scale::size(set);
            let generation = set.metadata.generation;
            let status = set.status.get_or_insert_default();
            let available = if healthy { size } else { status.available_replicas.unwrap_or(0).min(size) };
            status.replicas = size;
            status.ready_replicas = Some(available);
            status.available_replicas = Some(available);
            status.observed_generation = generation;
        });
        let after = self.world.list::<ReplicaSet>();
        let pods: i32 = after.iter().map(|set| scale::size(set)).sum();
        let available: i32 = after.iter().map(|set| scale::available(set)).sum();
        self.seen = (self.seen.0.max(pods), self.seen.1.min(available));
        let statuses = |sets: &[Arc<ReplicaSet>]| sets.iter().map(|set| set.status.clone()).collect::<Vec<_>>();
        statuses(&before) != statuses(&after)
    }

    /// Until nothing is to be done and nobody has news.
    fn settle(&mut self) {
        for _ in 0..200 {
            let acted = self.step();
            if !self.obey() && !acted {
                assert!(!self.step(), "a second plan is empty");
                return;
            }
        }
        panic!("does not settle: {:?}", self.world.events);
    }

    fn set(&mut self, spec: Value) {
        let mut deployment = serde_json::to_value(self.deployment().as_ref()).unwrap();
        json_patch::merge(&mut deployment, &json!({ "spec": spec }));
        deployment["metadata"]["generation"] = json!(deployment["metadata"]["generation"].as_i64().unwrap() + 1);
        self.world.put(&serde_json::from_value::<Deployment>(deployment).unwrap());
    }

    fn image(&mut self, image: &str) {
        self.set(json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}));
    }

    fn deployment(&self) -> Arc<Deployment> {
        self.world.list::<Deployment>().pop().unwrap()
    }

    /// "image=replicas (available)" of each set, oldest first.
    fn sets(&self) -> Vec<String> {
        let mut sets = self.world.list::<ReplicaSet>();
        sets.sort_by_key(|set| set.metadata.creation_timestamp.clone().map(|time| time.0));
        let say = |set: &Arc<ReplicaSet>| {
            let template = set.spec.as_ref().unwrap().template.clone().unwrap();
            let image = template.spec.unwrap().containers[0].image.clone().unwrap();
            format!("{image}={} ({})", scale::size(set), scale::available(set))
        };
        sets.iter().map(say).collect()
    }

    fn condition(&self, kind: &str) -> String {
        let conditions = self.deployment().status.clone().unwrap_or_default().conditions.unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition.type_ == kind);
        found.map(|c| format!("{} {}", c.status, c.reason.unwrap_or_default())).unwrap_or_default()
    }

    fn revision(&self) -> String {
        let annotations = self.deployment().metadata.annotations.clone().unwrap_or_default();
        annotations["deployment.kubernetes.io/revision"].clone()
    }
}

#[test]
fn a_new_deployment_makes_one_set_and_is_done() {
    let story = Story::new(json!({"replicas": 3}));
    assert_eq!(story.sets(), ["one=3 (3)"]);
    assert_eq!(story.condition("Available"), "True MinimumReplicasAvailable");
    assert_eq!(story.condition("Progressing"), "True NewReplicaSetAvailable");
    let deployment = story.deployment();
    let status = deployment.status.as_ref().unwrap();
    assert_eq!((status.replicas, status.updated_replicas, status.unavailable_replicas), (Some(3), Some(3), None));
    assert_eq!(status.observed_generation, deployment.metadata.generation);
    assert_eq!(story.revision(), "1");
    let name = story.world.list::<ReplicaSet>()[0].metadata.name.clone().unwrap();
    assert_eq!(story.world.events, [format!("ScalingReplicaSet: Scaled up replica set {name} from 0 to 3")]);
}

#[test]
fn a_rolling_update_stays_between_its_fenceposts() {
    for (replicas, surge, unavailable) in
        [(10, json!(3), json!(2)), (4, json!("25%"), json!("25%")), (1, json!(1), json!(0)), (5, json!(0), json!(1))]
    {
        let rolling =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let mut story = Story::new(json!({"replicas": replicas, "strategy": rolling}));
        story.seen = (0, i32::MAX);
        story.image("two");
        story.settle();
        assert_eq!(story.sets().last().unwrap(), &format!("two={replicas} ({replicas})"));
        let spec = story.deployment().spec.clone().unwrap();
        assert!(story.seen.0 <= replicas + scale::max_surge(&spec), "{:?} of {replicas}", story.seen);
        assert!(story.seen.1 >= replicas - scale::max_unavailable(&spec), "{:?} of {replicas}", story.seen);
        assert_eq!(story.revision(), "2");
    }
}

#[test]
fn an_update_that_never_gets_ready_stops_halfway_and_misses_its_deadline() {
    let rolling = json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let mut story = Story::new(json!({"replicas": 10, "strategy": rolling}));
    story.healthy = false;
    story.image("two");
    story.settle();
    assert_eq!(story.sets(), ["one=8 (8)", "two=5 (0)"]);
    assert_eq!(story.condition("Available"), "True MinimumReplicasAvailable");
    assert_eq!(story.condition("Progressing"), "True ReplicaSetUpdated");
    let wait = plan(&story.view(), story.now).requeue_after.unwrap();
    assert_eq!(wait.as_secs(), 601);
    story.now += jiff::SignedDuration::from_secs(601);
    story.settle();
    assert_eq!(story.condition("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(plan(&story.view(), story.now).requeue_after, None);
}

#[test]
fn what_was_done_long_ago_waits_for_no_deadline() {
    let mut story = Story::new(json!({"replicas": 1}));
    story.now += jiff::SignedDuration::from_secs(6000);
    story.healthy = false;
    story.set(json!({"replicas": 2}));
    story.settle();
    assert_eq!(story.sets(), ["one=2 (1)"]);
    assert_eq!(story.condition("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(plan(&story.view(), story.now).requeue_after, None);
}

#[test]
fn an_overdue_deployment_that_is_being_deleted_waits_for_no_deadline() {
    let mut story = Story::new(json!({"replicas": 1}));
    story.healthy = false;
    story.image("two");
    story.settle();
    story.now += jiff::SignedDuration::from_secs(6000);
    let ending = super::super::pods::time(story.now);
    story.world.change::<Deployment>(|d| d.metadata.deletion_timestamp = Some(ending.clone()));
    story.settle();
    assert_eq!(plan(&story.view(), story.now).requeue_after, None);
}

#[test]
fn a_recreate_that_waits_for_old_pods_misses_its_deadline() {
    let mut story = Story::new(json!({"replicas": 3, "strategy": {"type": "Recreate"}}));
    story.image("two");
    story.step();
    story.world.change::<ReplicaSet>(|set| set.status.get_or_insert_default().replicas = 2); // one ended, two will not
    while story.step() {}
    assert_eq!(story.condition("Progressing"), "True ReplicaSetUpdated");
    assert_eq!(plan(&story.view(), story.now).requeue_after.unwrap().as_secs(), 601);
    story.now += jiff::SignedDuration::from_secs(601);
    assert!(story.step() && !story.step());
    assert_eq!(story.condition("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(plan(&story.view(), story.now).requeue_after, None);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let rolling = json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let mut story = Story::new(json!({"replicas": 10, "strategy": rolling}));
    story.healthy = false;
    story.image("two");
    story.settle();
    story.set(json!({"replicas": 15}));
    story.settle();
    assert_eq!(story.sets(), ["one=11 (8)", "two=7 (0)"], "the example of Kubernetes' documentation");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut story = Story::new(json!({"replicas": 2}));
    story.set(json!({"paused": true}));
    story.image("two");
    story.set(json!({"replicas": 4}));
    story.settle();
    assert_eq!(story.sets(), ["one=4 (4)"]);
    assert_eq!(story.condition("Progressing"), "Unknown DeploymentPaused");
    story.set(json!({"paused": null}));
    story.settle();
    assert_eq!(story.sets(), ["one=0 (0)", "two=4 (4)"]);
    assert_eq!(story.condition("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn going_back_reuses_the_old_set_as_a_new_revision() {
    let mut story = Story::new(json!({"replicas": 2}));
    story.image("two");
    story.settle();
    story.image("one");
    story.settle();
    assert_eq!(story.sets(), ["one=2 (2)", "two=0 (0)"]);
    assert_eq!(story.revision(), "3");
    let sets = story.world.list::<ReplicaSet>();
    let history = sets
        .iter()
        .filter_map(|set| set.metadata.annotations.as_ref()?.get("deployment.kubernetes.io/revision-history"));
    assert_eq!(history.collect::<Vec<_>>(), ["1"]);
}

#[test]
fn recreate_ends_the_old_before_it_starts_the_new() {
    let mut story = Story::new(json!({"replicas": 3, "strategy": {"type": "Recreate"}}));
    story.image("two");
    assert!(story.step());
    assert_eq!(story.sets(), ["one=0 (3)"], "scaled down, still running");
    story.step();
    assert_eq!(story.sets().len(), 1, "waits for the old pods");
    story.settle();
    assert_eq!(story.sets(), ["one=0 (0)", "two=3 (3)"]);
}

#[test]
fn old_sets_beyond_the_limit_go_oldest_first() {
    let mut story = Story::new(json!({"replicas": 1, "revisionHistoryLimit": 2}));
    for image in ["two", "three", "four", "five"] {
        story.image(image);
        story.settle();
    }
    assert_eq!(story.sets(), ["three=0 (0)", "four=0 (0)", "five=1 (1)"]);
}

#[test]
fn a_taken_name_is_counted_around() {
    let mut story = Story::new(json!({"replicas": 0}));
    story.image("two");
    let taken = revision::new_set_name(&story.deployment());
    let foreign = json!({"metadata": {"name": taken, "namespace": "ns", "labels": {"app": "other"}},
        "spec": {"selector": {"matchLabels": {"app": "other"}}}});
    story.world.put(&serde_json::from_value::<ReplicaSet>(foreign).unwrap());
    assert!(story.step());
    assert_eq!(story.deployment().status.as_ref().unwrap().collision_count, Some(1));
    assert!(story.step());
    assert_eq!(story.world.list::<ReplicaSet>().len(), 3);
}

#[test]
fn what_keeps_a_set_from_its_pods_is_said_of_the_deployment() {
    let mut story = Story::new(json!({"replicas": 1}));
    story.world.change::<ReplicaSet>(|set| {
        let failure = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]);
        set.status.get_or_insert_default().conditions = serde_json::from_value(failure).unwrap();
    });
    story.step();
    assert_eq!(story.condition("ReplicaFailure"), "True FailedCreate");
}
