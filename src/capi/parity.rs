//! Compares a copy with its source: everything that a person or a controller wrote must be the same.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde_json::Value;

use super::graph::Uid;
use super::{DELETE_FOR_MOVE, MARK};

/// What differs between an object and its copy, as field paths; values are left out, since they may be secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Fields that the copy lacks or has with another value.
    pub changed: Vec<String>,
    /// Fields that only the copy has: defaults of the target's definitions and webhooks, a controller's finalizers.
    pub defaulted: Vec<String>,
}

/// Compares a copy with its source.
///
/// Fields that the server sets and `status` (which providers rebuild) are not compared; UIDs of owners are compared as
/// `uids` maps them from source to copy.
pub fn differences(source: &DynamicObject, copy: &DynamicObject, uids: &BTreeMap<Uid, Uid>) -> Differences {
    let mut found = Differences::default();
    let mut left = essence(source, |uid| uids.get(&uid).map(|u| u.0.clone()));
    if has(source, DELETE_FOR_MOVE) {
        // It is on its way out: its finalizers were taken away for that.
        left["metadata"]["finalizers"] = Value::Null;
    }
    walk("", &left, &essence(copy, |uid| Some(uid.0)), &mut found);
    found
}

/// Whether an object has an annotation.
pub(super) fn has(object: &DynamicObject, annotation: &str) -> bool {
    object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(annotation))
}

/// The part of an object that a move must keep.
fn essence(object: &DynamicObject, map: impl Fn(Uid) -> Option<String>) -> Value {
    let mut value = object.data.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let metadata = &object.metadata;
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(MARK);
    annotations.remove(DELETE_FOR_MOVE);
    let owners: Vec<Value> = metadata
        .owner_references
        .iter()
        .flatten()
        .map(|owner| {
            let mut owner = owner.clone();
            owner.uid = map(Uid(owner.uid)).unwrap_or_else(|| "not copied".into());
            serde_json::to_value(owner).unwrap_or_default()
        })
        .collect();
    // As a set: their order says nothing, and one more is no change of the others.
    let finalizers: BTreeMap<&String, bool> = metadata.finalizers.iter().flatten().map(|f| (f, true)).collect();
    value["metadata"] = serde_json::json!({
        "annotations": annotations,
        "labels": metadata.labels.clone().unwrap_or_default(),
        "finalizers": finalizers,
        "ownerReferences": owners,
    });
    value
}

fn walk(path: &str, left: &Value, right: &Value, found: &mut Differences) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                walk(&format!("{path}.{key}"), value, b.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                walk(&format!("{path}.{key}"), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), x, y, found);
            }
        }
        // An absent field and one that is null or empty mean the same to every API server.
        _ if empty(left) && empty(right) => {}
        _ if left == right => {}
        _ => {
            let path = path.trim_start_matches('.').to_owned();
            let list = if empty(left) && may_be_added(&path) { &mut found.defaulted } else { &mut found.changed };
            list.push(path);
        }
    }
}

/// Whether something that only the copy has can be a default: nothing adds owners or content of its own accord.
fn may_be_added(path: &str) -> bool {
    let top = path.split(['.', '[']).next().unwrap_or_default();
    !matches!(top, "data" | "binaryData" | "stringData") && !path.starts_with("metadata.ownerReferences")
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn machine(uid: &str, owner: &str) -> Value {
        json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
            "metadata": {
                "name": "m", "namespace": "default", "uid": uid, "resourceVersion": uid, "generation": 3,
                "labels": {"a": "b"}, "finalizers": ["f"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "Cluster", "name": "c", "uid": owner}],
            },
            "spec": {"providerID": "local://m", "list": [1, 2]},
        })
    }

    #[test]
    fn a_copy_with_new_uids_is_equal() {
        let uids = BTreeMap::from([(Uid("c1".into()), Uid("c2".into()))]);
        let mut copy = machine("m2", "c2");
        copy["metadata"]["annotations"] = json!({MARK: "run"});
        copy["status"] = json!({"phase": "Running"});
        assert_eq!(differences(&object(machine("m1", "c1")), &object(copy), &uids), Differences::default());
    }

    #[test]
    fn differences_are_named_by_path() {
        let uids = BTreeMap::from([(Uid("c1".into()), Uid("c2".into()))]);
        let source = object(machine("m1", "c1"));
        let mut copy = machine("m2", "c3");
        copy["spec"]["list"][1] = json!(3);
        copy["spec"]["more"] = json!(true);
        copy["metadata"]["labels"]["a"] = json!("x");
        let found = differences(&source, &object(copy), &uids);
        assert_eq!(found.changed, ["metadata.labels.a", "metadata.ownerReferences[0].uid", "spec.list[1]"]);
        assert_eq!(found.defaulted, ["spec.more"]);
        assert_eq!(differences(&source, &object(machine("m2", "c2")), &BTreeMap::new()).changed.len(), 1);
    }

    #[test]
    fn a_missing_field_is_a_difference() {
        let source = object(machine("m1", "c1"));
        let mut copy = machine("m2", "c2");
        copy["spec"].as_object_mut().unwrap().remove("providerID");
        let uids = BTreeMap::from([(Uid("c1".into()), Uid("c2".into()))]);
        assert_eq!(differences(&source, &object(copy), &uids).changed, ["spec.providerID"]);
    }

    #[test]
    fn what_is_being_deleted_is_compared_without_its_finalizers() {
        let uids = BTreeMap::from([(Uid("c1".into()), Uid("c2".into()))]);
        let mut source = machine("m1", "c1");
        source["metadata"]["finalizers"] = json!(null);
        let copy = object(machine("m2", "c2"));
        let found = differences(&object(source.clone()), &copy, &uids);
        assert_eq!(found.defaulted, ["metadata.finalizers.f"]);
        source["metadata"]["annotations"] = json!({DELETE_FOR_MOVE: ""});
        let found = differences(&object(source), &copy, &uids);
        assert_eq!(found.changed, Vec::<String>::new());
    }

    #[test]
    fn content_that_only_the_copy_has_is_a_change() {
        let secret = |data: Value| {
            object(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": data}))
        };
        let found = differences(&secret(json!({"a": "x"})), &secret(json!({"a": "x", "b": "y"})), &BTreeMap::new());
        assert_eq!(found.changed, ["data.b"]);
    }
}
