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
            object: Box::new(item.object.clone()),
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

#[cfg(test)]
mod tests {
    use super::super::Discovery;
    use super::super::graph::Kind;
    use super::*;
    use kube::api::DynamicObject;
    use serde_json::json;

    const CLUSTER: &str = "cluster.x-k8s.io/v1beta2";
    const INFRA: &str = "infrastructure.cluster.x-k8s.io/v1beta1";

    /// A cluster's objects, by `kind name` and owners.
    #[derive(Default)]
    struct World(Vec<DynamicObject>);

    impl World {
        fn add(mut self, api_version: &str, kind: &str, name: &str, owners: &[&str]) -> Self {
            let owners: Vec<Value> = owners
                .iter()
                .map(|o| json!({"apiVersion": "x/v1", "kind": "X", "name": o, "uid": format!("uid-{o}")}))
                .collect();
            let status = match kind {
                "Cluster" => {
                    json!({"initialization": {"infrastructureProvisioned": true, "controlPlaneInitialized": true},
                    "conditions": [{"type": "ControlPlaneInitialized", "status": "True"}]})
                }
                "Machine" => json!({"nodeRef": {"name": name}}),
                _ => json!({}),
            };
            let namespace = if kind.starts_with("Global") { Value::Null } else { json!("default") };
            self.0.push(
                serde_json::from_value(json!({
                    "apiVersion": api_version, "kind": kind, "spec": {}, "status": status,
                    "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "ownerReferences": owners},
                }))
                .unwrap(),
            );
            self
        }

        fn edit(mut self, name: &str, edit: impl Fn(&mut DynamicObject)) -> Self {
            edit(self.0.iter_mut().find(|o| o.metadata.name.as_deref() == Some(name)).unwrap());
            self
        }

        fn plan(&self) -> Plan {
            let mut discovery = Discovery::default();
            for object in &self.0 {
                let gvk = crate::k8s::reference(object).gvk();
                let namespaced = object.metadata.namespace.is_some();
                let kind = Kind { gvk, namespaced, hierarchy: !namespaced, forced: false };
                discovery.found.push((kind, vec![object.clone()]));
            }
            let graph = Graph::of(&discovery);
            let served =
                self.0.iter().map(|o| crate::k8s::reference(o).gvk()).filter(|g| g.kind != "Missing").collect();
            super::plan(&graph, &served, "run")
        }

        /// Names by group; those that are kept are in brackets.
        fn groups(&self) -> Vec<Vec<String>> {
            let named = |(item, moves): &(&Item, bool)| {
                if *moves { item.object.name.clone() } else { format!("[{}]", item.object.name) }
            };
            let sorted = |mut names: Vec<String>| {
                names.sort();
                names
            };
            self.plan().groups().iter().map(|group| sorted(group.iter().map(named).collect())).collect()
        }

        fn why(&self, name: &str) -> String {
            let plan = self.plan();
            match &plan.items.iter().find(|i| i.object.name == name).unwrap().verdict {
                Verdict::Forbid { reason, .. } | Verdict::Stay { reason } => reason.clone(),
                other => format!("{other:?}"),
            }
        }
    }

    fn cluster() -> World {
        World::default()
            .add(CLUSTER, "Cluster", "c", &[])
            .add(INFRA, "LocalCluster", "infra", &["c"])
            .add("v1", "Secret", "c-ca", &[])
            .add("v1", "Secret", "c-kubeconfig", &["c"])
            .add("v1", "Secret", "unrelated", &[])
            .add("v1", "ConfigMap", "unrelated-too", &[])
    }

    fn machines() -> World {
        cluster()
            .add(CLUSTER, "Machine", "m", &["c"])
            .add(INFRA, "LocalMachine", "im", &["m"])
            .add("bootstrap.cluster.x-k8s.io/v1beta2", "KubeadmConfig", "cfg", &["m"])
            .add("v1", "Secret", "cfg-data", &["cfg"])
    }

    #[test]
    fn owners_come_before_what_they_own() {
        assert_eq!(cluster().groups(), [vec!["c"], vec!["c-ca", "c-kubeconfig", "infra"]]);
        assert_eq!(
            machines().groups(),
            [vec!["c"], vec!["c-ca", "c-kubeconfig", "infra", "m"], vec!["cfg", "im"], vec!["cfg-data"]]
        );
        let sets = cluster()
            .add(CLUSTER, "MachineDeployment", "md", &["c"])
            .add(INFRA, "LocalMachineTemplate", "template", &["c"])
            .add(CLUSTER, "MachineSet", "ms", &["md"])
            .add(CLUSTER, "Machine", "m", &["ms"])
            .add(INFRA, "LocalMachine", "im", &["m"]);
        let groups = sets.groups();
        assert_eq!(groups.len(), 5);
        assert_eq!(groups[2..], [vec!["ms"], vec!["m"], vec!["im"]]);
        assert!(sets.plan().items.iter().all(|i| i.object.name != "unrelated"));
    }

