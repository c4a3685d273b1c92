//! Who owns whom: nodes by UID, edges from owner references and from Cluster API's naming rules.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};

use super::scope::{self, Filter};
use super::{Discovery, GROUP, MOVE, MOVE_HIERARCHY};
use crate::k8s::{ObjectRef, reference};

/// An object's UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub String);

impl Uid {
    /// The UID of a live object.
    pub fn of(object: &DynamicObject) -> Self {
        Self(object.metadata.uid.clone().unwrap_or_default())
    }
}

/// A kind that a move looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group, version (the storage version) and kind.
    pub gvk: GroupVersionKind,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether its definition says that its objects move with all they own.
    pub hierarchy: bool,
    /// Whether its definition says that its objects move.
    pub forced: bool,
}

impl Kind {
    /// Whether its objects are roots by Cluster API's own rules.
    fn root(&self) -> bool {
        self.hierarchy
            || match self.gvk.group.as_str() {
                GROUP => matches!(self.gvk.kind.as_str(), "Cluster" | "ClusterClass"),
                "addons.cluster.x-k8s.io" => self.gvk.kind == "ClusterResourceSet",
                _ => false,
            }
    }
}

/// An object in the graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// The object as it was found.
    pub object: DynamicObject,
    /// Its name.
    pub reference: ObjectRef,
    /// Those that must be there before it: its owners, by reference or by rule.
    pub owners: BTreeSet<Uid>,
    /// Those that it belongs to: its owners, but not the class of a Cluster, which others may use too.
    pub belongs: BTreeSet<Uid>,
    /// Whether it is moved, or copied and kept.
    pub in_scope: bool,
    /// Why it is kept on the source after it was copied; `None` when it moves.
    pub kept: Option<String>,
    pub(super) root: bool,
    pub(super) forced: bool,
    pub(super) namespaced: bool,
}

impl Node {
    /// Whether it is a Cluster of Cluster API.
    pub(super) fn is_cluster(&self) -> bool {
        self.reference.group() == GROUP && self.reference.kind == "Cluster"
    }
}

/// The objects of a cluster that concern a move.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Nodes by UID.
    pub nodes: BTreeMap<Uid, Node>,
    /// Owners that were named and not found, by UID: kind and name as the reference gives them.
    pub unseen: BTreeMap<Uid, String>,
}

impl Graph {
    /// Builds the graph of what was discovered, everything in scope.
    pub fn of(discovery: &Discovery) -> Self {
        Self::filtered(discovery, &Filter::default())
    }

    /// Builds the graph of what was discovered; only what the filter wants is in scope.
    pub fn filtered(discovery: &Discovery, filter: &Filter) -> Self {
        let mut graph = Self::default();
        for (kind, objects) in &discovery.found {
            for object in objects {
                graph.add(kind, object.clone());
            }
        }
        for owners in graph.nodes.values().flat_map(|n| n.object.metadata.owner_references.iter().flatten()) {
            let uid = Uid(owners.uid.clone());
            if !graph.nodes.contains_key(&uid) {
                graph.unseen.insert(uid, format!("{} {}", owners.kind, owners.name));
            }
        }
        graph.add_soft_owners();
        scope::mark(&mut graph, filter);
        graph
    }

    fn add(&mut self, kind: &Kind, object: DynamicObject) {
        let labelled = |label: &str| object.metadata.labels.as_ref().is_some_and(|l| l.contains_key(label));
        let owners: BTreeSet<Uid> =
            object.metadata.owner_references.iter().flatten().map(|o| Uid(o.uid.clone())).collect();
        let node = Node {
            reference: reference(&object),
            belongs: owners.clone(),
            owners,
            in_scope: false,
            kept: None,
            root: kind.root() || labelled(MOVE_HIERARCHY),
            forced: kind.forced || labelled(MOVE),
            namespaced: kind.namespaced,
            object,
        };
        self.nodes.insert(Uid::of(&node.object), node);
    }

    /// Adds the owners that Cluster API knows by name only.
    fn add_soft_owners(&mut self) {
        // What is owned, by whom, and whether it belongs to that owner.
        let mut edges: Vec<(Uid, Uid, bool)> = Vec::new();
        for (cluster_uid, cluster) in self.of_kind(GROUP, "Cluster") {
            let (namespace, name) = (&cluster.reference.namespace, &cluster.reference.name);
            for (uid, node) in self.of_kind("", "Secret") {
                let suffix = node.reference.name.strip_prefix(name.as_str()).unwrap_or_default();
                if node.reference.namespace == *namespace
                    && node.owners.is_empty()
                    && matches!(suffix, "-kubeconfig" | "-ca" | "-etcd" | "-sa" | "-proxy")
                {
                    edges.push((uid.clone(), cluster_uid.clone(), true));
                }
            }
            for (uid, node) in self.of_kind("addons.cluster.x-k8s.io", "ClusterResourceSetBinding") {
                if node.reference.namespace == *namespace && node.object.data["spec"]["clusterName"] == name.as_str() {
                    edges.push((uid.clone(), cluster_uid.clone(), true));
                }
            }
            let class = &cluster.object.data["spec"]["topology"]["classRef"];
            let class_namespace = class["namespace"].as_str().or(namespace.as_deref());
            for (uid, node) in self.of_kind(GROUP, "ClusterClass") {
                if class["name"] == node.reference.name.as_str()
                    && node.reference.namespace.as_deref() == class_namespace
                {
                    edges.push((cluster_uid.clone(), uid.clone(), false));
                }
            }
        }
        for (owned, owner, belongs) in edges {
            if let Some(node) = self.nodes.get_mut(&owned) {
                if belongs {
                    // A binding belongs to its Cluster, not to the resource sets that own it and that others use too.
                    node.belongs = BTreeSet::from([owner.clone()]);
                }
                node.owners.insert(owner);
            }
        }
    }

    /// The nodes of a kind.
    pub(super) fn of_kind(&self, group: &str, kind: &str) -> impl Iterator<Item = (&Uid, &Node)> {
        self.nodes.iter().filter(move |(_, n)| n.reference.group() == group && n.reference.kind == kind)
    }

    /// All that the given nodes own, at any distance, and themselves.
    pub(super) fn descendants<'a>(&'a self, of: impl IntoIterator<Item = &'a Uid>) -> BTreeSet<Uid> {
        let mut owned: BTreeMap<&Uid, Vec<&Uid>> = BTreeMap::new();
        for (uid, node) in &self.nodes {
            for owner in &node.belongs {
                owned.entry(owner).or_default().push(uid);
            }
        }
        let mut seen: BTreeSet<Uid> = BTreeSet::new();
        let mut open: Vec<&Uid> = of.into_iter().collect();
        while let Some(uid) = open.pop() {
            if seen.insert(uid.clone()) {
                open.extend(owned.get(uid).into_iter().flatten());
            }
        }
        seen
    }

    /// The objects that move, group by group, owners before what they own; and those whose owners never come.
    pub fn groups(&self) -> (Vec<Vec<&Uid>>, Vec<&Uid>) {
        let mut open: Vec<&Uid> = self.nodes.iter().filter(|(_, n)| n.in_scope).map(|(uid, _)| uid).collect();
        let mut placed: BTreeSet<&Uid> = BTreeSet::new();
        let mut groups = Vec::new();
        loop {
            let (group, rest): (Vec<&Uid>, Vec<&Uid>) =
                open.iter().partition(|uid| self.nodes[**uid].owners.iter().all(|owner| placed.contains(owner)));
            if group.is_empty() {
                return (groups, rest);
            }
            placed.extend(group.iter().copied());
            groups.push(group);
            open = rest;
        }
    }
}
