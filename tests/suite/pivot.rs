//! The pivot between two real API servers: everything arrives, nothing is lost wherever it stops, failures roll back.

use crate::support;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cluster_init::capi::{self, Phase, Pivot};
use cluster_init::clock::{Deadline, Look, Wait};
use cluster_init::event::Events;
use cluster_init::exec;
use cluster_init::failure::Kind;
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, DynamicObject, GroupVersionKind, ObjectRef, reference};
use cluster_init::saga::{Journal, Scope};
use kube::api::{DeleteParams, Patch, PatchParams};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const CLUSTER: &str = "cluster.x-k8s.io";
const INFRA: &str = "infrastructure.cluster.x-k8s.io";
/// Group, version, kind of the custom kinds of the test.
const KINDS: [(&str, &str, &str); 5] = [
    (CLUSTER, "v1beta2", "Cluster"),
    (CLUSTER, "v1beta2", "MachineDeployment"),
    (CLUSTER, "v1beta2", "Machine"),
    (INFRA, "v1alpha1", "LocalCluster"),
    (INFRA, "v1alpha1", "LocalMachine"),
];

fn object(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn definition(group: &str, version: &str, kind: &str) -> DynamicObject {
    let plural = format!("{}s", kind.to_lowercase());
    object(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "labels": {"clusterctl.cluster.x-k8s.io": ""},
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {"group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    }))
}

/// What stands in for the controllers of a cluster: it reports pauses, and adds finalizers to whatever lacks them.
async fn controllers(cluster: Cluster) {
    loop {
        for (group, version, kind) in KINDS {
            let gvk = GroupVersionKind::gvk(group, version, kind);
            for found in cluster.list(&gvk, None, None).await.unwrap_or_default() {
                reconcile(&cluster, &found).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn reconcile(cluster: &Cluster, found: &DynamicObject) {
    let name = reference(found);
    let uid = json!(found.metadata.uid);
    if found.metadata.deletion_timestamp.is_none() && found.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
        // Pinned to the object that was seen; it may be gone, which is fine.
        let _ = cluster.merge(&name, &json!({"metadata": {"uid": uid, "finalizers": ["test/guard"]}})).await;
    }
    let paused = found.data["spec"]["paused"] == true;
    let says = found.data.pointer("/status/conditions/1/status") == Some(&json!("True"));
    if name.kind == "Cluster" && (paused != says || found.data["status"]["seen"] != json!(found.metadata.generation)) {
        let status = json!({"metadata": {"uid": uid}, "status": {
            "seen": found.metadata.generation,
            "initialization": {"infrastructureProvisioned": true, "controlPlaneInitialized": true},
            "conditions": [{"type": "ControlPlaneInitialized", "status": "True"},
                {"type": "Paused", "status": if paused { "True" } else { "False" }, "observedGeneration": found.metadata.generation}]}});
        set_status(cluster, &name, &status).await;
    }
    if name.kind == "Machine" && found.data["status"]["nodeRef"].is_null() && found.data["spec"]["providerID"] != "" {
        set_status(cluster, &name, &json!({"metadata": {"uid": uid}, "status": {"nodeRef": {"name": name.name}}}))
            .await;
    }
}

async fn set_status(cluster: &Cluster, name: &ObjectRef, status: &Value) {
    let api = cluster.api(&name.gvk(), name.namespace.as_deref()).await.unwrap();
    let _ = api.patch_status(&name.name, &PatchParams::default(), &Patch::Merge(status)).await;
}

/// Makes an object as an operator would, and returns an owner reference to it.
async fn make(cluster: &Cluster, api: &str, kind: &str, name: &str, owner: Option<&Value>, spec: Value) -> Value {
    let mut value = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "default",
        "labels": {"test": "yes"}, "annotations": {"note": "kept"}}});
    if kind == "Secret" {
        value["stringData"] = spec;
    } else {
        value["spec"] = spec;
        value["metadata"]["finalizers"] = json!(["test/guard"]);
    }
    if let Some(owner) = owner {
        value["metadata"]["ownerReferences"] = json!([owner]);
    }
    let made = cluster.in_the_name_of("operator").apply(&object(value)).await.unwrap();
    json!({"apiVersion": api, "kind": kind, "name": name, "uid": made.metadata.uid, "controller": true, "blockOwnerDeletion": true})
}

/// A cluster with machines.
async fn populate(cluster: &Cluster, machines: usize) {
    let owner = make(cluster, "cluster.x-k8s.io/v1beta2", "Cluster", "mc", None, json!({"clusterNetwork": {}})).await;
    let infra = "infrastructure.cluster.x-k8s.io/v1alpha1";
    make(cluster, infra, "LocalCluster", "mc", Some(&owner), json!({"port": 1})).await;
    make(cluster, "v1", "Secret", "mc-ca", None, json!({"tls.key": "secret"})).await;
    make(cluster, "v1", "Secret", "mc-kubeconfig", Some(&owner), json!({"value": "secret"})).await;
    make(cluster, "v1", "Secret", "unrelated", None, json!({"a": "b"})).await;
    let set = make(
        cluster,
        "cluster.x-k8s.io/v1beta2",
        "MachineDeployment",
        "md",
        Some(&owner),
        json!({"replicas": machines}),
    )
    .await;
    for index in 0..machines {
        let name = format!("m{index}");
        let spec = json!({"providerID": format!("local://{name}"), "clusterName": "mc"});
        let machine = make(cluster, "cluster.x-k8s.io/v1beta2", "Machine", &name, Some(&set), spec).await;
        make(cluster, infra, "LocalMachine", &name, Some(&machine), json!({})).await;
    }
    initialized(cluster, machines).await;
}

/// Waits until the stand-ins for controllers have reported on everything.
async fn initialized(cluster: &Cluster, machines: usize) {
    let seen = |object: &DynamicObject| match reference(object).kind.as_str() {
        "Cluster" => capi_condition(object, "Paused") == Some("False"),
        _ => !object.data["status"]["nodeRef"].is_null(),
    };
    Wait::new("the Cluster to be initialized", Duration::from_secs(10))
        .until(async || {
            let mut all = Vec::new();
            for kind in ["Cluster", "Machine"] {
                all.extend(cluster.list(&GroupVersionKind::gvk(CLUSTER, "v1beta2", kind), None, None).await?);
            }
            let ready = all.iter().filter(|object| seen(object)).count();
            Ok(if ready == machines + 1 { Look::Ready(()) } else { Look::Pending(format!("{ready} objects")) })
        })
        .await
        .unwrap();
}

fn capi_condition<'a>(object: &'a DynamicObject, kind: &str) -> Option<&'a str> {
    cluster_init::k8s::condition(object, kind)?["status"].as_str()
}

fn scope(folder: &std::path::Path) -> Scope {
    let journal = Arc::new(Journal::open(&folder.join("journal.ndjson")).unwrap());
    Scope::detached("pivot", journal, Events::silent(), Duration::from_mins(1), CancellationToken::new())
}

/// Names of the test's own objects on a cluster, with the Secrets that belong to its Cluster.
async fn names(cluster: &Cluster) -> BTreeSet<ObjectRef> {
    let found = capi::discover(cluster).await.unwrap();
    found.objects().map(reference).filter(|n| n.kind != "ConfigMap" && n.name != "unrelated").collect()
}

/// Removes everything that a scenario left.
async fn clean(cluster: &Cluster) {
    Wait::new("the cluster to be empty", Duration::from_secs(20))
        .every(Duration::from_millis(20))
        .until(async || {
            let found = capi::discover(cluster).await?;
            let left: Vec<&DynamicObject> = found.objects().filter(|o| reference(o).kind != "ConfigMap").collect();
            for object in &left {
                let name = reference(object);
                cluster.delete(&name, &DeleteParams::default()).await?;
                let _ = cluster.merge(&name, &json!({"metadata": {"finalizers": null}})).await;
            }
            Ok(if left.is_empty() { Look::Ready(()) } else { Look::Pending(format!("{} objects", left.len())) })
        })
        .await
        .unwrap();
    let record = ObjectRef::namespaced("v1", "ConfigMap", "default", "cluster-init-pivot");
    cluster.delete(&record, &DeleteParams::default()).await.unwrap();
}

/// What must hold on the target after a pivot.
async fn assert_moved(source: &Cluster, target: &Cluster, before: &BTreeSet<ObjectRef>) {
    assert_eq!(names(source).await, BTreeSet::new(), "the source is empty");
    assert_eq!(names(target).await, *before, "the target has it all");
    let found = capi::discover(target).await.unwrap();
    let uids: BTreeSet<&str> = found.objects().filter_map(|o| o.metadata.uid.as_deref()).collect();
    for object in found.objects().filter(|o| before.contains(&reference(o))) {
        let name = reference(object);
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(annotations.get("note").map(String::as_str), Some("kept"), "{name}");
        assert!(!annotations.keys().any(|k| k.starts_with("cluster-init.dev/")), "{name}: {annotations:?}");
        assert!(!annotations.contains_key("clusterctl.cluster.x-k8s.io/delete-for-move"), "{name}");
        assert!(object.metadata.deletion_timestamp.is_none(), "{name}");
        for owner in object.metadata.owner_references.iter().flatten() {
            assert!(uids.contains(owner.uid.as_str()), "{name}: its owner {} is not here", owner.name);
        }
        assert_ne!(object.data["spec"]["paused"], true, "{name}");
        // Its status was written anew.
        let written = object.metadata.managed_fields.iter().flatten().filter(|m| m.subresource.is_none());
        let managers: BTreeSet<String> = written.filter_map(|m| m.manager.clone()).collect();
        assert!(managers.contains("operator") && !managers.contains("cluster-init"), "{name}: {managers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pivot_between_two_api_servers() {
    let (home, source, target) = two_clusters().await;
    for cluster in [&source, &target] {
        let definitions = KINDS.map(|(group, version, kind)| definition(group, version, kind)).to_vec();
        let deadline = Deadline::after(Duration::from_secs(30));
        cluster.apply_all(definitions, deadline, &CancellationToken::new()).await.unwrap();
        clean(cluster).await;
    }
    let of_source = tokio::spawn(controllers(source.clone()));
    controllers_that_know_nothing_are_waited_for(&source, &target).await;
    let of_target = tokio::spawn(controllers(target.clone()));
    everything_arrives(&source, &target).await;
    a_conflict_rolls_back(&source, &target).await;
    an_interruption_rolls_back(&source, &target).await;
    what_is_not_ready_is_refused(&source, &target).await;
    nothing_is_lost_wherever_it_stops(&source, &target).await;
    the_command_plans_moves_and_goes_on_after_a_kill(&home, &source, &target).await;
    of_source.abort();
    of_target.abort();
    for name in ["source", "target"] {
        home.run(["local", "delete", name]).await.ok();
    }
}

/// They would make anew what they do not know.
async fn controllers_that_know_nothing_are_waited_for(source: &Cluster, target: &Cluster) {
    populate(source, 1).await;
    let before = names(source).await;
    let folder = tempfile::tempdir().unwrap();
    let mut scope = scope(folder.path());
    scope.deadline = Deadline::after(Duration::from_secs(8));
    let failure = Pivot::new(source, target, "zero", &scope).run().await.unwrap_err();
    assert_eq!(failure.kind, Kind::Timeout);
    let (waited, seen) = failure.message.split_once(';').unwrap();
    assert_eq!(waited, "waited 8s for Cluster API on the management cluster to know the copies");
    assert_eq!(seen, " last seen: it has not said yet that Cluster default/mc is paused");
    assert!(
        failure.hints[0].starts_with("see that Cluster API's manager on the management cluster runs"),
        "{failure:?}"
    );
    assert_as_it_was(source, target, &before, &[]).await;
    clean(source).await;
    clean(target).await;
}

async fn everything_arrives(source: &Cluster, target: &Cluster) {
    populate(source, 5).await;
    let before = names(source).await;
    let folder = tempfile::tempdir().unwrap();
    let report = Pivot::new(source, target, "one", &scope(folder.path())).run().await.unwrap();
    assert_eq!(report.moved.len(), before.len());
    assert_eq!(
        report.phases.iter().map(|(p, _)| *p).collect::<Vec<_>>(),
        ["fence", "copy", "verify", "status", "acknowledge", "commit", "delete", "release"]
    );
    assert_moved(source, target, &before).await;
    assert!(names(source).await.is_empty());
    assert_eq!(capi::recorded(target).await.unwrap().unwrap().phase, Phase::Done);
    // Again: nothing to do, and back: an older record is no obstacle.
    let again = Pivot::new(source, target, "one", &scope(folder.path())).run().await.unwrap();
    assert!(again.moved.is_empty());
    initialized(target, 5).await;
    let another = tempfile::tempdir().unwrap();
    Pivot::new(target, source, "back", &scope(another.path())).run().await.unwrap();
    assert_moved(target, source, &before).await;
    clean(source).await;
    clean(target).await;
}

async fn a_conflict_rolls_back(source: &Cluster, target: &Cluster) {
    populate(source, 2).await;
    let before = names(source).await;
    make(target, "v1", "Secret", "mc-ca", None, json!({"tls.key": "another"})).await;
    let folder = tempfile::tempdir().unwrap();
    let failure = Pivot::new(source, target, "two", &scope(folder.path())).run().await.unwrap_err();
    assert_eq!(failure.kind, Kind::Unsafe);
    assert_eq!(failure.message, "Secret default/mc-ca cannot be moved: the target has an object of this name already");
    assert_as_it_was(source, target, &before, &["mc-ca"]).await;
    clean(source).await;
    clean(target).await;
}

async fn an_interruption_rolls_back(source: &Cluster, target: &Cluster) {
    populate(source, 2).await;
    let before = names(source).await;
    let folder = tempfile::tempdir().unwrap();
    let scope = scope(folder.path());
    scope.cancel.cancel();
    let failure = Pivot::new(source, target, "three", &scope).run().await.unwrap_err();
    assert_eq!(failure.kind, Kind::Interrupted);
    assert_as_it_was(source, target, &before, &[]).await;
    clean(source).await;
    clean(target).await;
}

async fn what_is_not_ready_is_refused(source: &Cluster, target: &Cluster) {
    populate(source, 1).await;
    let machine = ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Machine", "default", "m0");
    source.merge(&machine, &json!({"spec": {"providerID": ""}})).await.unwrap();
    set_status(source, &machine, &json!({"status": {"nodeRef": null}})).await;
    let folder = tempfile::tempdir().unwrap();
    let failure = Pivot::new(source, target, "four", &scope(folder.path())).run().await.unwrap_err();
    assert_eq!(failure.message, "Machine default/m0 cannot be moved: it has no Node yet");
    assert_eq!(failure.kind, Kind::Unsafe);
    clean(source).await;
    clean(target).await;
}

async fn assert_as_it_was(source: &Cluster, target: &Cluster, before: &BTreeSet<ObjectRef>, others: &[&str]) {
    assert_eq!(names(source).await, *before);
    let left: Vec<String> = names(target).await.into_iter().map(|n| n.name).collect();
    assert_eq!(left, others);
    for object in capi::discover(source).await.unwrap().objects() {
        assert_ne!(object.data["spec"]["paused"], true, "{}", reference(object));
        assert!(object.metadata.annotations.as_ref().is_none_or(|a| !a.contains_key(capi::MARK)));
    }
    assert_eq!(capi::recorded(source).await.unwrap(), None);
}

/// Ends the pivot after ever longer times, as a crash would, and runs it again until it is done.
async fn nothing_is_lost_wherever_it_stops(source: &Cluster, target: &Cluster) {
    populate(source, 8).await;
    let before = names(source).await;
    let folder = tempfile::tempdir().unwrap();
    let mut stops = 0;
    for millis in (5..).step_by(12) {
        let scope = scope(folder.path());
        let pivot = Pivot::new(source, target, "five", &scope);
        if let Ok(result) = tokio::time::timeout(Duration::from_millis(millis), pivot.run()).await {
            result.unwrap();
            break;
        }
        stops += 1;
        let there: BTreeSet<ObjectRef> = names(source).await.union(&names(target).await).cloned().collect();
        assert_eq!(there, before, "after {millis} ms");
        if capi::recorded(target).await.unwrap().is_none_or(|r| r.phase == Phase::Copying) {
            assert_eq!(names(source).await, before, "nothing is deleted before the point of no return");
        }
    }
    assert!(stops > 3, "stopped {stops} times");
    assert_moved(source, target, &before).await;
    clean(target).await;
}

/// Two clusters without Cluster API's controllers; the home ends them.
async fn two_clusters() -> (support::Home, Cluster, Cluster) {
    let home = support::Home::new();
    let create = async |name: &str| home.run(["local", "create", name]).await.ok();
    tokio::join!(create("source"), create("target"));
    let connect = async |cluster: &str, name: &str| {
        let text = home.run(["local", "kubeconfig", name]).await.ok().stdout;
        Cluster::connect_text(cluster, &text, name).await.unwrap()
    };
    let (source, target) = (connect("bootstrap", "source").await, connect("management", "target").await);
    (home, source, target)
}

/// `cluster-init pivot`, as a user runs it.
async fn the_command_plans_moves_and_goes_on_after_a_kill(home: &support::Home, source: &Cluster, target: &Cluster) {
    populate(source, 5).await;
    let before = names(source).await;
    let mut files = Vec::new();
    for name in ["source", "target"] {
        let text = home.run(["local", "kubeconfig", name]).await.ok().stdout;
        let file = home.path().join(name).display().to_string();
        fsx::write_private(Path::new(&file), text).unwrap();
        files.push(file);
    }
    let pivot = ["pivot", "--kubeconfig", &files[0], "--to-kubeconfig", &files[1]];

    let record = capi::recorded(source).await.unwrap();
    let nowhere = home.run(["pivot", "--kubeconfig", &files[0], "--to-kubeconfig", &files[0]]).await;
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.stderr.contains("lead to the same cluster: there is nowhere to move to"), "{}", nowhere.stderr);

    let plan = home.run(pivot.iter().chain(&["--plan"])).await.ok().stdout;
    for object in &before {
        let line = plan.lines().find(|line| line.starts_with(&format!("{object} "))).expect("a line for each object");
        assert!(line.contains("moves, in group"), "{line}");
    }
    assert_eq!(names(source).await, before, "a plan has no effect");
    assert_eq!(capi::recorded(source).await.unwrap(), record);

    let log = home.path().join("killed.log");
    let mut killed = home.command(pivot).spawn(&log).unwrap();
    Wait::new("the first copy", Duration::from_secs(20))
        .every(Duration::from_millis(2))
        .until(async || Ok(if names(target).await.is_empty() { Look::Pending("none".into()) } else { Look::Ready(()) }))
        .await
        .unwrap();
    exec::signal(killed.pid().unwrap(), Signal::KILL);
    killed.wait().await.unwrap();

    let report = home.run(["--output", "json"].iter().chain(&pivot)).await.ok();
    assert!(report.stdout.contains("\"moved\""), "{}", report.stdout);
    assert_moved(source, target, &before).await;
    let nothing = home.run(pivot.iter().chain(&["--plan"])).await.ok();
    assert!(nothing.stdout.contains("there is nothing to move"), "{}", nothing.stdout);
    clean(target).await;
}
