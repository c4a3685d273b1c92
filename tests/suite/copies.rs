//! Copies of a cluster's objects follow a real API server.

use std::time::Duration;

use cluster_init::clock::{Look, Wait};
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, Copies, DynamicObject, GroupVersionKind, ObjectRef};
use kube::api::DeleteParams;
use serde_json::json;

use crate::support::{Home, bundle};

#[tokio::test(flavor = "multi_thread")]
async fn copies_follow_what_comes_changes_and_goes_also_when_the_api_server_was_away() {
    bundle();
    let home = Home::new();
    home.run(["local", "create", "copied"]).await.ok();
    let file = home.path().join("copied.kubeconfig");
    fsx::write_private(&file, home.run(["local", "kubeconfig", "copied"]).await.ok().stdout).unwrap();
    let cluster = Cluster::connect("copied", &file).await.unwrap();
    let mut copies = Copies::of(&cluster);

    // A kind that comes later, among all its objects and one alone.
    let kind = GroupVersionKind::gvk("test.example", "v1", "Thing");
    assert!(copies.all(&kind).await.unwrap().is_empty());
    cluster.apply(&definition()).await.unwrap();
    let name = |name: &str| ObjectRef::namespaced("test.example/v1", "Thing", "default", name);
    cluster_has(&cluster, &kind).await;
    for (thing, colour) in [("a", "red"), ("b", "red")] {
        cluster.apply(&object(thing, colour)).await.unwrap();
    }
    seen(&mut copies, &kind, &["a red", "b red"]).await;
    alone(&mut copies, &name("b"), Some(("test.example/v1", "Thing"))).await;

    cluster.apply(&object("a", "blue")).await.unwrap();
    cluster.delete(&name("b"), &DeleteParams::default()).await.unwrap();
    seen(&mut copies, &kind, &["a blue"]).await;
    alone(&mut copies, &name("b"), None).await;

    home.run(["local", "stop", "copied"]).await.ok();
    seen(&mut copies, &kind, &["a blue"]).await;
    home.run(["local", "start", "copied"]).await.ok();
    cluster.apply(&object("c", "green")).await.unwrap();
    seen(&mut copies, &kind, &["a blue", "c green"]).await;
    home.run(["local", "delete", "copied", "--force"]).await.ok();
}

fn definition() -> DynamicObject {
    let spec = json!({"group": "test.example", "scope": "Namespaced", "names": {"kind": "Thing", "plural": "things"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]});
    let object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.example"}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn object(name: &str, colour: &str) -> DynamicObject {
    let object = json!({"apiVersion": "test.example/v1", "kind": "Thing",
        "metadata": {"name": name, "namespace": "default"}, "colour": colour});
    serde_json::from_value(object).unwrap()
}

async fn cluster_has(cluster: &Cluster, kind: &GroupVersionKind) {
    Wait::new("the kind to be served", Duration::from_secs(30))
        .until(async || {
            Ok(match cluster.resource(kind).await {
                Ok(_) => Look::Ready(()),
                Err(error) => Look::Pending(error.to_string()),
            })
        })
        .await
        .unwrap();
}

/// Waits until the copies are these.
async fn seen(copies: &mut Copies, kind: &GroupVersionKind, expected: &[&str]) {
    Wait::new(format!("{expected:?}"), Duration::from_secs(30))
        .until(async || {
            let all = copies.all(kind).await.unwrap();
            let text = |object: &DynamicObject| {
                let colour = object.data["colour"].as_str().unwrap_or_default();
                format!("{} {colour}", object.metadata.name.as_deref().unwrap_or_default())
            };
            let mut all: Vec<String> = all.iter().map(|object| text(object)).collect();
            all.sort();
            Ok(if all == expected { Look::Ready(()) } else { Look::Pending(format!("{all:?}")) })
        })
        .await
        .unwrap();
}

/// Waits until the copy of one object has these types, or is gone.
async fn alone(copies: &mut Copies, name: &ObjectRef, expected: Option<(&str, &str)>) {
    Wait::new(format!("{expected:?}"), Duration::from_secs(30))
        .until(async || {
            let one = copies.one(name).await.unwrap();
            let types = one.as_ref().and_then(|object| object.types.as_ref());
            let found = types.map(|types| (types.api_version.as_str(), types.kind.as_str()));
            Ok(if found == expected { Look::Ready(()) } else { Look::Pending(format!("{found:?}")) })
        })
        .await
        .unwrap();
}
