//! What a pivot would do with each object, decided before anything is touched.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};

use super::graph::{Graph, Node, Uid};
use super::obstacle::obstacle;
use super::{Result, parity};
use crate::k8s::ObjectRef;

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
        /// Why.
        reason: String,
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
    /// Its version on the source when its copy was verified; empty before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verified: String,
}

/// What a pivot would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Every object that concerns the move.
    pub items: Vec<Item>,
    /// What the move should be known to do beside: fields that the target adds, Flux objects that stay suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl Plan {
    /// What is copied, group by group; of each object whether it moves (else it is kept).
    pub fn groups(&self) -> Vec<Vec<(&Item, bool)>> {
        let mut groups: Vec<Vec<(&Item, bool)>> = Vec::new();
        for item in &self.items {
            let (group, moves) = match item.verdict {
                Verdict::Move { group } => (group, true),
                Verdict::Keep { group, .. } => (group, false),
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
            object: Box::new(item.object.clone()),
            reason: reason.clone(),
            remedy: remedy.clone(),
            more: forbidden.count(),
        })
    }
}

/// What is known of the target when a plan is made.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The kinds that it serves, in the version that the source stores.
    pub served: HashSet<GroupVersionKind>,
    /// Objects that are there already, and are no copies of this pivot.
    pub existing: BTreeSet<ObjectRef>,
    /// What it answered to objects whose creation was tried (`dryRun=All`): why it refuses, or what it would make of them.
    pub tried: BTreeMap<ObjectRef, Result<parity::Differences, String>>,
    /// Providers of the source that it lacks or has in an older version: which, why, remedy.
    pub lacking: Vec<(ObjectRef, String, String)>,
}

/// Plans the move of what is in scope; `id` is the pivot's own mark.
pub fn plan(graph: &Graph, facts: &Facts, id: &str) -> Plan {
    let (groups, blocked) = graph.groups();
    let mut plan = Plan::default();
    let mut push = |uid: &Uid, object: ObjectRef, verdict: Verdict| {
        plan.items.push(Item { object, uid: uid.clone(), verdict, verified: String::new() });
    };
    for (object, reason, remedy) in &facts.lacking {
        let verdict = Verdict::Forbid { reason: reason.clone(), remedy: remedy.clone() };
        push(&Uid::default(), object.clone(), verdict);
    }
    for (group, uids) in groups.iter().enumerate() {
        for uid in uids {
            let node = &graph.nodes[*uid];
            let verdict = match obstacle(node, facts, id) {
                Some((reason, remedy)) => Verdict::Forbid { reason, remedy },
                None => match &node.kept {
                    Some(reason) => Verdict::Keep { group, reason: reason.clone() },
                    None => Verdict::Move { group },
                },
            };
            push(uid, node.reference.clone(), verdict);
        }
    }
    for uid in blocked {
        let node = &graph.nodes[uid];
        let (reason, remedy) = blocker(graph, node);
        push(uid, node.reference.clone(), Verdict::Forbid { reason, remedy });
    }
    for (uid, node) in &graph.nodes {
        // Secrets and ConfigMaps that no cluster owns are the rest of the cluster's business.
        if !node.in_scope && !node.reference.group().is_empty() {
            push(uid, node.reference.clone(), Verdict::Stay { reason: why_it_stays(graph, uid) });
        }
    }
    plan.remarks = facts.tried.iter().filter_map(|(object, tried)| remark(object, tried.as_ref().ok()?)).collect();
    plan
}

/// What the target adds to an object.
fn remark(object: &ObjectRef, differences: &parity::Differences) -> Option<String> {
    let added = &differences.defaulted;
    (!added.is_empty()).then(|| format!("the target adds to {object}: {}", added.join(", ")))
}

/// Why an object that a provider defined is left alone.
fn why_it_stays(graph: &Graph, uid: &Uid) -> String {
    match root_of(graph, uid) {
        Some(root) if Uid::of(&root.object) == *uid => "it was not chosen".into(),
        Some(root) => format!("it belongs to {}, which was not chosen", root.reference),
        None => "no Cluster, ClusterClass or ClusterResourceSet owns it, and it has no move label".into(),
    }
}

/// The root that an object belongs to.
fn root_of<'a>(graph: &'a Graph, uid: &Uid) -> Option<&'a Node> {
    let mut seen = BTreeSet::new();
    let mut open = vec![uid];
    while let Some(uid) = open.pop() {
        let Some(node) = graph.nodes.get(uid).filter(|_| seen.insert(uid)) else { continue };
        if node.root {
            return Some(node);
        }
        open.extend(&node.belongs);
    }
    None
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
            if let Some(root) = root_of(graph, &Uid::of(&owner.object)) {
                return (
                    format!("it is shared with {}, which stays", root.reference),
                    "move what shares it together, or give each an object of its own".into(),
                );
            }
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
