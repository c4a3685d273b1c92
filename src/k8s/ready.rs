//! Readiness of any object, by kstatus' rules: pure functions over the object's live state.

use kube::api::DynamicObject;
use serde_json::Value;

use super::condition;

/// Whether an object is ready, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// Not yet; state in a few words.
    Progressing(String),
    /// It says itself that it failed; others may still repair it.
    Failed(String),
}

impl Readiness {
    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }

    /// State in a few words.
    pub fn state(&self) -> &str {
        match self {
            Self::Ready => "ready",
            Self::Progressing(state) | Self::Failed(state) => state,
        }
    }
}

fn progressing(state: impl Into<String>) -> Readiness {
    Readiness::Progressing(state.into())
}

fn number(object: &DynamicObject, pointer: &str) -> i64 {
    object.data.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Judges an object.
pub fn readiness(object: &DynamicObject) -> Readiness {
    if object.metadata.deletion_timestamp.is_some() {
        return progressing("being deleted");
    }
    if object.data.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        return progressing("suspended");
    }
    let generation = object.metadata.generation.unwrap_or(0);
    if let Some(observed) = object.data.pointer("/status/observedGeneration").and_then(Value::as_i64)
        && observed < generation
    {
        return progressing("its controller has not seen the latest change yet");
    }
    let kind = object.types.as_ref().map_or("", |t| t.kind.as_str());
    match kind {
        "Deployment" | "StatefulSet" => workload(object),
        "DaemonSet" => daemon_set(object),
        "Job" => job(object),
        "CustomResourceDefinition" => by_condition(object, "Established"),
        "APIService" | "Cluster" | "MachineDeployment" | "LocalControlPlane" | "KubeadmControlPlane" => {
            by_condition(object, "Available")
        }
        "Pod" => by_condition(object, "Ready"),
        _ if condition(object, "Ready").is_some() => by_condition(object, "Ready"),
        // Flux' and Cluster API's objects always get a Ready condition; without one their controller has not come by.
        "Kustomization" | "HelmRelease" | "OCIRepository" | "GitRepository" | "HelmChart" | "HelmRepository"
        | "Machine" | "Node" | "RKE2ControlPlane" => progressing("not reconciled yet"),
        _ => Readiness::Ready,
    }
}

fn by_condition(object: &DynamicObject, kind: &str) -> Readiness {
    let Some(found) = condition(object, kind) else {
        return progressing(format!("no {kind} condition yet"));
    };
    let generation = object.metadata.generation.unwrap_or(0);
    if found["observedGeneration"].as_i64().is_some_and(|observed| observed < generation) {
        return progressing("its controller has not seen the latest change yet");
    }
    let words = [&found["reason"], &found["message"]]
        .into_iter()
        .filter_map(Value::as_str)
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join(": ");
    let words =
        if words.is_empty() { format!("{kind} is {}", found["status"].as_str().unwrap_or("Unknown")) } else { words };
    match found["status"].as_str() {
        Some("True") => Readiness::Ready,
        Some("False") if condition(object, "Stalled").is_some_and(|c| c["status"] == "True") => {
            Readiness::Failed(words)
        }
        _ => progressing(words),
    }
}

fn workload(object: &DynamicObject) -> Readiness {
    let wanted = object.data.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let updated = number(object, "/status/updatedReplicas");
    let available = number(object, "/status/availableReplicas");
    let all = number(object, "/status/replicas");
    if let Some(failed) = condition(object, "Progressing")
        && failed["reason"] == "ProgressDeadlineExceeded"
    {
        return Readiness::Failed(failed["message"].as_str().unwrap_or("progress deadline exceeded").to_owned());
    }
    if object.data.pointer("/status/observedGeneration").is_none() {
        return progressing("not seen by its controller yet");
    }
    if updated < wanted || all > updated || available < wanted {
        return progressing(format!("{available} of {wanted} replicas available"));
    }
    Readiness::Ready
}

fn daemon_set(object: &DynamicObject) -> Readiness {
    let wanted = number(object, "/status/desiredNumberScheduled");
    let ready = number(object, "/status/numberAvailable");
    if object.data.pointer("/status/observedGeneration").is_none() || ready < wanted {
        return progressing(format!("{ready} of {wanted} pods available"));
    }
    Readiness::Ready
}

fn job(object: &DynamicObject) -> Readiness {
    if let Some(failed) = condition(object, "Failed").filter(|c| c["status"] == "True") {
        return Readiness::Failed(failed["message"].as_str().unwrap_or("the job failed").to_owned());
    }
    if condition(object, "Complete").is_some_and(|c| c["status"] == "True") {
        Readiness::Ready
    } else {
        progressing(format!(
            "{} succeeded, {} active",
            number(object, "/status/succeeded"),
            number(object, "/status/active")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn readiness_follows_kstatus() {
        let meta = json!({"name": "a", "generation": 2});
        let cases = [
            (
                json!({"kind": "Kustomization", "apiVersion": "a/v1", "metadata": meta, "spec": {"suspend": true}}),
                "suspended",
            ),
            (json!({"kind": "Kustomization", "apiVersion": "a/v1", "metadata": meta}), "not reconciled yet"),
            (
                json!({"kind": "Kustomization", "apiVersion": "a/v1", "metadata": meta, "status": {"observedGeneration": 1,
                    "conditions": [{"type": "Ready", "status": "True"}]}}),
                "its controller has not seen the latest change yet",
            ),
            (
                json!({"kind": "Kustomization", "apiVersion": "a/v1", "metadata": meta, "status": {"observedGeneration": 2,
                    "conditions": [{"type": "Ready", "status": "False", "reason": "BuildFailed", "message": "no such file"}]}}),
                "BuildFailed: no such file",
            ),
            (
                json!({"kind": "Kustomization", "apiVersion": "a/v1", "metadata": meta, "status": {"observedGeneration": 2,
                    "conditions": [{"type": "Ready", "status": "True"}]}}),
                "ready",
            ),
            (
                json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": meta, "spec": {"replicas": 2},
                    "status": {"observedGeneration": 2, "updatedReplicas": 2, "replicas": 2, "availableReplicas": 1}}),
                "1 of 2 replicas available",
            ),
            (json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta}), "ready"),
            (
                json!({"kind": "Cluster", "apiVersion": "cluster.x-k8s.io/v1beta2", "metadata": meta,
                    "status": {"conditions": [{"type": "Available", "status": "Unknown"}]}}),
                "Available is Unknown",
            ),
        ];
        for (value, state) in cases {
            assert_eq!(readiness(&object(value.clone())).state(), state, "{value}");
        }
    }
}
