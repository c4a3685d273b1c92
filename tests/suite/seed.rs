//! Clusters as the kubeadm providers and the docker provider leave them, without any controller: 32 + 4 N objects with N
//! workers and three control-plane machines, that is 52, 412 and 4,012 objects for 5, 95 and 995 workers.

#![allow(dead_code, reason = "the benchmark and the tests use different parts")]

use std::time::Duration;

use cluster_init::bundle::Bundle;
use cluster_init::clock::Deadline;
use cluster_init::k8s::{self, Cluster, DynamicObject, ObjectRef, reference};
use futures::StreamExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const CAPI: &str = "cluster.x-k8s.io/v1beta2";
const DOCKER: &str = "infrastructure.cluster.x-k8s.io/v1beta2";
const KUBEADM: &str = "bootstrap.cluster.x-k8s.io/v1beta2";
const CONTROL_PLANE: &str = "controlplane.cluster.x-k8s.io/v1beta2";
const ADDONS: &str = "addons.cluster.x-k8s.io/v1beta2";
/// Who writes what the providers' controllers write.
const MANAGER: &str = "manager";

/// The definitions of Cluster API and its docker provider, from the bundle's manifests; nobody answers conversions.
pub fn definitions(bundle: &Bundle) -> Vec<DynamicObject> {
    let mut all = Vec::new();
    for url in bundle.manifest_urls().filter(|url| url.contains("cluster-api") && url.contains("components")) {
        let text = String::from_utf8(bundle.manifest(url).unwrap().unwrap()).unwrap();
        // Variables that clusterctl would fill in stand in Deployments only.
        let objects = k8s::parse(&text.replace("${", "$ {"), url).unwrap();
        all.extend(objects.into_iter().filter(|o| reference(o).kind == "CustomResourceDefinition"));
    }
    for definition in &mut all {
        definition.data["spec"].as_object_mut().map(|spec| spec.remove("conversion"));
        // As clusterctl does when it installs a provider.
        definition.metadata.labels.get_or_insert_default().insert("clusterctl.cluster.x-k8s.io".into(), String::new());
    }
    assert!(all.len() > 20, "{} definitions", all.len());
    all
}

/// Installs the definitions.
pub async fn install(cluster: &Cluster, definitions: &[DynamicObject]) {
    let deadline = Deadline::after(Duration::from_mins(1));
    cluster.apply_all(definitions.to_vec(), deadline, &CancellationToken::new()).await.unwrap();
}

/// One object to be made: its owner's place in the list, and the status that controllers gave it.
struct Seed {
    object: Value,
    owner: Option<usize>,
    status: Option<Value>,
}

/// The objects of a Cluster with so many workers, owners before what they own.
fn seeds(workers: usize) -> Vec<Vec<Seed>> {
    let cluster = seed(
        CAPI,
        "Cluster",
        "big",
        None,
        json!({"spec": {
            "infrastructureRef": {"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": "DockerCluster", "name": "big"},
            "controlPlaneRef": {"apiGroup": "controlplane.cluster.x-k8s.io", "kind": "KubeadmControlPlane", "name": "big-cp"},
        }}),
    );
    let status = json!({"initialization": {"infrastructureProvisioned": true, "controlPlaneInitialized": true},
        "conditions": [{"type": "ControlPlaneInitialized", "status": "True", "reason": "Initialized",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "message": ""}]});
    let template = |name: &str| {
        let customized = json!({"spec": {"template": {"spec": {"customImage": "kindest/node:v1.36.1"}}}});
        seed(DOCKER, "DockerMachineTemplate", name, Some(0), customized)
    };
    let set = seed(
        ADDONS,
        "ClusterResourceSet",
        "cni",
        None,
        json!({"spec": {
        "clusterSelector": {"matchLabels": {"cni": "yes"}}, "resources": [{"kind": "ConfigMap", "name": "cni"}]}}),
    );
    let cluster = guarded(Seed { status: Some(status), ..cluster }, "cluster.cluster.x-k8s.io");
    let first = vec![cluster, set];
    let mut second = vec![
        seed(DOCKER, "DockerCluster", "big", Some(0), json!({"spec": {}})),
        seed(
            CONTROL_PLANE,
            "KubeadmControlPlane",
            "big-cp",
            Some(0),
            json!({"spec": {"version": "v1.36.1",
            "replicas": 3, "machineTemplate": {"spec": {"infrastructureRef": machine_ref("DockerMachineTemplate", "big-cp")}}}}),
        ),
        seed(CAPI, "MachineDeployment", "big-md", Some(0), json!({"spec": worker_spec(workers)})),
        template("big-cp"),
        template("big-md"),
        seed(KUBEADM, "KubeadmConfigTemplate", "big-md", Some(0), json!({"spec": {"template": {"spec": join()}}})),
        seed("v1", "ConfigMap", "cni", Some(1), json!({"data": {"cni.yaml": "x".repeat(1500)}})),
        seed(ADDONS, "ClusterResourceSetBinding", "big", Some(1), json!({"spec": {"clusterName": "big"}})),
    ];
    for name in ["cp", "md"] {
        let spec = json!({"spec": {"clusterName": "big", "selector": {"matchLabels": {"set": name}}}});
        second.push(seed(CAPI, "MachineHealthCheck", &format!("big-{name}"), Some(0), spec));
    }
    for name in ["ca", "etcd", "sa", "proxy", "kubeconfig"] {
        // The first four are known to be the Cluster's by their names alone.
        let owner = (name == "kubeconfig").then_some(0);
        second.push(secret(&format!("big-{name}"), owner));
    }
    second.push(secret("big-extra-0", Some(0)));
    second.push(secret("big-extra-1", Some(0)));
    let third = vec![seed(CAPI, "MachineSet", "big-md-1", Some(4), json!({"spec": worker_spec(workers)}))];
    let offset = first.len() + second.len();
    let mut machines = Vec::new();
    for (prefix, count, owner) in [("big-cp", 3, 3), ("big-md", workers, offset)] {
        machines.extend((0..count).map(|index| machine(&format!("{prefix}-{index}"), owner)));
    }
    let base = offset + third.len();
    let (mut parts, mut data) = (Vec::new(), Vec::new());
    for (index, machine) in machines.iter().enumerate() {
        let name = machine.object["metadata"]["name"].as_str().unwrap();
        let infra =
            json!({"spec": {"providerID": format!("docker:////{name}"), "customImage": "kindest/node:v1.36.1"}});
        parts.push(seed(KUBEADM, "KubeadmConfig", name, Some(base + index), json!({"spec": join()})));
        parts.push(guarded(
            seed(DOCKER, "DockerMachine", name, Some(base + index), infra),
            "dockermachine.infrastructure.cluster.x-k8s.io",
        ));
    }
    for (index, machine) in machines.iter().enumerate() {
        let name = machine.object["metadata"]["name"].as_str().unwrap();
        data.push(secret(name, Some(base + machines.len() + 2 * index)));
    }
    vec![first, second, third, machines, parts, data]
}

