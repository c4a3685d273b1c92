//! New objects of Cluster API, with its real definitions and no controllers.

use cluster_init::capi;
use cluster_init::k8s::{Cluster, DynamicObject, ObjectRef, condition};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

/// A machine is given what its controller would begin with, beside what is said of it already; one that is gone does not come back.
pub async fn is_introduced(cluster: &Cluster) {
    let name = ObjectRef::namespaced("infrastructure.cluster.x-k8s.io/v1beta2", "DockerMachine", "default", "newborn");
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": name.api_version, "kind": name.kind, "spec": {}, "metadata": {"name": name.name, "namespace": name.namespace},
    }))
    .unwrap();
    let made = cluster.in_the_name_of("operator").apply(&object).await.unwrap();
    let said = json!({"status": {"conditions": [
        {"type": "Ready", "status": "Unknown", "reason": "Waiting", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let api = cluster.api(&name.gvk(), name.namespace.as_deref()).await.unwrap();
    api.patch_status(&name.name, &PatchParams::default(), &Patch::Merge(&said)).await.unwrap();

    for _ in 0..2 {
        capi::introduce(cluster, &made).await.unwrap();
        let seen = cluster.get(&name).await.unwrap().unwrap();
        let paused = condition(&seen, "Paused").unwrap();
        assert_eq!((&paused["status"], &paused["reason"]), (&json!("False"), &json!("NotPaused")));
        assert_eq!(condition(&seen, "Ready").unwrap()["reason"], "Waiting");
        assert_eq!(seen.metadata.finalizers, Some(vec!["dockermachine.infrastructure.cluster.x-k8s.io".into()]));
    }

    cluster.merge(&name, &json!({"metadata": {"finalizers": null}})).await.unwrap();
    cluster.delete(&name, &DeleteParams::default()).await.unwrap();
    let refused = capi::introduce(cluster, &made).await.unwrap_err();
    assert_eq!(refused.code(), Some(409), "{refused}");
    assert_eq!(cluster.get(&name).await.unwrap(), None);
}
