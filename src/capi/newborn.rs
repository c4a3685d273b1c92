//! New objects of Cluster API. The first looks of their controllers only say that nothing is paused, or add a finalizer, and each look comes
//! a second after the one before. Where that is done for them, the first look begins with the work. It is what they would write, and they
//! write it anew whenever it is not true.

use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::PAUSED;
use crate::clock;
use crate::k8s::{self, Cluster, MANAGER, condition, reference};

/// The kinds that a machine waits for.
const KINDS: [&str; 4] = ["DockerCluster", DOCKER_MACHINE, "KubeadmControlPlane", "Machine"];
const DOCKER_MACHINE: &str = "DockerMachine";
/// The finalizer of its controller; other kinds have theirs from who makes them, or at once.
const FINALIZER: &str = "dockermachine.infrastructure.cluster.x-k8s.io";

/// Whether an object's controller has not looked at it yet.
pub fn newborn(object: &DynamicObject) -> bool {
    let Some(kind) = object.types.as_ref().map(|types| types.kind.as_str()).filter(|kind| KINDS.contains(kind)) else {
        return false;
    };
    let metadata = &object.metadata;
    let paused = metadata.annotations.as_ref().is_some_and(|all| all.contains_key(PAUSED));
    // One that no Machine owns is none of its controller's business, and a finalizer would keep it for ever.
    let owned = metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Machine");
    !paused
        && metadata.deletion_timestamp.is_none()
        && condition(object, "Paused").is_none()
        && (kind != DOCKER_MACHINE || owned)
}

/// Does for a new object what its controller would begin with.
pub async fn introduce(cluster: &Cluster, object: &DynamicObject) -> k8s::Result<()> {
    let named = reference(object);
    // With its UID, for what is gone by now must not come back.
    let metadata = json!({"name": named.name, "namespace": named.namespace, "uid": object.metadata.uid});
    let mut apply = json!({"apiVersion": named.api_version, "kind": named.kind, "metadata": metadata});
    let api = cluster.api(&named.gvk(), named.namespace.as_deref()).await?;
    let params = PatchParams::apply(MANAGER).force();
    let failed = |source| {
        let action = format!("introduce {named} to its controller");
        k8s::Error::Request { cluster: cluster.name().into(), action, source: Box::new(source) }
    };
    if named.kind == DOCKER_MACHINE {
        let mut guarded = apply.clone();
        guarded["metadata"]["finalizers"] = json!([FINALIZER]);
        api.patch_metadata(&named.name, &params, &Patch::Apply(&guarded)).await.map_err(failed)?;
    }
    apply["status"] = json!({"conditions": [{
        "type": "Paused", "status": "False", "reason": "NotPaused", "message": "",
        "observedGeneration": object.metadata.generation,
        // To the second, as everybody writes it.
        "lastTransitionTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }]});
    api.patch_status(&named.name, &params, &Patch::Apply(&apply)).await.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object(kind: &str, metadata: &Value, conditions: &Value) -> DynamicObject {
        let api = "cluster.x-k8s.io/v1beta2";
        let object =
            json!({"apiVersion": api, "kind": kind, "metadata": metadata, "status": {"conditions": conditions}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_is_new_until_its_controller_has_looked() {
        let plain = json!({"name": "m"});
        let said = |kind: &str| json!([{"type": kind, "status": "False"}]);
        assert!(newborn(&object("Machine", &plain, &said("Ready"))));
        assert!(!newborn(&object("Machine", &plain, &said("Paused"))));
        assert!(!newborn(&object("OpenStackMachine", &plain, &said("Ready"))), "nobody waits for it here");
        let paused = json!({"name": "m", "annotations": {"cluster.x-k8s.io/paused": ""}});
        assert!(!newborn(&object("Machine", &paused, &json!([]))));
        let going = json!({"name": "m", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(!newborn(&object("Machine", &going, &json!([]))));
    }

    #[test]
    fn a_docker_machine_is_its_controllers_from_its_machine_on() {
        let owned = |kind: &str| {
            let owner = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": kind, "name": "m", "uid": "1"});
            json!({"name": "m", "ownerReferences": [owner]})
        };
        assert!(!newborn(&object("DockerMachine", &owned("KubeadmControlPlane"), &json!([]))));
        assert!(newborn(&object("DockerMachine", &owned("Machine"), &json!([]))));
    }
}
