//! Plans of small worlds, by hand and at random.

mod scenarios;

use std::collections::{BTreeMap, BTreeSet};

use kube::api::DynamicObject;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::graph::Kind;
use super::*;

const CLUSTER: &str = "cluster.x-k8s.io/v1beta2";
const INFRA: &str = "infrastructure.cluster.x-k8s.io/v1beta1";

/// A cluster's objects, by `kind name` and owners.
#[derive(Debug, Default)]
struct World(Vec<DynamicObject>, Facts, Filter);

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
            // What is called so moves with what it owns, or by itself, because its definition says so.
            let hierarchy = gvk.kind == "GlobalIdentity";
            let forced = gvk.kind == "GlobalExternal";
            let kind = Kind { gvk, namespaced, hierarchy, forced };
            discovery.found.push((kind, vec![object.clone()]));
        }
        let graph = Graph::filtered(&discovery, &self.2);
        let served = self.0.iter().map(|o| crate::k8s::reference(o).gvk()).filter(|g| g.kind != "Missing").collect();
        super::plan(&graph, &Facts { served, ..self.1.clone() }, "run")
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
    let world = cluster().add(INFRA, "GlobalIdentity", "identity", &[]).add("v1", "Secret", "password", &["identity"]);
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
    let world = cluster().add(INFRA, "LocalMachineTemplate", "lonely", &[]).add("v1", "Secret", "wanted", &[]).edit(
        "wanted",
        |o| {
            o.metadata.labels = Some([(MOVE.to_owned(), String::new())].into());
        },
    );
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

/// Two Clusters of one class, each with a machine, and one object of both.
fn two() -> World {
    let class = |o: &mut DynamicObject| o.data["spec"] = json!({"topology": {"classRef": {"name": "class"}}});
    World::default()
        .add(CLUSTER, "ClusterClass", "class", &[])
        .add(INFRA, "LocalClusterTemplate", "template", &["class"])
        .add(CLUSTER, "Cluster", "a", &[])
        .add(CLUSTER, "Cluster", "b", &[])
        .add(CLUSTER, "Machine", "ma", &["a"])
        .add(CLUSTER, "Machine", "mb", &["b"])
        .add("v1", "Secret", "a-ca", &[])
        .add("v1", "Secret", "b-ca", &[])
        .edit("a", class)
        .edit("b", class)
}

fn only(mut world: World, cluster: &str) -> World {
    world.2.clusters = vec![cluster.into()];
    world
}

#[test]
fn one_cluster_of_several_moves_with_what_is_its_own() {
    let world = only(two(), "a");
    assert_eq!(world.groups(), [vec!["[class]"], vec!["[template]", "a"], vec!["a-ca", "ma"]]);
    assert_eq!(world.why("mb"), "it belongs to Cluster default/b, which was not chosen");
    assert_eq!(world.why("b"), "it was not chosen");
    world.plan().check().unwrap();
    let alone = World { 0: two().0.into_iter().filter(|o| !is(o, &["b", "mb", "b-ca"])).collect(), ..only(two(), "a") };
    assert_eq!(alone.groups()[0], ["class"], "a class that nobody else uses moves");
}

#[test]
fn resource_sets_of_one_cluster_are_kept_for_the_others() {
    let addons = "addons.cluster.x-k8s.io/v1beta2";
    let mut world = two().add(addons, "ClusterResourceSet", "crs", &[]).add("v1", "ConfigMap", "resource", &["crs"]);
    for cluster in ["a", "b"] {
        let name = format!("binding-{cluster}");
        world = world
            .add(addons, "ClusterResourceSetBinding", &name, &["crs", cluster])
            .edit(&name, |o| o.data["spec"] = json!({"clusterName": cluster}));
    }
    let world = only(world, "a");
    assert_eq!(
        world.groups(),
        [vec!["[class]", "[crs]"], vec!["[resource]", "[template]", "a"], vec!["a-ca", "binding-a", "ma"]]
    );
    assert_eq!(world.why("binding-b"), "it belongs to Cluster default/b, which was not chosen");
}

#[test]
fn what_clusters_share_is_not_torn_apart() {
    let world = only(two().add(INFRA, "Shared", "shared", &["a", "b"]), "a");
    assert_eq!(world.why("shared"), "it is shared with Cluster default/b, which stays");
    world.plan().check().unwrap_err();
    two().add(INFRA, "Shared", "shared", &["a", "b"]).plan().check().unwrap();
}

#[test]
fn one_namespace_moves_with_the_classes_that_it_uses() {
    let elsewhere = |o: &mut DynamicObject| o.metadata.namespace = Some("elsewhere".into());
    let mut world = two().edit("b", elsewhere).edit("mb", elsewhere).edit("b-ca", elsewhere);
    world = world.edit("b", |o| o.data["spec"]["topology"]["classRef"]["namespace"] = json!("default"));
    world.2.namespace = Some("elsewhere".into());
    assert_eq!(world.groups(), [vec!["[class]"], vec!["[template]", "b"], vec!["b-ca", "mb"]]);
    world.2.namespace = Some("default".into());
    assert_eq!(world.groups(), [vec!["[class]"], vec!["[template]", "a"], vec!["a-ca", "ma"]]);
}

#[test]
fn a_wrong_filter_says_what_there_is() {
    let graph = |filter: &Filter| {
        let world = two();
        let found = world.0.iter().map(|o| {
            let gvk = crate::k8s::reference(o).gvk();
            (Kind { gvk, namespaced: true, hierarchy: false, forced: false }, vec![o.clone()])
        });
        Graph::filtered(&Discovery { found: found.collect() }, filter)
    };
    let check = |namespace: Option<&str>, cluster: &str| {
        let filter = Filter { namespace: namespace.map(str::to_owned), clusters: vec![cluster.into()] };
        filter.check(&graph(&filter)).unwrap_err()
    };
    assert_eq!(check(None, "c"), "there is no Cluster c; there are: default/a, default/b");
    assert_eq!(check(Some("nowhere"), "a"), "there is no Cluster a, nor any other");
}

