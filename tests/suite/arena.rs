//! Two API servers with Cluster API's definitions and none of its controllers, and pivots between them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cluster_init::bundle::Bundle;
use cluster_init::capi;
use cluster_init::clock::{Look, Wait};
use cluster_init::exec;
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, DynamicObject, ObjectRef, reference};
use serde_json::{Value, json};

use crate::{seed, support};

/// Workers of the Cluster that is moved.
pub const WORKERS: usize = 5;

/// The two, and where they are.
pub struct Arena {
    pub home: support::Home,
    pub clusters: [Cluster; 2],
    files: [String; 2],
}

impl Arena {
    pub async fn new() -> Self {
        let home = support::Home::new();
        let bundle = Bundle::open(&support::bundle(), &home.unpacked()).unwrap();
        let definitions = seed::definitions(&bundle);
        let mut clusters = Vec::new();
        let mut files = Vec::new();
        for name in ["left", "right"] {
            home.run(["local", "create", name]).await.ok();
            let text = home.run(["local", "kubeconfig", name]).await.ok().stdout;
            let cluster = Cluster::connect_text(name, &text, name).await.unwrap();
            seed::install(&cluster, &definitions).await;
            let file = home.path().join(name).display().to_string();
            fsx::write_private(Path::new(&file), text).unwrap();
            clusters.push(cluster);
            files.push(file);
        }
        Self { home, clusters: clusters.try_into().unwrap(), files: files.try_into().unwrap() }
    }

    pub fn pivot(&self, from: usize) -> exec::Command {
        let (source, target) = (&self.files[from], &self.files[1 - from]);
        self.home.command(["--output", "json", "pivot", "--kubeconfig", source, "--to-kubeconfig", target])
    }

    /// Runs a move to its end, whatever that is.
    pub async fn run(&self, from: usize) -> support::Ended {
        support::ended(self.pivot(from).run(Duration::from_mins(2)).await)
    }

    /// The same from another machine: with the two kubeconfigs, and without the journal.
    pub async fn run_elsewhere(&self, from: usize) -> support::Ended {
        let elsewhere = tempfile::tempdir().unwrap();
        let command = self.pivot(from).env("CLUSTER_INIT_HOME", elsewhere.path());
        support::ended(command.run(Duration::from_mins(2)).await)
    }

    /// Begins a move of what is [blocked](Self::block); returns when the Cluster is paused.
    pub async fn held(&self, from: usize, log: &Path) -> exec::Child {
        let child = self.pivot(from).spawn(log).unwrap();
        let cluster = ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Cluster", "default", "big");
        Wait::new("the pivot to pause the Cluster", Duration::from_secs(30))
            .until(async || {
                let paused = self.clusters[from].get(&cluster).await?.is_some_and(|o| o.data["spec"]["paused"] == true);
                Ok(if paused { Look::Ready(()) } else { Look::Pending("it is not paused".into()) })
            })
            .await
            .unwrap();
        child
    }

    /// Makes a Machine ask not to be moved, or not ask for it any more.
    pub async fn block(&self, from: usize, blocked: bool) {
        let machine = ObjectRef::namespaced("cluster.x-k8s.io/v1beta2", "Machine", "default", "big-md-1");
        let patch =
            json!({"metadata": {"annotations": {"clusterctl.cluster.x-k8s.io/block-move": blocked.then_some("")}}});
        self.clusters[from].merge(&machine, &patch).await.unwrap();
    }

    /// Takes both clusters away.
    pub async fn end(self) {
        for name in ["left", "right"] {
            self.home.run(["local", "delete", name, "--force"]).await.ok();
        }
    }

    /// Moves everything undisturbed, and returns how many writes it took.
    pub async fn move_from(&self, from: usize) -> u64 {
        let ended = self.run(from).await.ok();
        let report = ended.stdout.lines().last().unwrap();
        serde_json::from_str::<Value>(report).unwrap()["writes"].as_u64().unwrap()
    }

    /// Kills a move at one write; whether that write came at all.
    pub async fn kill(&self, from: usize, at: &str) -> bool {
        let log = self.home.path().join("killed.log");
        let mut child = self.pivot(from).env("CLUSTER_INIT_CRASH_AT", at).spawn(&log).unwrap();
        let status = tokio::time::timeout(Duration::from_mins(2), child.wait()).await.unwrap().unwrap();
        !status.success()
    }
}

/// What a move must keep of every object of a cluster, free of what differs between clusters.
pub async fn state(cluster: &Cluster) -> BTreeMap<ObjectRef, Value> {
    let found = capi::discover(cluster).await.unwrap();
    let ours = |object: &&DynamicObject| {
        // The record of the pivot, and what every cluster has.
        !matches!(object.metadata.name.as_deref(), Some("cluster-init-pivot" | "kube-root-ca.crt"))
            && object.metadata.namespace.as_deref() == Some("default")
    };
    found.objects().filter(ours).map(|object| (reference(object), essence(object))).collect()
}

fn essence(object: &DynamicObject) -> Value {
    let mut value = object.data.clone();
    let metadata = &object.metadata;
    let owners: Vec<Value> = metadata
        .owner_references
        .iter()
        .flatten()
        .map(|owner| json!([owner.kind, owner.name, owner.controller, owner.block_owner_deletion]))
        .collect();
    let managers: Vec<_> = metadata.managed_fields.iter().flatten().map(|m| (&m.manager, &m.subresource)).collect();
    let managers: Vec<_> = managers.into_iter().filter(|(_, subresource)| subresource.is_none()).collect();
    value["metadata"] = json!({"labels": metadata.labels, "annotations": metadata.annotations.clone().unwrap_or_default(),
        "finalizers": metadata.finalizers, "owners": owners, "managers": managers,
        "deleted": metadata.deletion_timestamp.is_some()});
    value
}
