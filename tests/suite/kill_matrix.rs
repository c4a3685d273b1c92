//! The pivot, killed just before and just after every single write: nothing may be lost, nothing may be there twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cluster_init::bundle::Bundle;
use cluster_init::capi;
use cluster_init::exec;
use cluster_init::fsx;
use cluster_init::k8s::{Cluster, DynamicObject, ObjectRef, reference};
use serde_json::{Value, json};

use crate::{seed, support};

/// Workers of the Cluster that is moved.
const WORKERS: usize = 5;

/// Two API servers without controllers, and where they are.
struct Arena {
    home: support::Home,
    clusters: [Cluster; 2],
    files: [String; 2],
}

/// What the matrix found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    writes: u64,
    kills: usize,
    recovered: usize,
    lost: usize,
    doubled: usize,
}

impl Arena {
    async fn new() -> Self {
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

    fn pivot(&self, from: usize) -> exec::Command {
        let (source, target) = (&self.files[from], &self.files[1 - from]);
        self.home.command(["--output", "json", "pivot", "--kubeconfig", source, "--to-kubeconfig", target])
    }

    /// Moves everything undisturbed, and returns how many writes it took.
    async fn move_from(&self, from: usize) -> u64 {
        let ended = support::ended(self.pivot(from).run(Duration::from_mins(2)).await).ok();
        seed::restore_status(&self.clusters[1 - from], WORKERS).await;
        let report = ended.stdout.lines().last().unwrap();
        serde_json::from_str::<Value>(report).unwrap()["writes"].as_u64().unwrap()
    }

    /// Kills a move at one write; whether that write came at all.
    async fn kill(&self, from: usize, write: u64, side: &str) -> bool {
        let at = format!("write:{write}:{side}");
        let log = self.home.path().join("killed.log");
        let mut child = self.pivot(from).env("CLUSTER_INIT_CRASH_AT", at).spawn(&log).unwrap();
        let status = tokio::time::timeout(Duration::from_mins(2), child.wait()).await.unwrap().unwrap();
        !status.success()
    }
}

/// What a move must keep of every object of a cluster, free of what differs between clusters.
async fn state(cluster: &Cluster) -> BTreeMap<ObjectRef, Value> {
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
    value.as_object_mut().unwrap().remove("status");
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

/// Kills at the given writes, before and after, and compares with a run that nobody disturbed.
async fn matrix(step: usize) -> Tally {
    let arena = Arena::new().await;
    let objects = seed::populate(&arena.clusters[0], WORKERS).await;
    let expected = state(&arena.clusters[0]).await;
    assert_eq!(expected.len(), objects);
    let writes = arena.move_from(0).await;
    assert_eq!(state(&arena.clusters[1]).await, expected, "an undisturbed move changes nothing");
    assert_eq!(state(&arena.clusters[0]).await.len(), 0);
    let mut tally = Tally { writes, ..Tally::default() };
    let mut from = 1;
    for write in (1..=writes).step_by(step) {
        for side in ["before", "after"] {
            let killed = arena.kill(from, write, side).await;
            assert!(killed, "write {write} of {writes} did not come");
            tally.kills += 1;
            let (source, target) = (state(&arena.clusters[from]).await, state(&arena.clusters[1 - from]).await);
            let there = |name: &&ObjectRef| source.contains_key(*name) || target.contains_key(*name);
            tally.lost += expected.keys().filter(|name| !there(name)).count();
            let again = support::ended(arena.pivot(from).run(Duration::from_mins(2)).await);
            assert_eq!(again.code, 0, "after a kill {side} write {write}:\n{}", again.stderr);
            let (source, target) = (state(&arena.clusters[from]).await, state(&arena.clusters[1 - from]).await);
            for (name, wanted) in &expected {
                assert_eq!(target.get(name), Some(wanted), "{name} after a kill {side} write {write}");
            }
            tally.doubled += target.len() - expected.len() + source.len();
            tally.recovered += 1;
            seed::restore_status(&arena.clusters[1 - from], WORKERS).await;
            from = 1 - from;
        }
        progress(&tally);
    }
    for name in ["left", "right"] {
        arena.home.run(["local", "delete", name, "--force"]).await.ok();
    }
    tally
}

#[allow(clippy::print_stderr, reason = "a long test that a person watches")]
fn progress(tally: &Tally) {
    let Tally { writes, kills, recovered, lost, doubled } = tally;
    eprintln!("writes {writes}, kills {kills}, recovered {recovered}, lost {lost}, doubled {doubled}");
}

/// A sample for every day; see `tools/kill-matrix` for all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pivot_killed_at_some_writes_recovers() {
    let tally = matrix(37).await;
    assert!(tally.kills > 4, "{tally:?}");
    assert_eq!((tally.recovered, tally.lost, tally.doubled), (tally.kills, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tools/kill-matrix"]
async fn a_pivot_killed_at_every_write_recovers() {
    let tally = matrix(1).await;
    assert_eq!(tally.kills as u64, 2 * tally.writes);
    assert_eq!((tally.recovered, tally.lost, tally.doubled), (tally.kills, 0, 0));
}
