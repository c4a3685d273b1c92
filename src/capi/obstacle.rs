//! Why an object must not be moved as it is.

use serde_json::Value;

use super::graph::Node;
use super::plan::Facts;
use super::{GROUP, MARK, PAUSED};
use crate::k8s::condition;

/// Why an object must not be moved as it is, and what to do about it.
pub(super) fn obstacle(node: &Node, facts: &Facts, id: &str) -> Option<(String, String)> {
    let named = &node.reference;
    let say = |reason: String, remedy: &str| Some((reason, remedy.to_owned()));
    if node.object.metadata.deletion_timestamp.is_some() {
        return say("it is being deleted".into(), "wait until it is gone, or recreate it");
    }
    if !facts.served.contains(&named.gvk()) {
        return say(
            format!("the target does not serve {} of {}", named.kind, named.api_version),
            "install the provider on the target, in the version that the source has",
        );
    }
    if facts.existing.contains(named) && node.kept.is_none() {
        return say(
            "the target has an object of this name already".into(),
            "delete it there, or find out who made it: an object that this pivot did not make is never overwritten",
        );
    }
    if let Some(reason) = refusal(node, facts) {
        return say(reason, "make the object acceptable on the source, or look at the target's webhooks and schemas");
    }
    let ours = node.object.metadata.annotations.as_ref().and_then(|a| a.get(MARK)).is_some_and(|mark| mark == id);
    if named.group() == GROUP && named.kind == "ClusterClass" && paused_by_annotation(node) && !ours {
        return say(
            "somebody else paused it".into(),
            "find out who did, then remove the annotation cluster.x-k8s.io/paused",
        );
    }
    if named.group() == GROUP && named.kind == "Cluster" {
        return cluster_obstacle(node, ours);
    }
    if named.group() == GROUP && named.kind == "Machine" && node.object.data["status"]["nodeRef"].is_null() {
        return say("it has no Node yet".into(), "wait until the Machine is Running, or delete it");
    }
    None
}

fn paused_by_annotation(node: &Node) -> bool {
    node.object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(PAUSED))
}

fn cluster_obstacle(node: &Node, ours: bool) -> Option<(String, String)> {
    let wait = "wait until the Cluster is Available";
    let data = &node.object.data;
    let initialized = |field: &str| data["status"]["initialization"][field] == Value::Bool(true);
    if (data["spec"]["paused"] == Value::Bool(true) || paused_by_annotation(node)) && !ours {
        return Some(("somebody else paused it".into(), "find out who did, then set spec.paused to false".into()));
    }
    if !initialized("infrastructureProvisioned") {
        return Some(("its infrastructure is not provisioned".into(), wait.into()));
    }
    if condition(&node.object, "ControlPlaneInitialized").is_none_or(|c| c["status"] != "True")
        || (!data["spec"]["controlPlaneRef"].is_null() && !initialized("controlPlaneInitialized"))
    {
        return Some(("its control plane is not initialized".into(), wait.into()));
    }
    None
}

/// Why the target would not take the object as it is.
fn refusal(node: &Node, facts: &Facts) -> Option<String> {
    match facts.tried.get(&node.reference)? {
        Err(reason) => Some(format!("the target refuses it: {reason}")),
        Ok(differences) if differences.changed.is_empty() => None,
        Ok(differences) => Some(format!("the target would change {}", differences.changed.join(", "))),
    }
}
