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
fn an_empty_map_or_list_takes_nothing_from_others() {
    let filled = |labels: Value, volumes: Value, container: Value| {
        let mut container = container;
        container["name"] = "a".into();
        let mut object = deployment(json!({"template": {"spec": {"containers": [container], "volumes": volumes}}}));
        object["metadata"]["labels"] = labels;
        object
    };
    let volume = json!({"name": "v", "emptyDir": {}});
    let container = json!({"env": [{"name": "E", "value": "1"}], "args": ["x"], "resources": {"limits": {"cpu": "1"}}});
    let mut live = filled(json!({"x": "y"}), json!([volume]), container);
    track(deployments(), None, &mut live, &writer("kubectl-create"));
    let nothing = json!({"env": [], "resources": {}, "args": []});
    let force = Writer { force: true, ..writer("me") };
    let config = filled(json!({}), json!([]), nothing);
    let applied = apply(deployments(), Some(&live), &config, &force).unwrap();
    let mut want = live.clone();
    want["spec"]["template"]["spec"]["containers"][0]["args"] = json!([]); // an atomic list is one value
    assert_eq!((&applied["spec"], &applied["metadata"]["labels"]), (&want["spec"], &want["metadata"]["labels"]));
    let fields = |object: &Value, of: &str| {
        let owners = object["metadata"]["managedFields"].as_array().unwrap();
        owners.iter().find(|o| o["manager"] == of).unwrap()["fieldsV1"].clone()
    };
    let mut theirs = fields(&live, "kubectl-create");
    let containers = theirs.pointer_mut("/f:spec/f:template/f:spec/f:containers").unwrap();
    containers["k:{\"name\":\"a\"}"].as_object_mut().unwrap().shift_remove("f:args");
    assert_eq!(fields(&applied, "kubectl-create"), theirs);
    // What the applier itself had goes when it says it has nothing.
    let mine = filled(json!({"m": "n"}), json!([{"name": "w", "emptyDir": {}}]), json!({"env": [{"name": "F"}]}));
    let both = apply(deployments(), Some(&live), &mine, &force).unwrap();
    assert_eq!(both["metadata"]["labels"], json!({"x": "y", "m": "n"}));
    let again = apply(deployments(), Some(&both), &config, &force).unwrap();
    assert_eq!((&again["spec"], &again["metadata"]["labels"]), (&want["spec"], &want["metadata"]["labels"]));
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

#[test]
fn json_patches_stay_within_bounds() {
    let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!({"x": inner}));
    let deepest = |levels| "/x".repeat(levels);
    let copies = |from: &str, path: &dyn Fn(usize) -> String, times: usize| {
        (0..times).map(|n| json!({"op": "copy", "from": from, "path": path(n)})).collect::<Value>()
    };
    let object = json!({"a": {"k": "v".repeat(1000)}, "b": nested(40), "c": nested(40)});
    let (too_deep, too_large) = (Some("exceeded max depth"), Some("exceeding the limit 3145728"));
    for (what, patch, refused) in [
        ("some copies", copies("/a", &|n| format!("/d{n}"), 100), None),
        ("copies of copies", copies("/a", &|n| format!("/a/d{n}"), 40), too_large),
        ("a copy into itself", copies("/b", &|_| format!("/b{}/y", deepest(39)), 12), too_deep),
        (
            "a move into another",
            json!([{"op": "move", "from": "/b", "path": format!("/c{}/y", deepest(39))}]),
            too_deep,
        ),
        (
            "values in values",
            json!([{"op": "add", "path": "/d", "value": nested(50)},
            {"op": "replace", "path": format!("/d{}", deepest(50)), "value": nested(50)}]),
            too_deep,
        ),
        ("a deep value", json!([{"op": "add", "path": "/d", "value": nested(50)}]), None),
    ] {
        let message = json(&object, &patch).err().map(|e| e.message);
        assert_eq!(message.is_some(), refused.is_some(), "{what}: {message:?}");
        assert!(message.unwrap_or_default().contains(refused.unwrap_or_default()), "{what}");
    }
    let second = json!([{"op": "add", "path": "/d", "value": 1}, {"op": "remove", "path": "/e"}]);
    assert!(json(&object, &second).unwrap_err().message.contains("operation '/1' failed at path '/e'"));
}