#[test]
fn what_the_target_has_or_refuses_forbids_the_move() {
    let named = |kind: &str, name: &str| crate::k8s::ObjectRef::namespaced("v1", kind, "default", name);
    let mut world = cluster();
    world.1.existing = [named("Secret", "c-ca")].into();
    world.1.tried.insert(named("Secret", "c-kubeconfig"), Err("admission webhook says no".into()));
    world.1.lacking = vec![(named("Provider", "infra"), "provider x does not run on the target".into(), "do".into())];
    assert_eq!(world.why("c-ca"), "the target has an object of this name already");
    assert_eq!(world.why("c-kubeconfig"), "the target refuses it: admission webhook says no");
    assert_eq!(
        world.plan().check().unwrap_err().to_string(),
        "Provider default/infra cannot be moved: provider x does not run on the target (and 2 more objects)"
    );
    let mut changed = cluster();
    let differences = Differences { changed: vec!["spec.a".into()], defaulted: vec!["spec.b".into()] };
    changed.1.tried.insert(named("Secret", "c-ca"), Ok(differences));
    assert_eq!(changed.why("c-ca"), "the target would change spec.a");
    assert_eq!(changed.plan().remarks, ["the target adds to Secret default/c-ca: spec.b"]);
}

fn is(object: &DynamicObject, names: &[&str]) -> bool {
    object.metadata.name.as_deref().is_some_and(|name| names.contains(&name))
}

/// Worlds of some objects that own each other at random: cycles, several owners, owners that are not there.
fn worlds() -> impl Strategy<Value = World> {
    let kinds = prop::sample::select(vec![
        (CLUSTER, "Cluster"),
        (CLUSTER, "ClusterClass"),
        (CLUSTER, "Machine"),
        (INFRA, "LocalMachine"),
        (INFRA, "GlobalIdentity"),
        ("v1", "Secret"),
    ]);
    let object = (kinds, prop::collection::vec(0..16_usize, 0..3), any::<bool>());
    prop::collection::vec(object, 1..14).prop_map(|objects| {
        let mut world = World::default();
        for (index, ((api, kind), owners, chosen)) in objects.iter().enumerate() {
            let owners: Vec<String> = owners.iter().map(|owner| format!("o{owner}")).collect();
            let owners: Vec<&str> = owners.iter().map(String::as_str).collect();
            world = world.add(api, kind, &format!("o{index}"), if *kind == "Cluster" { &[] } else { &owners });
            if *kind == "Cluster" && *chosen {
                world.2.clusters.push(format!("o{index}"));
            }
        }
        world
    })
}

proptest! {
    #[test]
    fn every_object_is_in_one_class_and_after_its_owners(world in worlds()) {
        let plan = world.plan();
        let mut seen: BTreeMap<&str, &Item> = BTreeMap::new();
        for item in &plan.items {
            prop_assert!(seen.insert(&item.object.name, item).is_none(), "{} twice", item.object);
        }
        let group = |item: &Item| match item.verdict {
            Verdict::Move { group } | Verdict::Keep { group, .. } => Some(group),
            _ => None,
        };
        for object in &world.0 {
            let name = object.metadata.name.as_deref().unwrap();
            let item = seen.get(name);
            // Secrets that nobody's cluster owns are nobody's business.
            prop_assert!(item.is_some() || crate::k8s::reference(object).kind == "Secret", "{name} is in no class");
            let Some(own) = item.and_then(|item| group(item)) else { continue };
            for owner in object.metadata.owner_references.iter().flatten() {
                let first = seen.get(owner.name.as_str()).and_then(|item| group(item));
                prop_assert!(first.is_some_and(|first| first < own), "{name} before its owner {}", owner.name);
            }
        }
    }

    #[test]
    fn no_cluster_that_was_not_chosen_moves(world in worlds()) {
        let chosen: BTreeSet<&String> = world.2.clusters.iter().collect();
        for item in world.plan().copied().filter(|item| item.object.kind == "Cluster") {
            prop_assert!(chosen.is_empty() || chosen.contains(&item.object.name), "{}", item.object);
        }
    }

    #[test]
    fn a_single_changed_field_is_found(path in 0..7_usize, text in "[a-z]{1,8}") {
        let source = json!({"apiVersion": CLUSTER, "kind": "Machine",
            "metadata": {"name": "m", "namespace": "default", "uid": "1", "labels": {"a": "B"}, "annotations": {"a": "B"},
                "finalizers": ["B"], "ownerReferences": [{"apiVersion": "x/v1", "kind": "X", "name": "B", "uid": "o"}]},
            "spec": {"a": "B", "list": [{"a": "B"}]}, "data": {"a": "B"}});
        let places = ["/metadata/labels/a", "/metadata/annotations/a", "/metadata/finalizers/0",
            "/metadata/ownerReferences/0/name", "/spec/a", "/spec/list/0/a", "/data/a"];
        let mut copy = source.clone();
        *copy.pointer_mut(places[path]).unwrap() = json!(text);
        let object = |value: Value| -> DynamicObject { serde_json::from_value(value).unwrap() };
        let uids = BTreeMap::from([(Uid("o".into()), Uid("o".into()))]);
        let changed = differences(&object(source), &object(copy), &uids).changed;
        prop_assert_eq!(changed.len(), 1, "{:?}", changed);
    }
}
