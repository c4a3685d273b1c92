//! Takes one object away, as a move does.

use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::copy::patiently;
use super::pace::Pace;
use crate::capi::DELETE_FOR_MOVE;
use crate::capi::graph::Uid;
use crate::capi::parity::has;
use crate::clock::Look;
use crate::failure::Result;
use crate::k8s::{self, Cluster, MANAGER, ObjectRef};
use crate::saga::Scope;

/// What became of an attempt to remove an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is gone.
    Gone,
    /// Somebody changed it since it was seen.
    Changed,
    /// It is being deleted, and somebody put a finalizer back.
    Lingering,
}

/// Whether a removal needs the annotation that tells webhooks of the move, and finalizers taken away: one patch for both.
pub(super) fn needs_patch(object: &DynamicObject, webhooks: bool) -> bool {
    let finalizers = object.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty());
    finalizers || (webhooks && !has(object, DELETE_FOR_MOVE))
}

/// Removes an object in the very version that was seen: no change of somebody else's is lost.
pub(super) async fn remove_seen(
    cluster: &Cluster,
    named: &ObjectRef,
    seen: &DynamicObject,
    webhooks: bool,
) -> k8s::Result<Removal> {
    let api = cluster.api(&named.gvk(), named.namespace.as_deref()).await?;
    let failed = |action: &str, source| {
        let action = format!("{action} {named}");
        k8s::Error::Request { cluster: cluster.name().into(), action, source: Box::new(source) }
    };
    let mut version = seen.metadata.resource_version.clone();
    if needs_patch(seen, webhooks) {
        let patch = json!({"metadata": {"resourceVersion": version, "uid": seen.metadata.uid,
            "annotations": {DELETE_FOR_MOVE: ""}, "finalizers": null}});
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        version = match api.patch_metadata(&named.name, &params, &Patch::Merge(&patch)).await {
            Ok(patched) => patched.metadata.resource_version,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Removal::Gone),
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Removal::Changed),
            Err(error) => return Err(failed("patch", error)),
        };
        if seen.metadata.deletion_timestamp.is_some() {
            // Taking the last finalizer away has ended it.
            return Ok(Removal::Gone);
        }
    }
    let preconditions = Preconditions { uid: seen.metadata.uid.clone(), resource_version: version };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let answer = match api.delete(&named.name, &params).await {
        Ok(answer) => answer,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Removal::Gone),
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(Removal::Changed),
        Err(error) => return Err(failed("delete", error)),
    };
    let lingering = answer.left().is_some_and(|left| left.metadata.finalizers.is_some_and(|f| !f.is_empty()));
    Ok(if lingering { Removal::Lingering } else { Removal::Gone })
}

/// Takes an object away whatever becomes of it meanwhile, and waits until it is gone. An object of the same name with
/// another UID is left alone.
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
    if !has(&found, DELETE_FOR_MOVE) {
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
    let pace = Pace::default();
    patiently(scope, &pace, format!("{object} to be patched on the {} cluster", cluster.name()), async || {
        Ok(gone(cluster.merge(object, patch).await)?)
    })
    .await
}
