//! What a pivot would do with each object, decided before anything is touched.

use std::collections::HashSet;

use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::graph::{Graph, Node, Uid};
use super::{GROUP, MARK, PAUSED, Result};
use crate::k8s::{ObjectRef, condition};

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It is copied and then deleted from the source.
    Move {
        /// Its group, from 0; owners are in earlier groups.
        group: usize,
    },
    /// It is copied when the target has none, and kept on the source: others may need it.
    Keep {
        /// Its group, from 0.
        group: usize,
    },
    /// It is left alone.
    Stay {
        /// Why.
        reason: String,
    },
    /// It must not be moved as it is, so nothing is.
    Forbid {
        /// Why.
        reason: String,
        /// What to do about it.
        remedy: String,
    },
}

/// One object of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its name.
    pub object: ObjectRef,
    /// Its UID on the source.
    pub uid: Uid,
    /// What becomes of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What a pivot would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Every object that concerns the move.
    pub items: Vec<Item>,
}

impl Plan {
    /// What is copied, group by group; of each object whether it moves (else it is kept).
    pub fn groups(&self) -> Vec<Vec<(&Item, bool)>> {
        let mut groups: Vec<Vec<(&Item, bool)>> = Vec::new();
        for item in &self.items {
            let (group, moves) = match item.verdict {
                Verdict::Move { group } => (group, true),
                Verdict::Keep { group } => (group, false),
                _ => continue,
            };
            if groups.len() <= group {
                groups.resize_with(group + 1, Vec::new);
            }
            groups[group].push((item, moves));
        }
        groups
    }

    /// What is copied, in order.
    pub fn copied(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|i| matches!(i.verdict, Verdict::Move { .. } | Verdict::Keep { .. }))
    }

    /// What is copied and then deleted from the source.
    pub fn moved(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(|i| matches!(i.verdict, Verdict::Move { .. }))
    }

    /// An error that names the first object that forbids the move.
    pub fn check(&self) -> Result<()> {
        let mut forbidden = self.items.iter().filter_map(|item| match &item.verdict {
            Verdict::Forbid { reason, remedy } => Some((item, reason, remedy)),
            _ => None,
        });
        let Some((item, reason, remedy)) = forbidden.next() else { return Ok(()) };
        Err(super::Error::Forbidden {
            object: item.object.clone(),
            reason: reason.clone(),
            remedy: remedy.clone(),
            more: forbidden.count(),
        })
    }
}

/// Plans the move of everything in the graph to a target that serves the given kinds; `id` is the pivot's own mark.
pub fn plan(graph: &Graph, served: &HashSet<GroupVersionKind>, id: &str) -> Plan {
    let (groups, blocked) = graph.groups();
    let mut items = Vec::new();
    let mut push = |uid: &Uid, verdict: Verdict| {
        let object = graph.nodes[uid].reference.clone();
        items.push(Item { object, uid: uid.clone(), verdict });
    };
    for (group, uids) in groups.iter().enumerate() {
        for uid in uids {
            let node = &graph.nodes[*uid];
            let verdict = match obstacle(node, served, id) {
                Some((reason, remedy)) => Verdict::Forbid { reason, remedy },
                None if node.global => Verdict::Keep { group },
                None => Verdict::Move { group },
            };
            push(uid, verdict);
        }
    }
    for uid in blocked {
        let (reason, remedy) = blocker(graph, &graph.nodes[uid]);
        push(uid, Verdict::Forbid { reason, remedy });
    }
    for (uid, node) in &graph.nodes {
        // Secrets and ConfigMaps that no cluster owns are the rest of the cluster's business.
        if !node.in_scope && !node.reference.group().is_empty() {
            let reason = "no Cluster, ClusterClass or ClusterResourceSet owns it, and it has no move label".into();
            push(uid, Verdict::Stay { reason });
        }
    }
    Plan { items }
}

/// Why an object whose owners never come cannot be moved.
fn blocker(graph: &Graph, node: &Node) -> (String, String) {
    for owner in &node.owners {
        if let Some(name) = graph.unseen.get(owner) {
            return (
                format!("its owner {name} is of a kind that is not moved, or does not exist"),
                "label the owner's CustomResourceDefinition clusterctl.cluster.x-k8s.io, or remove the owner reference"
                    .into(),
            );
        }
        if let Some(owner) = graph.nodes.get(owner).filter(|owner| !owner.in_scope) {
            return (
                format!("its owner {} is not moved", owner.reference),
                format!("label {} clusterctl.cluster.x-k8s.io/move, or remove the owner reference", owner.reference),
            );
        }
    }
    (
        "its owners wait for each other, or for one that cannot be moved".into(),
        "look at the owner references: they form a cycle, or lead to an object that is named above".into(),
    )
}

/// Why an object must not be moved as it is.
fn obstacle(node: &Node, served: &HashSet<GroupVersionKind>, id: &str) -> Option<(String, String)> {
    let named = &node.reference;
    let say = |reason: String, remedy: &str| Some((reason, remedy.to_owned()));
    if node.object.metadata.deletion_timestamp.is_some() {
        return say("it is being deleted".into(), "wait until it is gone, or recreate it");
    }
    if !served.contains(&named.gvk()) {
        return say(
            format!("the target does not serve {} of {}", named.kind, named.api_version),
            "install the provider on the target, in the version that the source has",
        );
    }
    let ours = node.object.metadata.annotations.as_ref().and_then(|a| a.get(MARK)).is_some_and(|mark| mark == id);
    if named.group() == GROUP && named.kind == "ClusterClass" && paused_by_annotation(node) && !ours {
        return say("somebody else paused it".into(), "find out who did, then remove the annotation cluster.x-k8s.io/paused");
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
