//! What a plan would change on a live cluster: the API server itself says it, by dry runs.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use serde_json::Value;

use super::{By, Mask, Plan, Target};
use crate::flux::{self, RELEASE_NAMESPACE};
use crate::k8s::{Cluster, DynamicObject, Error, GroupVersionKind, ObjectRef, Result, reference};

/// How many objects are compared at once.
const PARALLEL: usize = 16;

/// Fields that every write changes, and what controllers report.
const OWN: [&str; 5] = ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"];

/// What Flux and Helm add to the objects that they apply.
const ADDED: [&str; 2] = ["toolkit.fluxcd.io/", "app.kubernetes.io/managed-by"];

/// A field that would change; `null` stands for no field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The field, as `spec.replicas`.
    pub field: String,
    /// Its value on the cluster.
    pub before: Value,
    /// Its value by the plan.
    pub after: Value,
}

/// What would become of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Difference {
    /// It would be made.
    Create {
        /// The object.
        object: ObjectRef,
    },
    /// It would be changed.
    Change {
        /// The object.
        object: ObjectRef,
        /// Its fields.
        changes: Vec<Change>,
    },
    /// Flux would delete it, because the repository does not hold it any more.
    Delete {
        /// The object.
        object: ObjectRef,
    },
}

/// Compares the parts of one cluster with what is there; objects that would stay as they are are left out.
pub async fn against(plan: &Plan, target: Target, cluster: &Cluster, mask: &Mask) -> Result<Vec<Difference>> {
    // The same object may be in several parts; what is applied last stays.
    let mut objects: BTreeMap<ObjectRef, (&DynamicObject, By)> = BTreeMap::new();
    for part in plan.parts.iter().filter(|part| part.cluster == target) {
        objects.extend(part.objects.iter().map(|object| (reference(object), (object, part.by))));
    }
    let compared = futures::stream::iter(&objects)
        .map(|(named, (object, by))| compare(cluster, named, object, *by, mask))
        .buffered(PARALLEL);
    let mut all: Vec<Difference> = compared.try_filter_map(async |found| Ok(found)).try_collect().await?;
    let planned = objects.keys().map(|named| (named.group().to_owned(), named.kind.clone(), named.name.clone()));
    all.extend(pruned(cluster, &planned.collect()).await?);
    Ok(all)
}

async fn compare(
    cluster: &Cluster,
    named: &ObjectRef,
    object: &DynamicObject,
    by: By,
    mask: &Mask,
) -> Result<Option<Difference>> {
    let Some(live) = cluster.get(named).await? else {
        return Ok(Some(Difference::Create { object: named.clone() }));
    };
    let mut planned = object.clone();
    keep_added(&mut planned, &live);
    let applied = match cluster.dry_run(&planned, by.manager(), false).await {
        Ok(applied) => applied,
        // Some fields can never change; the object is made anew then, or Flux reports it.
        Err(error) if error.code() == Some(422) => {
            let reason = Value::from(mask.replace(&error.to_string()));
            let changes = vec![Change { field: "(refused)".into(), before: Value::Null, after: reason }];
            return Ok(Some(Difference::Change { object: named.clone(), changes }));
        }
        Err(error) => return Err(error),
    };
    let changes = changes(&live, &applied, named.kind == "Secret", mask);
    Ok((!changes.is_empty()).then(|| Difference::Change { object: named.clone(), changes }))
}

/// Gives a planned object the marks of whoever applied the live one: they are not in the repository.
fn keep_added(planned: &mut DynamicObject, live: &DynamicObject) {
    let pairs = [
        (&mut planned.metadata.labels, &live.metadata.labels),
        (&mut planned.metadata.annotations, &live.metadata.annotations),
    ];
    for (planned, live) in pairs {
        for (name, value) in live.iter().flatten() {
            if ADDED.iter().any(|mark| name.contains(mark)) || name.starts_with("meta.helm.sh/") {
                planned.get_or_insert_default().entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

fn changes(live: &DynamicObject, applied: &DynamicObject, secret: bool, mask: &Mask) -> Vec<Change> {
    let (before, after) = (fields(live), fields(applied));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |value: Option<&Value>| match value {
        None => Value::Null,
        Some(_) if secret => Value::from("***"),
        Some(Value::String(text)) => Value::from(mask.replace(text)),
        Some(value) => value.clone(),
    };
    names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| Change { field: name.clone(), before: shown(before.get(name)), after: shown(after.get(name)) })
        .collect()
}

/// Every leaf of an object by its path, without what every write changes.
fn fields(object: &DynamicObject) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.retain(|name, _| !OWN.contains(&name.as_str()));
    }
    flatten(&value, "", &mut all);
    all
}

fn flatten(value: &Value, path: &str, all: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                flatten(field, &below(name), all);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                flatten(item, &below(&index.to_string()), all);
            }
        }
        leaf => {
            all.insert(path.to_owned(), leaf.clone());
        }
    }
}

/// What the live Kustomizations of the release would delete: objects of their inventories that are not planned.
async fn pruned(cluster: &Cluster, planned: &BTreeSet<(String, String, String)>) -> Result<Vec<Difference>> {
    let gvk = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
    let live = match cluster.list(&gvk, Some(RELEASE_NAMESPACE), None).await {
        Err(Error::UnknownKind { .. }) => Vec::new(),
        found => found?,
    };
    let mut all = Vec::new();
    for kustomization in live.iter().filter(|object| object.data["spec"]["prune"] == true) {
        // With a kubeconfig it acts on another cluster.
        if kustomization.data["spec"]["kubeConfig"].is_object() {
            continue;
        }
        for (group, kind, namespace, name) in flux::inventory(kustomization) {
            if !planned.contains(&(group.clone(), kind.clone(), name.clone())) {
                let object =
                    ObjectRef { api_version: group, kind, namespace: Some(namespace).filter(|n| !n.is_empty()), name };
                all.push(Difference::Delete { object });
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn fields_that_differ_are_named_and_secrets_are_not_shown() {
        let live =
            object(json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "uid": "1", "generation": 2},
            "spec": {"replicas": 1, "list": [{"a": "b"}], "gone": true}, "status": {"x": 1}}));
        let applied =
            object(json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "uid": "1", "generation": 3},
            "spec": {"replicas": 2, "list": [{"a": "hunter2"}]}}));
        let mask = Mask::default();
        let found = changes(&live, &applied, false, &mask);
        let shown: Vec<String> = found.iter().map(|c| format!("{} {} {}", c.field, c.before, c.after)).collect();
        assert_eq!(shown, ["spec.gone true null", "spec.list.0.a \"b\" \"hunter2\"", "spec.replicas 1 2"]);
        let hidden = serde_json::to_string(&changes(&live, &applied, true, &mask)).unwrap();
        assert!(!hidden.contains("hunter2"), "{hidden}");
        assert!(changes(&live, &live, false, &mask).is_empty());
    }

    #[test]
    fn marks_of_flux_are_kept() {
        let live = object(json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a",
            "labels": {"kustomize.toolkit.fluxcd.io/name": "k", "other": "x"}}}));
        let mut planned = object(json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}}));
        keep_added(&mut planned, &live);
        assert_eq!(planned.metadata.labels.unwrap(), [("kustomize.toolkit.fluxcd.io/name".into(), "k".into())].into());
    }
}
