//! Who owns whom: nodes by UID, edges from owner references and from Cluster API's naming rules.

use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};

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
    /// Those that own it, by reference or by rule.
    pub owners: BTreeSet<Uid>,
    /// Whether it moves: it is a root, is forced, or descends from a root.
    pub in_scope: bool,
    /// Whether others on the source may need it too: cluster-scoped, or descends from a cluster-scoped root.
    pub global: bool,
    root: bool,
    namespaced: bool,
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
    /// Builds the graph of what was discovered.
    pub fn of(discovery: &Discovery) -> Self {
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
        graph.mark_scope();
        graph
    }

    fn add(&mut self, kind: &Kind, object: DynamicObject) {
        let labelled = |label: &str| object.metadata.labels.as_ref().is_some_and(|l| l.contains_key(label));
        let root = kind.root() || labelled(MOVE_HIERARCHY);
        let node = Node {
            reference: reference(&object),
            owners: object.metadata.owner_references.iter().flatten().map(|o| Uid(o.uid.clone())).collect(),
            in_scope: root || kind.forced || labelled(MOVE),
            global: !kind.namespaced,
            root,
            namespaced: kind.namespaced,
            object,
        };
        self.nodes.insert(Uid::of(&node.object), node);
    }

    /// Adds the owners that Cluster API knows by name only.
    fn add_soft_owners(&mut self) {
        let mut edges: Vec<(Uid, Uid)> = Vec::new();
        for (cluster_uid, cluster) in self.of_kind(GROUP, "Cluster") {
            let (namespace, name) = (&cluster.reference.namespace, &cluster.reference.name);
            for (uid, node) in self.of_kind("", "Secret") {
                let suffix = node.reference.name.strip_prefix(name.as_str()).unwrap_or_default();
                if node.reference.namespace == *namespace
                    && node.owners.is_empty()
                    && matches!(suffix, "-kubeconfig" | "-ca" | "-etcd" | "-sa" | "-proxy")
                {
                    edges.push((uid.clone(), cluster_uid.clone()));
                }
            }
            for (uid, node) in self.of_kind("addons.cluster.x-k8s.io", "ClusterResourceSetBinding") {
                if node.reference.namespace == *namespace && node.object.data["spec"]["clusterName"] == name.as_str() {
                    edges.push((uid.clone(), cluster_uid.clone()));
                }
            }
            let class = &cluster.object.data["spec"]["topology"]["classRef"];
            let class_namespace = class["namespace"].as_str().or(namespace.as_deref());
            for (uid, node) in self.of_kind(GROUP, "ClusterClass") {
                if class["name"] == node.reference.name.as_str()
                    && node.reference.namespace.as_deref() == class_namespace
                {
                    edges.push((cluster_uid.clone(), uid.clone()));
                }
            }
        }
        for (owned, owner) in edges {
            if let Some(node) = self.nodes.get_mut(&owned) {
                node.owners.insert(owner);
            }
        }
    }

    fn of_kind(&self, group: &str, kind: &str) -> impl Iterator<Item = (&Uid, &Node)> {
        self.nodes.iter().filter(move |(_, n)| n.reference.group() == group && n.reference.kind == kind)
    }

    /// Spreads scope and globality from roots to all that descends from them.
    fn mark_scope(&mut self) {
        let mut owned: BTreeMap<&Uid, Vec<&Uid>> = BTreeMap::new();
        for (uid, node) in &self.nodes {
            for owner in &node.owners {
                owned.entry(owner).or_default().push(uid);
            }
        }
        let reach = |start: Vec<&Uid>| {
            let mut seen: BTreeSet<Uid> = BTreeSet::new();
            let mut open = start;
            while let Some(uid) = open.pop() {
                if seen.insert(uid.clone()) {
                    open.extend(owned.get(uid).into_iter().flatten());
                }
            }
            seen
        };
        let roots = self.nodes.iter().filter(|(_, n)| n.root);
        let in_scope = reach(roots.clone().map(|(uid, _)| uid).collect());
        let global = reach(roots.filter(|(_, n)| !n.namespaced).map(|(uid, _)| uid).collect());
        for (uid, node) in &mut self.nodes {
            node.in_scope |= in_scope.contains(uid);
            node.global |= global.contains(uid);
        }
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