    #[test]
    fn classes_come_before_their_clusters_and_shared_objects_once() {
        let class = World::default()
            .add(CLUSTER, "ClusterClass", "class", &[])
            .add(CLUSTER, "ClusterClass", "unused", &[])
            .add(INFRA, "LocalClusterTemplate", "template", &["class"])
            .add(CLUSTER, "Cluster", "a", &[])
            .add(CLUSTER, "Cluster", "b", &[])
            .add(INFRA, "Shared", "shared", &["a", "b"])
            .edit("a", |o| o.data["spec"] = json!({"topology": {"classRef": {"name": "class"}}}));
        assert_eq!(class.groups(), [vec!["b", "class", "unused"], vec!["a", "template"], vec!["shared"]]);
    }

    #[test]
    fn global_objects_and_their_secrets_are_kept() {
        let world =
            cluster().add(INFRA, "GlobalIdentity", "identity", &[]).add("v1", "Secret", "password", &["identity"]);
        assert_eq!(world.groups(), [vec!["[identity]", "c"], vec!["[password]", "c-ca", "c-kubeconfig", "infra"]]);
    }

    #[test]
    fn resource_sets_move_with_what_they_apply() {
        let addons = "addons.cluster.x-k8s.io/v1beta2";
        let world = cluster()
            .add(addons, "ClusterResourceSet", "crs", &[])
            .add("v1", "ConfigMap", "resource", &["crs"])
            .add(addons, "ClusterResourceSetBinding", "binding", &["crs"])
            .edit("binding", |o| o.data["spec"] = json!({"clusterName": "c"}));
        assert_eq!(world.groups(), [vec!["c", "crs"], vec!["binding", "c-ca", "c-kubeconfig", "infra", "resource"]]);
    }

    #[test]
    fn labels_force_a_move_and_the_rest_stays_with_a_reason() {
        let world = cluster()
            .add(INFRA, "LocalMachineTemplate", "lonely", &[])
            .add("v1", "Secret", "wanted", &[])
            .edit("wanted", |o| {
                o.metadata.labels = Some([(super::super::MOVE.to_owned(), String::new())].into());
            });
        assert_eq!(world.groups()[0], ["c", "wanted"]);
        assert!(world.why("lonely").starts_with("no Cluster"), "{}", world.why("lonely"));
        world.plan().check().unwrap();
    }

    #[test]
    fn what_forbids_a_move_is_named_with_its_remedy() {
        type Edit = fn(&mut DynamicObject);
        let cases: [(&str, Edit, &str); 8] = [
            ("c", |o| o.data["spec"]["paused"] = json!(true), "somebody else paused it"),
            (
                "c",
                |o| o.data["status"]["initialization"]["infrastructureProvisioned"] = json!(false),
                "its infrastructure is not provisioned",
            ),
            ("c", |o| o.data["status"]["conditions"] = json!([]), "its control plane is not initialized"),
            ("m", |o| o.data["status"] = json!({}), "it has no Node yet"),
            (
                "im",
                |o| {
                    o.metadata.deletion_timestamp =
                        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(crate::clock::now()));
                },
                "it is being deleted",
            ),
            (
                "im",
                |o| o.types.as_mut().unwrap().kind = "Missing".into(),
                "the target does not serve Missing of infrastructure.cluster.x-k8s.io/v1beta1",
            ),
            (
                "im",
                |o| o.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-nobody".into(),
                "its owner X m is of a kind that is not moved, or does not exist",
            ),
            (
                "cfg",
                |o| o.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-cfg-data".into(),
                "its owners wait for each other, or for one that cannot be moved",
            ),
        ];
        for (name, edit, reason) in cases {
            // What is forbidden here is in scope, because something that moves owns it too.
            let world = machines().edit(name, edit);
            let world = if matches!(name, "im" | "cfg") { world.edit(name, also_owned_by_the_cluster) } else { world };
            assert_eq!(world.why(name), reason, "{name}");
            let error = world.plan().check().unwrap_err();
            assert!(error.to_string().contains("cannot be moved"), "{error}");
        }
        let unmoved = machines().edit("im", also_owned_by_the_cluster).edit("im", |o| {
            o.metadata.owner_references.as_mut().unwrap()[0].uid = "uid-unrelated".into();
        });
        assert_eq!(unmoved.why("im"), "its owner Secret default/unrelated is not moved");
    }

    fn also_owned_by_the_cluster(object: &mut DynamicObject) {
        let mut owner = object.metadata.owner_references.as_ref().unwrap()[0].clone();
        owner.uid = "uid-c".into();
        object.metadata.owner_references.as_mut().unwrap().push(owner);
    }

    #[test]
    fn a_pause_of_ours_is_no_obstacle() {
        let world = cluster().edit("c", |o| {
            o.data["spec"]["paused"] = json!(true);
            o.metadata.annotations = Some([(MARK.to_owned(), "run".to_owned())].into());
        });
        world.plan().check().unwrap();
        let other = world.edit("c", |o| {
            o.metadata.annotations = Some([(MARK.to_owned(), "another".to_owned())].into());
        });
        other.plan().check().unwrap_err();
    }
}
