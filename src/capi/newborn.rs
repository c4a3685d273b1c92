//! New objects of Cluster API. The first looks of their controllers only add a finalizer and say that nothing is paused, and each look comes
//! a second after the one before. Where both is done for them, the first look begins with the work. It is what they would write, and they
//! write it anew whenever it is not true.

use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::PAUSED;
use crate::clock;
use crate::k8s::{self, Cluster, MANAGER, condition, reference};

/// The kinds that a machine waits for, each with the finalizer of its controller.
const KINDS: [(&str, &str); 4] = [
    ("DockerCluster", "dockercluster.infrastructure.cluster.x-k8s.io"),
    ("DockerMachine", "dockermachine.infrastructure.cluster.x-k8s.io"),
    ("KubeadmControlPlane", "kubeadm.controlplane.cluster.x-k8s.io"),
    ("Machine", "machine.cluster.x-k8s.io"),
];

/// The finalizer of an object that no controller has looked at yet; `None` for every other.
pub fn newborn(object: &DynamicObject) -> Option<&'static str> {
    let kind = &object.types.as_ref()?.kind;
    let (_, finalizer) = KINDS.iter().find(|(known, _)| known == kind)?;
    let metadata = &object.metadata;
    let paused = metadata.annotations.as_ref().is_some_and(|all| all.contains_key(PAUSED));
    let new = !paused && metadata.deletion_timestamp.is_none() && condition(object, "Paused").is_none();
    new.then_some(finalizer)
}

/// Does for a new object what its controller would begin with.
pub async fn introduce(cluster: &Cluster, object: &DynamicObject, finalizer: &str) -> k8s::Result<()> {
    let named = reference(object);
    // With its UID, for what is gone by now must not come back.
    let metadata = json!({"name": named.name, "namespace": named.namespace, "uid": object.metadata.uid});
    let mut apply = json!({"apiVersion": named.api_version, "kind": named.kind, "metadata": metadata});
    let api = cluster.api(&named.gvk(), named.namespace.as_deref()).await?;
    let params = PatchParams::apply(MANAGER).force();
    let failed = |action: &str, source| {
        let action = format!("{action} {named}");
        k8s::Error::Request { cluster: cluster.name().into(), action, source: Box::new(source) }
    };
    apply["status"] = json!({"conditions": [{
        "type": "Paused", "status": "False", "reason": "NotPaused", "message": "",
        "observedGeneration": object.metadata.generation,
        // To the second, as everybody writes it.
        "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }]});
    let status = api.patch_status(&named.name, &params, &Patch::Apply(&apply)).await;
    status.map_err(|source| failed("introduce", source))?;
    if object.metadata.finalizers.iter().flatten().any(|has| has == finalizer) {
        return Ok(());
    }
    if let Some(fields) = apply.as_object_mut() {
        fields.remove("status");
    }
    apply["metadata"]["finalizers"] = json!([finalizer]);
    let patched = api.patch_metadata(&named.name, &params, &Patch::Apply(&apply)).await;
    patched.map(drop).map_err(|source| failed("add the finalizer of", source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn machine(metadata: &Value, conditions: &Value) -> DynamicObject {
        let (api, kind) = ("infrastructure.cluster.x-k8s.io/v1beta2", "DockerMachine");
        let object =
            json!({"apiVersion": api, "kind": kind, "metadata": metadata, "status": {"conditions": conditions}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_is_new_until_its_controller_has_looked() {
        let plain = json!({"name": "m"});
        let new = machine(&plain, &json!([{"type": "Ready", "status": "False"}]));
        assert_eq!(newborn(&new), Some("dockermachine.infrastructure.cluster.x-k8s.io"));
        assert_eq!(newborn(&machine(&plain, &json!([{"type": "Paused", "status": "False"}]))), None);
        let paused = json!({"name": "m", "annotations": {"cluster.x-k8s.io/paused": ""}});
        assert_eq!(newborn(&machine(&paused, &json!([]))), None);
        let going = json!({"name": "m", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(newborn(&machine(&going, &json!([]))), None);
        let mut other = new;
        other.types.as_mut().unwrap().kind = "OpenStackMachine".into();
        assert_eq!(newborn(&other), None, "it is known of no other provider");
    }
}
