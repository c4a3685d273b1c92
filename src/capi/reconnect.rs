//! Managers that wait for nothing: Cluster API's managers look for a cluster's API server as soon as its infrastructure is there, which
//! is before a control plane runs behind it, and then again every thirty seconds; no setting changes that, and no event. A manager that
//! starts looks at once.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use serde_json::json;

use super::{OF_PROVIDER, Result};
use crate::clock;
use crate::k8s::{Cluster, ObjectRef, condition, reference};

/// The types whose managers wait for a cluster's API server.
const WAITING: [&str; 3] = ["cluster-api", "bootstrap-", "control-plane-"];
/// Whose first look is not longer ago than this has not failed yet, and may be about to succeed.
const FRESH: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// Whether the managers of a cluster looked for its API server in vain, and wait for their next look.
pub fn waits(cluster: &DynamicObject) -> bool {
    let since = |kind: &str| {
        let condition = condition(cluster, kind)?;
        (condition["status"] == "True")
            .then(|| condition["lastTransitionTime"].as_str()?.parse::<jiff::Timestamp>().ok())?
    };
    let looked = since("InfrastructureReady").is_some_and(|since| clock::now().duration_since(since) > FRESH);
    looked && since("RemoteConnectionProbe").is_none()
}

/// The managers that look for API servers.
pub async fn managers(cluster: &Cluster) -> Result<Vec<ObjectRef>> {
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let all = cluster.list(&gvk, None, Some(OF_PROVIDER)).await?;
    let looks = |object: &&DynamicObject| {
        let provider = object.metadata.labels.as_ref().and_then(|labels| labels.get(OF_PROVIDER));
        provider.is_some_and(|provider| WAITING.iter().any(|kind| provider.starts_with(kind)))
    };
    Ok(all.iter().filter(looks).map(reference).collect())
}

/// Starts a manager anew, as `kubectl rollout restart` does: the old one serves its webhooks until the new one does.
pub async fn restart(cluster: &Cluster, manager: &ObjectRef) -> Result<()> {
    let mut object = DynamicObject::new(&manager.name, &ApiResource::erase::<Deployment>(&()));
    object.metadata.namespace.clone_from(&manager.namespace);
    let annotations = json!({"kubectl.kubernetes.io/restartedAt": clock::now().to_string()});
    object.data = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
    cluster.apply(&object).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(ago: i64, provisioned: &str, connected: &str) -> DynamicObject {
        let since = clock::now() - jiff::SignedDuration::from_secs(ago);
        serde_json::from_value(
            json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Cluster", "metadata": {"name": "c"},
            "status": {"conditions": [
                {"type": "InfrastructureReady", "status": provisioned, "lastTransitionTime": since.to_string()},
                {"type": "RemoteConnectionProbe", "status": connected, "lastTransitionTime": since.to_string()}]}}),
        )
        .unwrap()
    }

    #[test]
    fn managers_wait_that_looked_in_vain() {
        assert!(waits(&cluster(20, "True", "False")));
        assert!(waits(&cluster(20, "True", "Unknown")));
        assert!(!waits(&cluster(20, "True", "True")), "connected");
        assert!(!waits(&cluster(2, "True", "False")), "looking just now");
        assert!(!waits(&cluster(20, "False", "False")), "nothing to look for");
        assert!(!waits(&DynamicObject::new("c", &ApiResource::erase::<Deployment>(&()))));
    }
}
