//! What a pivot does to one object: copy it, take it away, mark it.

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, TypeMeta};
use serde_json::{Value, json};

use super::graph::Uid;
use super::{DELETE_FOR_MOVE, Error, MARK};
use crate::clock::Look;
use crate::failure::{Failure, Result};
use crate::k8s::{self, Cluster, MANAGER, ObjectRef, reference};
use crate::saga::Scope;

/// Tries again while a failure is transient.
pub(super) async fn patiently<T>(
    scope: &Scope,
    what: String,
    mut work: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T> {
    scope
        .wait(what)
        .every(Duration::from_millis(200))
        .until(async || match work().await {
            Ok(value) => Ok(Look::Ready(value)),
            Err(Error::Cluster(error)) if error.transient() => Ok(Look::Pending(error.to_string())),
            Err(error) => Err(Failure::from(error)),
        })
        .await
}

/// The object that is created on the target: the source without what its server set, owned by the owners' copies.
pub(super) fn copy_of(source: &DynamicObject, uids: &BTreeMap<Uid, Uid>, id: &str) -> DynamicObject {
    let mut copy = source.clone();
    let metadata = &mut copy.metadata;
    metadata.resource_version = None;
    metadata.uid = None;
    metadata.creation_timestamp = None;
    metadata.generation = None;
    metadata.managed_fields = None;
    metadata.deletion_timestamp = None;
    metadata.annotations.get_or_insert_default().insert(MARK.into(), id.into());
    for owner in metadata.owner_references.iter_mut().flatten() {
        if let Some(uid) = uids.get(&Uid(owner.uid.clone())) {
            owner.uid.clone_from(&uid.0);
        }
    }
    if let Some(fields) = copy.data.as_object_mut() {
        fields.remove("status");
    }
    copy
}

/// Creates a copy on the target and returns its UID; a copy that this pivot made earlier is kept, and so is, when
/// `shared`, whatever the target has.
pub(super) async fn create(
    target: &Cluster,
    source: &DynamicObject,
    copy: &DynamicObject,
    shared: bool,
) -> Result<Uid, Error> {
    let named = reference(source);
    let api = target.api(&named.gvk(), named.namespace.as_deref()).await?;
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let request = |action: &str, source| {
        let action = format!("{action} {named}");
        k8s::Error::Request { cluster: target.name().into(), action, source: Box::new(source) }
    };
    let created = match api.create(&params, copy).await {
        Ok(created) => created,
        Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
            let existing = api.get(&named.name).await.map_err(|e| request("read", e))?;
            if mark(&existing) != mark(copy) {
                if shared {
                    return Ok(Uid::of(&existing));
                }
                return Err(Error::Conflict { object: named.clone().into(), cluster: target.name().into() });
            }
            existing
        }
        Err(error) => return Err(request("create", error).into()),
    };
    restore_managers(&api, source, &named.name).await.map_err(|e| request("restore the field managers of", e))?;
    Ok(Uid::of(&created))
}

/// Gives the copy the field managers of its source: creating it made us the owner of every field, and whoever
/// applies it next would be in conflict with us for ever.
async fn restore_managers(api: &Api<DynamicObject>, source: &DynamicObject, name: &str) -> Result<(), kube::Error> {
    let managers = source.metadata.managed_fields.clone().unwrap_or_default();
    if managers.is_empty() {
        return Ok(());
    }
    let patch = json!({"metadata": {"managedFields": managers}});
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    // Only metadata is needed of the answer.
    api.patch_metadata(name, &params, &Patch::Merge(&patch)).await.map(|_| ())
}

/// The value of our mark.
pub(super) fn mark(object: &DynamicObject) -> Option<&str> {
    object.metadata.annotations.as_ref()?.get(MARK).map(String::as_str)
}

/// Takes an object away as a move does (its finalizers have nothing to do: what they guard moved) and waits until it
/// is gone. An object of the same name with another UID is left alone.
pub(super) async fn remove(scope: &Scope, cluster: &Cluster, object: &ObjectRef, uid: &Uid) -> Result<()> {
    scope
        .wait(format!("{object} to be gone from the {} cluster", cluster.name()))
        .every(Duration::from_millis(50))
        .until(async || match remove_once(cluster, object, uid).await {
            Ok(None) => Ok(Look::Ready(())),
            Ok(Some(state)) => Ok(Look::Pending(state)),
            Err(error) if error.transient() || error.conflict() => Ok(Look::Pending(error.to_string())),
            Err(error) => Err(error.into()),
        })
        .await
}

/// One round of [`remove`]; `None` when the object is gone.
async fn remove_once(cluster: &Cluster, object: &ObjectRef, uid: &Uid) -> k8s::Result<Option<String>> {
    let Some(found) = cluster.get(object).await?.filter(|found| Uid::of(found) == *uid) else { return Ok(None) };
    let marked = found.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(DELETE_FOR_MOVE));
    if !marked {
        gone(cluster.merge(object, &json!({"metadata": {"annotations": {DELETE_FOR_MOVE: ""}}})).await)?;
    }
    if found.metadata.deletion_timestamp.is_none() {
        let preconditions = Preconditions { uid: Some(uid.0.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        cluster.delete(object, &params).await?;
    }
    // Only now: controllers add their finalizers again to whatever is not being deleted.
    if found.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty()) {
        gone(cluster.merge(object, &json!({"metadata": {"finalizers": null}})).await)?;
    }
    let gone = cluster.get(object).await?.is_none_or(|found| Uid::of(&found) != *uid);
    Ok((!gone).then(|| "it is still there".into()))
}

/// An object that went while it was patched is no error.
fn gone<T>(result: k8s::Result<T>) -> k8s::Result<()> {
    match result {
        Err(error) if !error.not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Patches an object, again and again while the failure is transient; fine when it is gone.
pub(super) async fn patch(scope: &Scope, cluster: &Cluster, object: &ObjectRef, patch: &Value) -> Result<()> {
    patiently(scope, format!("{object} to be patched on the {} cluster", cluster.name()), async || {
        Ok(gone(cluster.merge(object, patch).await)?)
    })
    .await
}

/// Makes sure that a namespace exists.
pub(super) async fn namespace(scope: &Scope, cluster: &Cluster, name: &str) -> Result<()> {
    let named = ObjectRef::global("v1", "Namespace", name);
    patiently(scope, format!("{named} on the {} cluster", cluster.name()), async || {
        if cluster.get(&named).await?.is_none() {
            let mut object = DynamicObject {
                types: Some(TypeMeta { api_version: "v1".into(), kind: "Namespace".into() }),
                metadata: kube::api::ObjectMeta::default(),
                data: json!({}),
            };
            object.metadata.name = Some(name.to_owned());
            cluster.apply(&object).await?;
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_nothing_of_its_server_and_its_owners_copies() {
        let source: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
            "metadata": {"name": "m", "namespace": "default", "uid": "m1", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"a": "b"},
                "managedFields": [{"manager": "x"}],
                "ownerReferences": [{"apiVersion": "v1", "kind": "C", "name": "c", "uid": "c1", "controller": true}]},
            "spec": {"x": 1}, "status": {"phase": "Running"},
        }))
        .unwrap();
        let uids = BTreeMap::from([(Uid("c1".into()), Uid("c2".into()))]);
        assert_eq!(
            serde_json::to_value(copy_of(&source, &uids, "run")).unwrap(),
            json!({
                "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
                "metadata": {"name": "m", "namespace": "default", "annotations": {"a": "b", MARK: "run"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "C", "name": "c", "uid": "c2", "controller": true}]},
                "spec": {"x": 1},
            })
        );
    }
}