fn join() -> Value {
    json!({"joinConfiguration": {"nodeRegistration": {"name": "{{ ds.meta_data.local_hostname }}"}}})
}

fn worker_spec(workers: usize) -> Value {
    json!({"clusterName": "big", "replicas": workers, "selector": {"matchLabels": {"set": "md"}}, "template": {
        "metadata": {"labels": {"set": "md"}}, "spec": machine_spec("big-md", "DockerMachineTemplate", "KubeadmConfigTemplate")}})
}

fn machine_spec(name: &str, infrastructure: &str, config: &str) -> Value {
    json!({"clusterName": "big", "version": "v1.36.1", "infrastructureRef": machine_ref(infrastructure, name),
        "bootstrap": {"configRef": {"apiGroup": "bootstrap.cluster.x-k8s.io", "kind": config, "name": name}}})
}

fn machine_ref(kind: &str, name: &str) -> Value {
    json!({"apiGroup": "infrastructure.cluster.x-k8s.io", "kind": kind, "name": name})
}

fn machine(name: &str, owner: usize) -> Seed {
    let mut spec = machine_spec(name, "DockerMachine", "KubeadmConfig");
    spec["providerID"] = json!(format!("docker:////{name}"));
    let status = json!({"nodeRef": {"name": name}});
    let seed = seed(CAPI, "Machine", name, Some(owner), json!({"spec": spec}));
    guarded(Seed { status: Some(status), ..seed }, "machine.cluster.x-k8s.io")
}

fn secret(name: &str, owner: Option<usize>) -> Seed {
    seed(
        "v1",
        "Secret",
        name,
        owner,
        json!({"type": "cluster.x-k8s.io/secret", "stringData": {"value": "x".repeat(1500)}}),
    )
}

fn guarded(mut seed: Seed, finalizer: &str) -> Seed {
    seed.object["metadata"]["finalizers"] = json!([finalizer]);
    seed
}

fn seed(api_version: &str, kind: &str, name: &str, owner: Option<usize>, mut object: Value) -> Seed {
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["metadata"] =
        json!({"name": name, "namespace": "default", "labels": {"cluster.x-k8s.io/cluster-name": "big"}});
    Seed { object, owner, status: None }
}

/// Makes a Cluster with so many workers; returns how many objects there are.
pub async fn populate(cluster: &Cluster, workers: usize) -> usize {
    let mut owners: Vec<Value> = Vec::new();
    for group in seeds(workers) {
        let made: Vec<Value> = futures::stream::iter(group.into_iter().map(async |seed| {
            let owner = seed.owner.map(|index| owners[index].clone());
            make(cluster, seed, owner).await
        }))
        .buffered(16)
        .collect()
        .await;
        owners.extend(made);
    }
    owners.len()
}

/// Makes one object, and returns the reference that what it owns has to it.
async fn make(cluster: &Cluster, seed: Seed, owner: Option<Value>) -> Value {
    let mut object: DynamicObject = serde_json::from_value(seed.object).unwrap();
    object.metadata.owner_references = owner.map(|owner| vec![serde_json::from_value(owner).unwrap()]);
    let named = reference(&object);
    let api = cluster.api(&named.gvk(), named.namespace.as_deref()).await.unwrap();
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let made = api.create(&params, &object).await.unwrap_or_else(|error| panic!("{named}: {error}"));
    if let Some(status) = seed.status {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        api.patch_status(&named.name, &params, &Patch::Merge(json!({"status": status}))).await.unwrap();
    }
    let ObjectRef { api_version, kind, name, .. } = named;
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": made.metadata.uid, "controller": true,
        "blockOwnerDeletion": true})
}

/// Takes everything of Cluster API away.
pub async fn clear(cluster: &Cluster) {
    let found = cluster_init::capi::discover(cluster).await.unwrap();
    futures::stream::iter(found.objects().map(reference).filter(|name| name.namespace.as_deref() == Some("default")))
        .for_each_concurrent(16, async |name| {
            let _ = cluster.merge(&name, &json!({"metadata": {"finalizers": null}})).await;
            let _ = cluster.delete(&name, &kube::api::DeleteParams::default()).await;
        })
        .await;
}
