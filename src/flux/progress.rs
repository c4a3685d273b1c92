//! How far objects are that are not ready as soon as they are applied, as the health checks of their Kustomizations judge them.

use serde_json::Value;

use crate::k8s::{DynamicObject, readiness};

/// Where Cluster API's manager notes the generation of a definition that it has seen.
pub(super) const SEEN: &str = "crd-migration.cluster.x-k8s.io/observed-generation";

/// How far a slow object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Enough for what only waits for it to begin.
    pub(super) begun: bool,
    pub(super) ready: bool,
}

impl Progress {
    /// How far an object is.
    pub(super) fn of(object: &DynamicObject) -> Self {
        Self { begun: has_begun(object), ready: is_ready(object) }
    }
}

/// Whether a Cluster's first control plane answers, or a definition has its CA: for some Kustomizations that is enough.
fn has_begun(object: &DynamicObject) -> bool {
    if is_definition(object) {
        return has_ca(object);
    }
    object.data.pointer("/status/initialization/controlPlaneInitialized") == Some(&Value::Bool(true))
}

/// Whether an object is ready by the health check of its Kustomization, which for some kinds asks more than its conditions say.
fn is_ready(object: &DynamicObject) -> bool {
    if let Some(webhooks) = object.data["webhooks"].as_array() {
        let has = |webhook: &Value, field: &str| webhook["clientConfig"].get(field).is_some();
        return webhooks.iter().all(|webhook| has(webhook, "caBundle") || !has(webhook, "service"));
    }
    if is_definition(object) {
        let seen = object.metadata.annotations.as_ref().and_then(|all| all.get(SEEN)?.parse::<i64>().ok());
        return has_ca(object) && seen.is_some() && seen == object.metadata.generation;
    }
    let counts = |pointer| object.data.pointer(pointer) == object.data.pointer("/spec/replicas");
    let all = match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("MachineDeployment") => counts("/status/readyReplicas") && counts("/status/upToDateReplicas"),
        Some("KubeadmControlPlane") => counts("/status/availableReplicas") && counts("/status/upToDateReplicas"),
        _ => true,
    };
    all && readiness(object).is_ready()
}

fn is_definition(object: &DynamicObject) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == "CustomResourceDefinition")
}

/// Whether a definition has the CA of its webhook: nothing else changes it after that.
fn has_ca(definition: &DynamicObject) -> bool {
    definition.data.pointer("/spec/conversion/webhook/clientConfig/caBundle").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_ready_once_cluster_api_has_seen_it_with_its_ca() {
        let definition = |seen: &str, config: Value| {
            let object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "d", "generation": 2, "annotations": {SEEN: seen}},
                "spec": {"conversion": {"webhook": {"clientConfig": config}}}});
            let progress = Progress::of(&serde_json::from_value(object).unwrap());
            (progress.begun, progress.ready)
        };
        assert_eq!(definition("2", json!({})), (false, false));
        assert_eq!(definition("1", json!({"caBundle": "x"})), (true, false));
        assert_eq!(definition("2", json!({"caBundle": "x"})), (true, true));
    }

    #[test]
    fn webhooks_and_machines_are_judged_as_their_health_checks_do() {
        let object = |value: Value| serde_json::from_value::<DynamicObject>(value).unwrap();
        let webhook = |config: Value| {
            object(json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": "w"}, "webhooks": [{"clientConfig": config}]}))
        };
        assert!(!is_ready(&webhook(json!({"service": {}}))));
        assert!(is_ready(&webhook(json!({"service": {}, "caBundle": "x"}))) && is_ready(&webhook(json!({"url": "x"}))));
        let machines = |ready: i64| {
            object(
                json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "MachineDeployment", "metadata": {"name": "m"},
                "spec": {"replicas": 2}, "status": {"readyReplicas": ready, "upToDateReplicas": 2,
                "conditions": [{"type": "Available", "status": "True"}]}}),
            )
        };
        assert!(!is_ready(&machines(1)) && is_ready(&machines(2)));
        let control_plane = |available: i64| {
            object(json!({"apiVersion": "controlplane.cluster.x-k8s.io/v1beta2", "kind": "KubeadmControlPlane",
                "metadata": {"name": "k"}, "spec": {"replicas": 3},
                "status": {"availableReplicas": available, "upToDateReplicas": 3,
                "conditions": [{"type": "Available", "status": "True"}]}}))
        };
        assert!(!is_ready(&control_plane(2)), "available as soon as one answers, and all are waited for");
        assert!(is_ready(&control_plane(3)));
    }
}
