//! Flux objects hurried, held and let go.
//!
//! These write one field of objects whose other fields may be ours too (the HelmRelease is applied by us), so they are
//! merge patches: applying the one field with our manager would take the others away, and would create what is not there.

use serde_json::json;

use super::{chart_of_release, release};
use crate::clock;
use crate::k8s::{Cluster, Error, ObjectRef, Result};

/// Asks the controller to look at an object now; `false` when there is none.
pub async fn nudge(cluster: &Cluster, object: &ObjectRef) -> Result<bool> {
    let patch = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": clock::now().to_string()}}});
    present(cluster.merge(object, &patch).await)
}

/// Asks for the chart of the release and then for the release itself to be looked at now: for when the chart has just
/// been pushed, and source-controller waits for the end of its back-off.
pub async fn nudge_release(cluster: &Cluster) -> Result<bool> {
    nudge(cluster, &chart_of_release()).await?;
    nudge(cluster, &release()).await
}

/// Holds an object: its controller leaves it alone until it is resumed; `false` when there is none.
pub async fn suspend(cluster: &Cluster, object: &ObjectRef) -> Result<bool> {
    present(cluster.merge(object, &json!({"spec": {"suspend": true}})).await)
}

/// Lets an object go on; `false` when there is none.
pub async fn resume(cluster: &Cluster, object: &ObjectRef) -> Result<bool> {
    present(cluster.merge(object, &json!({"spec": {"suspend": false}})).await)
}

fn present<T>(result: Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::UnknownKind { .. }) => Ok(false),
        Err(error) if error.not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
