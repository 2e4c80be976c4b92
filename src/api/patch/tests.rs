//! Patches by example.

use super::*;
use crate::api::kinds::{Kind, find};
use serde_json::json;

fn deployments() -> &'static Kind {
    find("apps", "v1", "deployments").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, sub: Sub::Main, now: "2026-01-01T00:00:00Z".parse().unwrap(), force: false }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

/// `{"spec": {"template": {"spec": <pod spec>}}}`
fn template(pod: Value) -> Value {
    json!({"spec": {"template": {"spec": pod}}})
}

#[test]
fn strategic_patches_follow_the_merge_keys() {
    let live = template(json!({
        "nodeSelector": {"a": "1"},
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "x"}],
        "containers": [{"name": "a", "image": "a:1", "args": ["1"]}, {"name": "b", "image": "b:1"}],
    }));
    for (why, patch, want) in [
        (
            "items merge by name, other lists are replaced",
            json!({"containers": [{"name": "b", "image": "b:2"}], "tolerations": [{"key": "y"}]}),
            json!({"nodeSelector": {"a": "1"}, "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "y"}],
                "containers": [{"name": "a", "image": "a:1", "args": ["1"]}, {"name": "b", "image": "b:2"}]}),
        ),
        (
            "null and $patch: delete remove",
            json!({"nodeSelector": null, "tolerations": null, "volumes": null, "containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "b:1"}]}),
        ),
        (
            "$setElementOrder orders, new items included",
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "tolerations": null, "volumes": null,
                "nodeSelector": null, "containers": [{"name": "c"}, {"name": "a", "args": null}]}),
            json!({"containers": [{"name": "b", "image": "b:1"}, {"name": "c"}, {"name": "a", "image": "a:1"}]}),
        ),
        (
            "$retainKeys clears what a union had before, $patch: replace starts afresh",
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}], "tolerations": null,
                "nodeSelector": {"$patch": "replace", "b": "2"}, "containers": [{"$patch": "replace"}, {"name": "z"}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}], "nodeSelector": {"b": "2"}, "containers": [{"name": "z"}]}),
        ),
    ] {
        assert_eq!(strategic(deployments(), &live, &template(patch)).unwrap(), template(want), "{why}");
    }
    let nameless = strategic(deployments(), &live, &template(json!({"containers": [{"image": "x"}]}))).unwrap_err();
    assert!(nameless.message.contains("does not contain declared merge key: name"), "{}", nameless.message);
}

#[test]
fn finalizers_merge_as_a_set() {
    let live = json!({"metadata": {"finalizers": ["a", "b"]}});
    let patched =
        |patch| strategic(deployments(), &live, &json!({"metadata": patch})).unwrap()["metadata"]["finalizers"].clone();
    assert_eq!(patched(json!({"finalizers": ["c", "a"]})), json!(["a", "b", "c"]));
    assert_eq!(patched(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})), json!(["b"]));
}

#[test]
fn an_applier_owns_what_it_names_and_loses_what_it_drops() {
    let config = deployment(
        json!({"replicas": 1, "paused": true, "template": {"spec": {"containers": [{"name": "a", "image": "a:1"}]}}}),
    );
    let first = apply(deployments(), None, &config, &writer("me")).unwrap();
    let fields = &first["metadata"]["managedFields"][0]["fieldsV1"];
    assert_eq!(
        *fields,
        json!({"f:spec": {"f:paused": {}, "f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
    assert_eq!(
        apply(deployments(), Some(&first), &config, &writer("me")).unwrap(),
        first,
        "the same again changes nothing"
    );

    let mut defaulted = first.clone();
    defaulted["spec"]["revisionHistoryLimit"] = json!(10);
    let less =
        deployment(json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "b", "image": "b:1"}]}}}));
    let second = apply(deployments(), Some(&defaulted), &less, &writer("me")).unwrap();
    assert_eq!(
        second["spec"],
        json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "b", "image": "b:1"}]}}, "revisionHistoryLimit": 10})
    );
}

#[test]
fn another_value_for_somebody_elses_field_is_a_conflict() {
    let mut live = deployment(json!({"replicas": 1}));
    track(deployments(), None, &mut live, &writer("kubectl-create"));
    let config = deployment(json!({"replicas": 2}));
    let refused = apply(deployments(), Some(&live), &config, &writer("me")).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1 at 2026-01-01T00:00:00Z: .spec.replicas"
        )
    );
    let same = apply(deployments(), Some(&live), &deployment(json!({"replicas": 1})), &writer("me")).unwrap();
    assert_eq!(same["metadata"]["managedFields"].as_array().unwrap().len(), 2, "agreeing shares the field");
    let forced = apply(deployments(), Some(&live), &config, &Writer { force: true, ..writer("me") }).unwrap();
    let owners = forced["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((owners.len(), &owners[0]["manager"], &forced["spec"]["replicas"]), (1, &json!("me"), &json!(2)));
}

#[test]
fn a_field_two_appliers_share_stays_until_the_last_drops_it() {
    let both = deployment(json!({"replicas": 1, "paused": true}));
    let one = apply(deployments(), None, &both, &writer("one")).unwrap();
    let two = apply(deployments(), Some(&one), &both, &writer("two")).unwrap();
    let less = deployment(json!({"replicas": 1}));
    let kept = apply(deployments(), Some(&two), &less, &writer("one")).unwrap();
    assert_eq!(kept["spec"]["paused"], true);
    let gone = apply(deployments(), Some(&kept), &less, &writer("two")).unwrap();
    assert_eq!(gone["spec"].get("paused"), None);
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let applied =
        apply(deployments(), None, &deployment(json!({"replicas": 1, "paused": true})), &writer("me")).unwrap();
    let mut scaled = applied.clone();
    scaled["spec"]["replicas"] = json!(5);
    track(deployments(), Some(&applied), &mut scaled, &writer("kubectl-scale"));
    let entries = scaled["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(
        (&entries[1]["manager"], &entries[1]["fieldsV1"]),
        (&json!("kubectl-scale"), &json!({"f:spec": {"f:replicas": {}}}))
    );
}

#[test]
fn ports_without_a_protocol_are_tcp() {
    let services = find("", "v1", "services").unwrap();
    let service = |port: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [port]}});
    let mut live = apply(services, None, &service(json!({"port": 80})), &writer("me")).unwrap();
    live["spec"]["ports"][0]["protocol"] = json!("TCP");
    let again = apply(services, Some(&live), &service(json!({"port": 80, "name": "http"})), &writer("me")).unwrap();
    assert_eq!(again["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "name": "http"}]));
}

#[test]
fn json_patches_test_before_they_change() {
    let object = json!({"a": 1});
    assert_eq!(json(&object, &json!([{"op": "add", "path": "/b", "value": 2}])).unwrap(), json!({"a": 1, "b": 2}));
    assert_eq!(json(&object, &json!([{"op": "test", "path": "/a", "value": 2}])).unwrap_err().code, 422);
    assert_eq!(merge(&object, &json!({"a": null, "c": 3})), json!({"c": 3}));
}
